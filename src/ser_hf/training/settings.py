"""The flags of the recipes: a dataclass for each concern, and for each kind of recipe a dataclass of its concerns."""

import ast
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.columns import Columns, flag
from ..evaluation import CLASSES, LABELS, VALUES

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..data.augmentation import Augmentation

PACKAGE = Path(__file__).parents[1]
TASKS = (CLASSES, LABELS, VALUES)


@cache
def names_in(file: str, variable: str) -> tuple[str, ...]:
    """The entries of a tuple, or the keys of a dict, in a module of this package, without an import of it: the modules
    of poolings and losses import torch, and `--help` must not.

    >>> names_in("models/configuration_ser.py", "HEADS")
    ('linear', 'mlp')
    """
    for node in ast.parse((PACKAGE / file).read_text()).body:
        if isinstance(node, ast.Assign) and variable in [getattr(target, "id", None) for target in node.targets]:
            literal = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
            return tuple(ast.literal_eval(entry) for entry in literal)
    raise LookupError(f"{file} defines no {variable}")


_of_windows = partial(flag, only_with=("window_seconds", ()))
_of_trained = partial(flag, only_with=("freeze_encoder", (False,)))
_of_frozen = partial(flag, only_with=("freeze_encoder", (True,)))
_of_mix = partial(flag, only_with=("layer_mix", ("sum", "concat")))
_of_lora = partial(flag, only_with=("lora_r", ()))
_of_vectors = partial(flag, only_with=("fusion", ("concat", "gated")))
_of_new = partial(flag, only_with=("model_name_or_path", (None,)))  # a checkpoint brings its own network and features
POOLINGS = names_in("models/pooling.py", "POOLINGS")
VECTOR_POOLINGS = tuple(name for name in POOLINGS if name != "attentive")  # those without weights
HEADS = names_in("models/configuration_ser.py", "HEADS")
LAYER_MIXES = names_in("models/configuration_ser.py", "LAYER_MIXES")
CONTEXTS = names_in("models/configuration_ser.py", "CONTEXTS")
FUSIONS = names_in("models/configuration_fusion.py", "FUSIONS")
TEXT_POOLINGS = names_in("models/pooling.py", "TEXT_POOLINGS")
ARCHS = names_in("models/configuration_spectrogram.py", "WIDTHS")
CLEANINGS = names_in("models/text_cleaning.py", "TEXT_CLEANING")
FEATURE_SETS = names_in("models/functionals.py", "FEATURE_SETS")
CLASSIFIERS = names_in("models/functionals.py", "CLASSIFIERS")
LOSSES = names_in("training/losses.py", "LOSSES")
COMBINATIONS = ("mean", "max", "vote", "attention")


@dataclass(frozen=True)
class DataArguments:
    """The corpus and its split."""

    dataset: str = flag("", "Corpus of loading_scripts/, folder, Hub dataset user/name, or several a+b+c to mix.")
    test_on: str | None = flag(None, "With a+b+c: the corpus to split and test; the others only add to train.")
    add_labels: list[str] | None = flag(None, "Labels that the other corpora add; all if unset.")
    data_dir: str | None = flag(None, "Folder of the corpus; searched under $SER_DATA_DIR if unset.")
    labels: str | None = flag(None, "Label set of the corpus, such as 4class; the corpus's default if unset.")
    protocol: str | None = flag(None, "Way to split; the corpus's speaker-independent default if unset.")
    fold: int = flag(0, "Fold of the protocol, from 0.", least=0, most=10**6)
    validation_fraction: float = flag(0.2, "Fraction of train that is validation, whole speakers.", least=0, below=1)
    split_seed: int = flag(42, "Seed that draws the validation speakers; not the training seed.", least=0)
    train_speakers: float | None = flag(None, "Train on this share of the training speakers.", above=0, most=1)
    num_proc: int | None = flag(None, "Processes that scan the corpus the first time.", least=1, most=256)
    strict: bool = flag(False, "Stop if files are missing or unusable, instead of reporting them.")


@dataclass(frozen=True)
class ClipArguments:
    """The part of a clip that is read."""

    trim_db: float | None = flag(None, "Trim both ends this many dB below the clip's loudest frame.", above=0)
    min_seconds: float = flag(0.0, "Zero-pad shorter clips to this length in seconds.", least=0)
    max_seconds: float | None = flag(None, "Crop longer clips (seconds): centre; random in training.", above=0)


@dataclass(frozen=True)
class WindowArguments:
    """Windows."""

    window_seconds: float | None = flag(None, "Cut utterances into windows of this length in seconds.", above=0)
    window_hop: float | None = _of_windows(None, "Seconds between window starts; half a window if unset.", above=0)
    window_last: str = _of_windows(
        "pad", "What to do with the rest after the last window.", choices=("pad", "drop", "shift")
    )
    combine: str = _of_windows("mean", "How to combine window scores to one per utterance.", choices=COMBINATIONS)

    @property
    def hop(self) -> float | None:
        """Seconds between window starts, None without windows."""
        return self.window_hop or (self.window_seconds and self.window_seconds / 2)


@dataclass(frozen=True)
class EncoderArguments:
    """The speech encoder that is fine-tuned."""

    model_name_or_path: str | None = flag(None, "Pretrained encoder or fine-tuned model: Hub id or folder.")
    model_type: str | None = flag(None, "Train a random encoder of this type instead (wav2vec2, hubert, whisper).")
    config_overrides: str | None = flag(None, 'Changes to the encoder\'s configuration as JSON: {"layerdrop": 0}.')
    freeze_encoder: bool = flag(False, "Train the head alone, on cached hidden states: a probe.")
    speed_copies: list[float] | None = _of_frozen(
        None, "Train on copies of each clip at these speeds too: of other voices.", above=0
    )
    speaker_norm: bool | None = _of_frozen(None, "Subtract each speaker's mean, in test too. Known speakers only.")
    freeze_layers: int | None = _of_trained(
        None, "Freeze the first N transformer layers and all before; cached if nothing is random.", least=1
    )
    freeze_feature_encoder: bool | None = _of_trained(None, "Freeze the convolutions; if unset: frozen if pretrained.")
    context: str = flag("clip", "full: Whisper reads 30 s, as its stock class does.", choices=CONTEXTS)
    mask_time_prob: float | None = _of_trained(
        None, "SpecAugment: masked fraction of encoder frames (Whisper: of log-mel frames).", least=0, most=1
    )
    mask_time_length: int | None = _of_trained(
        None, "Length of such a mask in frames (20 ms, log-mel 10).", least=1, most=2**20
    )
    mask_feature_prob: float | None = _of_trained(
        None, "SpecAugment: masked fraction of dimensions (Whisper: of mel bands).", least=0, most=1
    )
    mask_feature_length: int | None = _of_trained(None, "Width of such a mask in dimensions.", least=1, most=2**20)
    trust_remote_code: bool = flag(False, "Run code that comes with the checkpoint.")


@dataclass(frozen=True)
class HeadArguments:
    """The head over the encoder."""

    pooling: str = flag("mean", "Pooling of frames; mean with --head linear is a stock class.", choices=POOLINGS)
    head: str = flag("linear", "linear: project, pool, classify. mlp: pool, dense, tanh, project.", choices=HEADS)
    head_size: int = flag(
        256, "Width of the linear head's projection.", least=1, most=65536, only_with=("head", ("linear",))
    )
    layer_mix: str = flag("last", "sum: a learned, layer-weighted sum. concat: side by side.", choices=LAYER_MIXES)
    layers: list[int] | None = _of_mix(None, "Hidden states that are read, 0 before the first layer; all if unset.")


@dataclass(frozen=True)
class LoraArguments:
    """LoRA (Hu et al. 2021): low-rank adapters are trained in place of the encoder."""

    lora_r: int = flag(0, "Rank of LoRA adapters; 0 trains the weights themselves.", least=0, most=65536)
    lora_alpha: int = _of_lora(16, "Adapters are scaled by lora_alpha / lora_r.", least=1)
    lora_dropout: float = _of_lora(0.05, "Dropout before the adapters.", least=0, below=1)
    lora_target: list[str] | None = _of_lora(None, "Names of adapted layers; queries and values if unset.")


@dataclass(frozen=True)
class TuningArguments:
    """Learning rates of the model's parts."""

    head_learning_rate: float | None = _of_trained(None, "Rate of the new head; --learning_rate if unset.", above=0)
    layer_lr_decay: float | None = _of_trained(
        None, "Layer l of L learns at --learning_rate times this to the power L - l.", above=0, below=1
    )


@dataclass(frozen=True)
class TextArguments:
    """The text that is read."""

    max_text_length: int = flag(64, "Longest text in tokens; the rest is cut off.", least=3, most=2**20)
    text_cleaning: str = flag("unicode", "unicode: normal forms. words: also no punctuation.", choices=CLEANINGS)


@dataclass(frozen=True)
class TextEncoderArguments:
    """The text model that is fine-tuned."""

    model_name_or_path: str | None = flag(None, "Pretrained text model: Hub id or folder.")
    model_type: str | None = flag(None, "Train a random model (bert, roberta, distilbert) and a tokenizer instead.")
    config_overrides: str | None = flag(None, 'Changes to the configuration as JSON: {"num_hidden_layers": 2}.')
    trust_remote_code: bool = flag(False, "Run code that comes with the checkpoint.")


@dataclass(frozen=True)
class FusionArguments:
    """The two encoders and their fusion."""

    audio_model: str | None = flag(None, "Audio encoder: Hub id or folder; {fold} and {seed} stand for the run's.")
    text_model: str | None = flag(None, "Text encoder, likewise.")
    model_name_or_path: str | None = flag(None, "Trained fusion model to score, with --do_train false.")
    fusion: str = flag("concat", "Fusion of the two.", choices=FUSIONS)
    pooling: str | None = _of_vectors(None, "Pooling of audio frames; the checkpoint's if unset.", choices=POOLINGS)
    text_pooling: str = _of_vectors("mean", "Pooling of tokens; first is BERT's [CLS].", choices=TEXT_POOLINGS)
    use_weighted_layer_sum: bool = flag(False, "Learn a layer-weighted sum of each encoder's hidden states.")
    head_size: int = flag(256, "Width of the fused vector.", least=1, most=65536)
    head_dropout: float = flag(0.1, "Dropout of the head.", least=0, below=1)
    modality_dropout: float = flag(0.1, "Fraction of train that loses its audio or its text.", least=0, below=1)
    freeze_encoders: bool = flag(True, "Train the head alone, on cached hidden states; false trains everything.")
    trust_remote_code: bool = flag(False, "Run code that comes with the checkpoints.")


@dataclass(frozen=True)
class NetworkArguments:
    """The network over spectrograms."""

    model_name_or_path: str | None = flag(None, "Trained spectrogram model, with its features: Hub id or folder.")
    arch: str = _of_new("cnn2d_6", "Architecture.", choices=ARCHS)
    imagenet: bool = _of_new(False, "Start from ImageNet weights of the Hub (resnet50, resnext50, densenet201).")
    reduce: str | None = _of_new(None, "cnn1d: read the mean over this axis.", choices=("time", "frequency"))
    pooling: str = _of_new("mean", "Pooling of frames to one vector.", choices=POOLINGS)
    dropout: float = _of_new(0.3, "Dropout before the last layer.", least=0, below=1)


@dataclass(frozen=True)
class FeatureArguments:
    """The features that the network reads."""

    features: str | None = _of_new(None, "Features; mfcc for cnn1d, else mel, if unset.", choices=("mel", "mfcc"))
    sampling_rate: int = _of_new(8000, "Rate in Hz to which clips are resampled.", least=1, most=384000)
    n_mels: int = _of_new(128, "Mel bands, up to half the rate.", least=1, most=4096)
    n_mfcc: int = _of_new(40, "MFCC coefficients.", least=1, most=4096)
    n_fft: int = _of_new(1024, "Length of the Fourier transform in samples.", least=1, most=2**20)
    win_length: int = _of_new(512, "Length of its Hamming window in samples.", least=1, most=2**20)
    hop_length: int = _of_new(100, "Samples from one frame to the next.", least=1, most=2**20)
    normalize: str = _of_new("none", "clip: each clip to zero mean and unit variance.", choices=("none", "clip"))
    speaker_norm: bool | None = flag(None, "Subtract each speaker's mean spectrum, in test too. Known speakers only.")


@dataclass(frozen=True)
class VectorArguments:
    """The vector of a clip that is classified."""

    model_name_or_path: str | None = flag(None, "Trained model to score, with --do_train false: Hub id or folder.")
    features: str = _of_new(
        FEATURE_SETS[0], f"openSMILE's {' or '.join(FEATURE_SETS)}, or an encoder that is frozen: Hub id or folder."
    )
    layers: list[int] | None = _of_new(None, "Hidden states of the encoder, 0 before the first layer; all if unset.")
    pooling: str | None = _of_new(None, "Pooling of the encoder's frames; mean if unset.", choices=VECTOR_POOLINGS)
    trim_db: float | None = _of_new(None, "Whisper: trim both ends this many dB below the loudest frame.", above=0)
    speed_copies: list[float] | None = _of_new(
        None, "Fit copies of each clip at these speeds too: of other voices. For an encoder.", above=0
    )
    speaker_norm: bool | None = flag(None, "Standardise by speaker first, in test too. Known speakers only.")
    estimate_speakers: bool = flag(
        False,
        "Test speakers are unknown: estimate which test clips share one. For an encoder.",
        only_with=("speaker_norm", (True,)),
    )


@dataclass(frozen=True)
class ClassifierArguments:
    """The linear classifier."""

    classifier: str = _of_new(
        "svm", "svm: one against rest. logistic: multinomial. ridge: least squares.", choices=CLASSIFIERS
    )
    class_weights: str = _of_new("none", "Weigh classes by inverse frequency in train.", choices=("none", "balanced"))


@dataclass(frozen=True)
class LossArguments:
    """The loss."""

    loss: str | None = flag(None, "Loss; cross_entropy, bce or mse if unset.", choices=LOSSES)
    class_weights: str = flag("none", "Weigh classes by inverse frequency in train.", choices=("none", "balanced"))
    focal_gamma: float = flag(2.0, "Exponent of the focal loss.", least=0, only_with=("loss", ("focal",)))
    ccc_weight: float = flag(0.5, "Share of 1 - CCC.", least=0, most=1, only_with=("loss", ("ccc_mse",)))


@dataclass(frozen=True)
class SamplingArguments:
    """The training utterances that are drawn, and their labels."""

    sampling: str = flag("none", "Draw each class, or speaker, equally often.", choices=("none", "class", "speaker"))
    soft_labels: bool = flag(False, "Train on the raters' votes, where the corpus has them.")


@dataclass(frozen=True)
class BatchArguments:
    """Batches."""

    batch_seconds: float = flag(36.0, "Padded seconds of audio per batch; 0: a fixed number of clips.", least=0)

    @property
    def budget(self) -> float | None:
        """Padded length of a batch; None for a fixed number."""
        return self.batch_seconds or None


@dataclass(frozen=True)
class TokenBatchArguments:
    """Batches."""

    batch_tokens: int = flag(2048, "Padded tokens per batch; 0: a fixed number of texts.", least=0)

    @property
    def budget(self) -> float | None:
        """Padded length of a batch; None for a fixed number."""
        return self.batch_tokens or None


@dataclass(frozen=True)
class ScheduleArguments:
    """The learning rate and the end of training."""

    one_cycle: bool = flag(False, "One cycle of the learning rate (Smith 2018) that peaks at --learning_rate.")
    early_stopping_patience: int | None = flag(None, "Stop after so many evaluations without progress.", least=1)


@dataclass(frozen=True)
class LoopArguments:
    """The training loop."""

    profile: bool = flag(
        False, "Trace three steps into profile.json.gz, for ui.perfetto.dev.", only_with=("do_train", (True,))
    )


@dataclass(frozen=True)
class FigureArguments:
    """Figures of the training data."""

    draw_augmentation: bool = flag(False, "Draw the effect of augmentation on a clip into figures/.")


@dataclass(frozen=True)
class RunArguments:
    """The run."""

    thresholds: list[float] | None = flag(None, "Report values also as present or absent at these thresholds.")
    stress: bool = flag(False, "Also score test with noise, codecs and small changes, and by groups of speakers.")
    overwrite_output_dir: bool = flag(False, "Start anew in a folder that holds a run.")
    config: str | None = flag(None, "YAML of flags; none: no YAML; recipes/configs/<dataset>_<system>.yaml if unset.")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The concerns of every recipe. `overrides` are all flags set by our defaults, the YAML or the command line."""

    data: DataArguments
    columns: Columns
    run: RunArguments
    training: "TrainingArguments"
    overrides: dict[str, Any]

    @property
    def checkpoints(self) -> dict[str, str]:
        """The checkpoints that the flags name, by flag."""
        concerns = [vars(concern) for concern in vars(self).values() if is_dataclass(concern)]
        return {flag: name for values in concerns for flag in CHECKPOINTS if (name := values.get(flag))}


@dataclass(frozen=True, kw_only=True)
class AudioRegressionSettings(Settings):
    """A speech encoder under a head, for values or several labels."""

    loss: LossArguments
    clips: ClipArguments
    windows: WindowArguments
    encoder: EncoderArguments
    head: HeadArguments
    lora: LoraArguments
    tuning: TuningArguments
    batches: BatchArguments
    schedule: ScheduleArguments
    loop: LoopArguments
    figures: FigureArguments
    augmentation: "Augmentation"


@dataclass(frozen=True, kw_only=True)
class AudioSettings(AudioRegressionSettings):
    """A speech encoder under a head, for classes."""

    sampling: SamplingArguments


@dataclass(frozen=True, kw_only=True)
class SpectrogramSettings(Settings):
    """A network over spectrograms."""

    loss: LossArguments
    clips: ClipArguments
    windows: WindowArguments
    network: NetworkArguments
    features: FeatureArguments
    sampling: SamplingArguments
    batches: BatchArguments
    schedule: ScheduleArguments
    loop: LoopArguments
    figures: FigureArguments
    augmentation: "Augmentation"


@dataclass(frozen=True, kw_only=True)
class ClassicalSettings(Settings):
    """A linear classifier of one vector per clip."""

    vectors: VectorArguments
    classifier: ClassifierArguments

    @property
    def checkpoints(self) -> dict[str, str]:
        """The checkpoints that the flags name, by flag: `--features` too, unless it is openSMILE's."""
        features = {} if self.vectors.features in FEATURE_SETS else {"features": self.vectors.features}
        return super().checkpoints | features


@dataclass(frozen=True, kw_only=True)
class TextSettings(Settings):
    """A text model."""

    loss: LossArguments
    encoder: TextEncoderArguments
    text: TextArguments
    lora: LoraArguments
    sampling: SamplingArguments
    batches: TokenBatchArguments
    loop: LoopArguments


@dataclass(frozen=True, kw_only=True)
class FusionSettings(Settings):
    """An audio and a text encoder, fused."""

    loss: LossArguments
    clips: ClipArguments
    fusion: FusionArguments
    text: TextArguments
    lora: LoraArguments
    sampling: SamplingArguments
    batches: BatchArguments
    loop: LoopArguments


# The flags of TrainingArguments that mean something where scikit-learn fits a classifier.
FITTING_FLAGS = ("output_dir", "do_train", "seed", "use_cpu", "disable_tqdm")
FITTING_FLAGS += ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision")
# The flags that name checkpoints.
CHECKPOINTS = ("model_name_or_path", "audio_model", "text_model")
# The flags that may name one.
MAYBE_CHECKPOINTS = (*CHECKPOINTS, "features")
# Flags that may be published. Numbers, switches and flags with `choices` always may; of the other flags, these may:
# folders, of which the last part is published, or names of something public;
PUBLIC_SOURCES = (*MAYBE_CHECKPOINTS, "dataset", "test_on", "reverb_dir", "noise_dir")
# and texts, which are published as they are. A flag that is not here names a file, a machine or an account.
PUBLIC_TEXTS = ("labels", "add_labels", "protocol", "model_type", "config_overrides", "lora_target")
PUBLIC_TEXTS += ("lr_scheduler_type", "lr_scheduler_kwargs", "optim", "optim_args", "optim_target_modules")
PUBLIC_TEXTS += ("eval_strategy", "save_strategy", "logging_strategy", "metric_for_best_model", "report_to", "fsdp")
PUBLIC_TEXTS += ("gradient_checkpointing_kwargs", "torch_compile_backend", "torch_compile_mode")
PUBLIC_TEXTS += tuple(Columns.__dataclass_fields__)
# Flags of TrainingArguments that change the embeddings of tokens; a model of audio alone has none.
OF_TOKENS = ("neftune_noise_alpha",)
# Those that are JSON, and whether they may be a file of JSON.
JSON_FLAGS = {"accelerator_config": True, "deepspeed": True, "fsdp_config": True}
JSON_FLAGS |= dict.fromkeys(("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"), False)
JSON_FLAGS |= {"activation_checkpointing_kwargs": False}
# Flags of which the first must not be above the second.
ORDERED = (("min_seconds", "max_seconds"), ("win_length", "n_fft"))
# Ranges, as of `columns.flag`, which TrainingArguments does not check itself.
_COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_COUNTS += ("eval_accumulation_steps", "save_total_limit", "dataloader_prefetch_factor", "torch_empty_cache_steps")
_COUNTS += ("ddp_timeout", "ddp_bucket_cap_mb")
TRAINING_LIMITS: dict[str, dict[str, float]] = {
    **dict.fromkeys(_COUNTS, {"least": 1}),
    **dict.fromkeys(("learning_rate", "num_train_epochs", "adam_epsilon", "neftune_noise_alpha"), {"above": 0}),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), {"above": 0}),
    **dict.fromkeys(("warmup_steps", "weight_decay", "max_grad_norm", "eval_delay"), {"least": 0}),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), {"least": 0, "below": 1}),
    **dict.fromkeys(("seed", "data_seed"), {"least": 0, "most": 2**32 - 1}),
    "max_steps": {"least": -1},
    "dataloader_num_workers": {"least": 0, "most": 256},
}
# Where these recipes differ from transformers' TrainingArguments.
TRAINING_DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,  # the best and the last
    "load_best_model_at_end": True,
    "learning_rate": 3e-5,
    "warmup_steps": 0.1,  # of all steps
    "num_train_epochs": 15,
    "logging_strategy": "epoch",
    "logging_nan_inf_filter": False,  # a loss that is not finite stops the run
    "remove_unused_columns": False,  # the collator reads columns the model does not know
    "do_train": True,
}

# For a head alone, over a frozen encoder.
PROBE_DEFAULTS = {
    "learning_rate": 1e-3,
    "num_train_epochs": 30,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
}


def choice_flags() -> set[str]:
    """The flags whose values are `choices`."""
    concerns = [kind for kind in globals().values() if is_dataclass(kind)]
    return {entry.name for kind in concerns for entry in fields(kind) if entry.metadata.get("choices")}


@dataclass(frozen=True)
class System:
    """What a recipe trains; each recipe exports one as `SYSTEM`."""

    name: str  # as in `recipes/configs/<dataset>_<name>.yaml` and `runs/<dataset>_<name>...`
    settings: type[Settings]  # the concerns of the recipe, whose fields are its flags
    tasks: tuple[str, ...] = TASKS  # the problem types that it learns
    # Defaults of TrainingArguments that differ from `TRAINING_DEFAULTS`; others by `(flag, value)` of another flag.
    defaults: dict[str, Any] = field(default_factory=dict)
    defaults_with: dict[tuple[str, Any], dict[str, Any]] = field(default_factory=dict)
    checkpoint: str | None = None  # the default if neither a checkpoint nor `--model_type` is named; None: random
    training_flags: tuple[str, ...] | None = None  # the flags of TrainingArguments that it has; None: all

    @property
    def reads_audio(self) -> bool:
        """Whether every utterance must have audio."""
        return not {"clips", "vectors"}.isdisjoint(self.settings.__dataclass_fields__)

    @property
    def training_defaults(self) -> dict[str, Any]:
        """Defaults of TrainingArguments that are not transformers' own."""
        defaults = TRAINING_DEFAULTS | self.defaults
        allowed = defaults if self.training_flags is None else self.training_flags
        return {name: value for name, value in defaults.items() if name in allowed}
