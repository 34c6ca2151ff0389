"""The flags of every recipe, as dataclasses; their help texts are what `--help` prints."""

from dataclasses import dataclass, field
from typing import Literal

Arch = Literal["cnn1d_3", "cnn1d_5", "cnn1d_8", "cnn2d_2", "cnn2d_6", "cnn_lstm", "cnn_lstm_attention",
               "alexnet", "resnet50", "densenet201", "resnext50"]  # fmt: skip
Loss = Literal["cross_entropy", "focal", "bce", "mse", "l1", "ccc", "ccc_mse"]
Cleaning = Literal["none", "unicode", "words"]


@dataclass
class DataArguments:
    """What is learned from."""

    dataset: str = field(
        default="",
        metadata={
            "help": "A corpus (a file of loading_scripts/), a folder with a metadata.csv, a Hub dataset user/name, or "
            "several corpora a+b+c of which --test_on is split and the others add to train."
        },
    )
    test_on: str | None = field(default=None, metadata={"help": "Of several corpora, the one that is tested."})
    add_labels: list[str] | None = field(
        default=None, metadata={"help": "Of several corpora, take only these labels from those that add to train."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "The corpus's folder. Without it the corpus is looked for under $SER_DATA_DIR."}
    )
    labels: str | None = field(
        default=None, metadata={"help": "Label configuration of the corpus, such as 4class; its default otherwise."}
    )
    protocol: str | None = field(
        default=None, metadata={"help": "How to split; the corpus's default, which is speaker-independent, otherwise."}
    )
    fold: int = field(default=0, metadata={"help": "Fold of the protocol, from 0."})
    validation_fraction: float = field(
        default=0.2, metadata={"help": "Part of train that becomes validation, as whole speakers; 0 for none."}
    )
    split_seed: int = field(default=42, metadata={"help": "Chooses validation speakers; not the training seed."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes that scan the corpus the first time."})
    strict: bool = field(
        default=False, metadata={"help": "Stop when files are missing or unusable instead of reporting it."}
    )


@dataclass
class ClipArguments(DataArguments):
    """What is learned from, with audio."""

    trim_db: float | None = field(
        default=None, metadata={"help": "Cut silence at both ends, this many dB below the clip's own loudest."}
    )
    min_seconds: float = field(default=0.0, metadata={"help": "Shorter clips get zeros behind."})
    max_seconds: float | None = field(
        default=None, metadata={"help": "Of longer clips the middle; in training of audio alone a stretch at random."}
    )


@dataclass
class WindowArguments(ClipArguments):
    """What is learned from, with audio that may be cut into windows."""

    window_seconds: float | None = field(
        default=None, metadata={"help": "Cut utterances into windows of this length; reported before and after."}
    )
    window_hop: float | None = field(
        default=None, metadata={"help": "From one window's start to the next; half a window without it."}
    )
    window_last: Literal["pad", "drop", "shift"] = field(
        default="pad", metadata={"help": "The audio behind the last whole window: a shorter one, none, or one more."}
    )
    combine: Literal["mean", "max", "vote", "attention"] = field(
        default="mean", metadata={"help": "Scores of windows to the score of their utterance."}
    )


@dataclass
class LoraArguments:
    """Low-rank adapters (Hu et al. 2021) in place of training the whole encoder."""

    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA adapters; 0 trains the weights themselves."})
    lora_alpha: int = field(default=16, metadata={"help": "Adapters are scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout in front of the adapters."})
    lora_target: list[str] | None = field(
        default=None, metadata={"help": "Names of the layers that get adapters; the attention's projections otherwise."}
    )


@dataclass
class AudioArguments(LoraArguments):
    """What is fine-tuned."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Pretrained encoder: a Hub id or a folder. facebook/wav2vec2-base if nothing else is said."},
    )
    model_type: str | None = field(
        default=None, metadata={"help": "Instead: train a random encoder of this type (wav2vec2, hubert, wavlm)."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": 'JSON changes to the encoder\'s configuration, such as {"layerdrop": 0}.'}
    )
    pooling: Literal["mean", "max", "meanmax", "attentive"] = field(
        default="mean", metadata={"help": "Frames to one vector. Mean-pooled models are published as stock classes."}
    )
    head: Literal["linear", "mlp"] = field(
        default="linear", metadata={"help": "linear: project, pool, classify. mlp: pool, dense, tanh, project (soxan)."}
    )
    head_size: int = field(default=256, metadata={"help": "Width of the linear head's projection."})
    use_weighted_layer_sum: bool = field(default=False, metadata={"help": "Learn a weighted sum of all layers."})
    freeze_feature_encoder: bool | None = field(
        default=None,
        metadata={"help": "Do not train the convolutions. Without it: frozen if pretrained, trained if random."},
    )
    mask_time_prob: float | None = field(
        default=None,
        metadata={"help": "SpecAugment on the encoder's frames: part that is masked; its own if unset."},
    )
    mask_time_length: int | None = field(default=None, metadata={"help": "Frames of such a mask (20 ms each)."})
    mask_feature_prob: float | None = field(
        default=None, metadata={"help": "The same over the encoder's features (hidden dimensions)."}
    )
    mask_feature_length: int | None = field(default=None, metadata={"help": "Features of such a mask."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the checkpoint."})


@dataclass
class TextInputArguments(LoraArguments):
    """What a text encoder reads of a transcript."""

    max_text_length: int = field(default=64, metadata={"help": "Longest text in tokens; the rest is cut off."})
    text_cleaning: Cleaning = field(
        default="unicode",
        metadata={"help": "unicode: normal forms, plain quotes, no noise tags. words: no punctuation, lower case too."},
    )


@dataclass
class TextArguments(TextInputArguments):
    """What is fine-tuned."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Pretrained text model: a Hub id or a folder. bert-base-uncased if nothing else is said."},
    )
    model_type: str | None = field(
        default=None,
        metadata={"help": "Instead: train a random model of this type (bert, roberta, distilbert), and a tokenizer."},
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": 'JSON changes to the configuration, such as {"num_hidden_layers": 2}.'}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the checkpoint."})


@dataclass
class FusionArguments(TextInputArguments):
    """What is fused: an audio and a text encoder, each plain or fine-tuned (its own head is left behind)."""

    audio_model: str | None = field(
        default=None,
        metadata={"help": "Audio encoder: a Hub id or a folder; {fold} and {seed} in it stand for the run's."},
    )
    text_model: str | None = field(default=None, metadata={"help": "Text encoder, likewise."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A fusion model to be scored, with --do_train false."}
    )
    fusion: Literal["concat", "gated", "cross_attention"] = field(
        default="concat", metadata={"help": "How the two are put together."}
    )
    pooling: Literal["mean", "max", "meanmax", "attentive"] | None = field(
        default=None, metadata={"help": "Audio frames to one vector; as in the audio checkpoint, or mean, if unset."}
    )
    text_pooling: Literal["first", "mean", "max"] = field(
        default="mean", metadata={"help": "Text tokens to one vector; first is BERT's [CLS]."}
    )
    use_weighted_layer_sum: bool = field(default=False, metadata={"help": "Learn a weighted sum of all layers."})
    head_size: int = field(default=256, metadata={"help": "Width of the fused vector."})
    head_dropout: float = field(default=0.1, metadata={"help": "Dropout of the head."})
    modality_dropout: float = field(
        default=0.1,
        metadata={"help": "Part of the training utterances that lose their audio or, as often, their text."},
    )
    freeze_encoders: bool = field(
        default=True,
        metadata={"help": "Train the head only, on encoder outputs computed once and cached; false trains everything."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the checkpoints."})


@dataclass
class SpectrogramArguments:
    """What is trained, and on which features."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A trained spectrogram model to be scored or trained on; its own features and --arch."},
    )
    arch: Arch = field(default="cnn2d_6", metadata={"help": "The network."})
    imagenet: bool = field(
        default=False,
        metadata={
            "help": "Begin with ImageNet weights from the Hub (resnet50, resnext50, densenet201), not random ones."
        },
    )
    reduce: Literal["time", "frequency"] | None = field(
        default=None, metadata={"help": "Of the cnn1d networks: read the mean over time, or over frequency."}
    )
    pooling: Literal["mean", "max", "meanmax"] = field(default="mean", metadata={"help": "Frames to one vector."})
    dropout: float = field(default=0.3, metadata={"help": "In front of the last layer."})
    features: Literal["mel", "mfcc"] | None = field(
        default=None, metadata={"help": "Mel spectrogram in dB or MFCC; mfcc for the cnn1d networks and mel otherwise."}
    )
    sampling_rate: int = field(default=8000, metadata={"help": "Rate in Hz that clips are resampled to."})
    n_mels: int = field(default=128, metadata={"help": "Mel bands, up to half the rate."})
    n_mfcc: int = field(default=40, metadata={"help": "Coefficients."})
    n_fft: int = field(default=1024, metadata={"help": "Length of the Fourier transform in samples."})
    win_length: int = field(default=512, metadata={"help": "Length of its Hamming window in samples."})
    hop_length: int = field(default=100, metadata={"help": "Samples from one frame to the next."})
    normalize: Literal["none", "clip"] = field(
        default="none", metadata={"help": "clip: each clip's features to zero mean and unit variance."}
    )
    speaker_norm: bool | None = field(
        default=None,
        metadata={
            "help": "Features relative to each speaker's mean spectrum, over all their utterances, in test too: for "
            "use where it is known who speaks. A checkpoint's own by default; false scores it with an average speaker."
        },
    )


@dataclass
class LearnArguments:
    """How it is trained, beside transformers' TrainingArguments."""

    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: each class weighs the inverse of its frequency in train."}
    )
    loss: Loss | None = field(
        default=None,
        metadata={"help": "Classes: cross_entropy (default), focal. Values: mse (default), l1, ccc, ccc_mse."},
    )
    sampling: Literal["none", "class", "speaker"] = field(
        default="none",
        metadata={"help": "Draw training clips so that each class, or each speaker, comes equally often."},
    )
    soft_labels: bool = field(
        default=False, metadata={"help": "Train on the raters' votes where the corpus has them, not on the label."}
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "Exponent of the focal loss."})
    ccc_weight: float = field(default=0.5, metadata={"help": "Share of 1 - CCC in ccc_mse."})
    thresholds: list[float] | None = field(
        default=None, metadata={"help": "Values: also report them as present or absent at these thresholds."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Start anew in a folder that holds a run."})
    config: str | None = field(
        default=None,
        metadata={"help": "YAML of flags. recipes/configs/<dataset>_<recipe>.yaml if there is one; none: no YAML."},
    )


@dataclass
class RunArguments(LearnArguments):
    """How it is trained, beside transformers' TrainingArguments."""

    batch_seconds: float | None = field(
        default=36.0,
        metadata={"help": "Padded seconds of audio in a device's batch; 0: per_device_train_batch_size clips instead."},
    )


@dataclass
class AugmentedRunArguments(RunArguments):
    """How it is trained, beside transformers' TrainingArguments."""

    draw_augmentation: bool = field(
        default=False, metadata={"help": "Draw what augmentation does to a training clip, into figures/."}
    )


@dataclass
class TextRunArguments(LearnArguments):
    """How it is trained on text, beside transformers' TrainingArguments."""

    batch_tokens: int | None = field(
        default=2048,
        metadata={"help": "Padded tokens in a device's batch; 0: per_device_train_batch_size texts instead."},
    )


@dataclass
class SpectrogramRunArguments(AugmentedRunArguments):
    """How it is trained, beside transformers' TrainingArguments."""

    one_cycle: bool = field(
        default=False,
        metadata={
            "help": "One cycle of the learning rate (Smith 2018), --learning_rate at its top; no other schedule."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations on validation without improvement."}
    )
