"""Pretrained encoders: what each kind reads and how it behaves, loading one, and its hidden states. Ships to the Hub.
To add an audio encoder, add an entry to `ENCODERS`."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    FeatureExtractionMixin,
    PreTrainedConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto import modeling_auto
from transformers.utils import ModelOutput, logging

from .common import load_safetensors
from .whisper import ClipWhisperEncoder, ClipWhisperFeatureExtractor


@dataclass(frozen=True)
class Encoder:
    """One kind of encoder. A `config` is the configuration of one such encoder."""

    # "waveform" (samples), "log-mel" (features of its own extractor), "spectrogram" (features of
    # SerSpectrogramFeatureExtractor) or "text".
    reads: str
    input_name: str  # its input, in the steps (samples, frames, tokens) of its mask
    frames: Callable[[PreTrainedConfig, torch.Tensor], torch.Tensor]  # (config, real steps) to real output frames
    steps: Callable[[PreTrainedConfig, int], int]  # (config, output frames) to the input steps they require
    padding_sensitive: Callable[[PreTrainedConfig], bool]  # whether padding changes real frames even with a mask
    # Last names of the linear layers that LoRA adapts by default: queries and values (Hu et al. 2021, section 7.1), or
    # the layer that makes queries, keys and values together.
    lora: tuple[str, ...] = ()
    layers: str | None = None  # path of the list of transformer layers, which FSDP wraps; None: no states of layers
    # (config) to the paths of what follows the last layer, where there is such a module; the rest precedes the first.
    after: Callable[[PreTrainedConfig], tuple[str, ...]] = lambda config: ()
    chained: bool = False  # whether a layer reads nothing but the output of the one below, and the mask
    feature_encoder: str | None = None  # path of the convolutions over the waveform, which fine-tuning usually freezes
    time: int = -1  # the dimension of time in its input
    rows: Callable[[PreTrainedConfig], int] | None = None  # (config) to values per step; None: a step is one number
    longest: Callable[[PreTrainedConfig], float] | None = None  # (config) to seconds, if it cannot read longer clips
    least: int = 1  # samples that its feature extractor needs; shorter clips are zero-padded
    model: type = AutoModel  # makes and loads it
    renamed: dict[str, str] = field(default_factory=dict)  # names in checkpoints to its own, as in `key_mapping`
    extractor: type = AutoFeatureExtractor  # loads its feature extractor
    # (config, whether it pads to the longest clip) to a feature extractor for random weights
    new_extractor: Callable[[PreTrainedConfig, bool], object] | None = None


def _adapters(config: PreTrainedConfig) -> int:
    return config.num_adapter_layers if getattr(config, "add_adapter", False) else 0


def _convolved(config: PreTrainedConfig, samples: torch.Tensor) -> torch.Tensor:
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    for _ in range(_adapters(config)):
        samples = (samples - 1) // config.adapter_stride + 1
    return samples


def _adapted(config: PreTrainedConfig, steps: torch.Tensor) -> torch.Tensor:
    for _ in range(_adapters(config)):
        kernel, stride = config.adapter_kernel_size, config.adapter_stride
        steps = (steps + 2 * (kernel // 2) - kernel) // stride + 1
    return steps


def _after_layers(config: PreTrainedConfig) -> tuple[str, ...]:
    # The norm of "stable" encoders (large ones) follows the layers, that of the others precedes them.
    return ("encoder.layer_norm", "adapter") if getattr(config, "do_stable_layer_norm", False) else ("adapter",)


def _samples_for(config: PreTrainedConfig, frames: int) -> int:
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        frames = (frames - 1) * stride + kernel
    return frames


# The first convolution of base-size checkpoints has a group norm over time, which the padding takes part in. The
# convolutions of adapters know no mask.
WAVEFORM = Encoder(
    reads="waveform",
    input_name="input_values",
    frames=_convolved,
    steps=_samples_for,
    padding_sensitive=lambda config: getattr(config, "feat_extract_norm", None) == "group" or _adapters(config) > 0,
    layers="encoder.layers",
    after=_after_layers,
    feature_encoder="feature_extractor",
    lora=("q_proj", "v_proj"),
    new_extractor=lambda config, whole: Wav2Vec2FeatureExtractor(return_attention_mask=not padding_sensitive(config)),
)

CHAINED = replace(WAVEFORM, chained=True)

ENCODERS = {
    "wav2vec2": CHAINED,
    "hubert": CHAINED,
    # Its attention reads the weights of the projections and never calls them, so that adapters there have no effect.
    "wavlm": replace(WAVEFORM, lora=("intermediate_dense", "output_dense")),
    "unispeech": CHAINED,
    "unispeech-sat": CHAINED,
    # Its positions come from several convolutions in a row: from the second on, padded frames are no longer zero.
    "data2vec-audio": replace(CHAINED, padding_sensitive=lambda config: True, after=lambda config: ("adapter",)),
    # Its layers have convolutions, which know no mask.
    "wav2vec2-conformer": replace(
        WAVEFORM,
        padding_sensitive=lambda config: True,
        after=lambda config: ("encoder.layer_norm", "adapter"),
        lora=("linear_q", "linear_v"),
    ),
    # The encoder of an encoder-decoder; `whisper` says how it reads clips.
    "whisper": Encoder(
        reads="log-mel",
        input_name="input_features",
        frames=lambda config, steps: (steps + 1) // 2,
        steps=lambda config, frames: 2 * frames - 1,
        padding_sensitive=lambda config: False,
        layers="layers",
        after=lambda config: ("layer_norm",),
        chained=True,
        lora=("q_proj", "v_proj"),
        rows=lambda config: config.num_mel_bins,
        longest=lambda config: 2 * config.max_source_positions / 100,  # frames of 10 ms
        model=ClipWhisperEncoder,
        renamed={r"^(model\.)?encoder\.": ""},
        extractor=ClipWhisperFeatureExtractor,
        new_extractor=lambda config, whole: (WhisperFeatureExtractor if whole else ClipWhisperFeatureExtractor)(
            feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // 50
        ),
    ),
    "wav2vec2-bert": Encoder(
        reads="log-mel",
        input_name="input_features",
        frames=_adapted,
        steps=lambda config, frames: frames * config.adapter_stride ** _adapters(config),
        padding_sensitive=lambda config: False,
        layers="encoder.layers",
        after=lambda config: ("intermediate_ffn", "adapter"),
        lora=("linear_q", "linear_v"),
        time=1,
        rows=lambda config: config.feature_projection_input_dim,
        least=560,  # two frames of 25 ms every 10 ms at 16 kHz make a step
        new_extractor=lambda config, whole: SeamlessM4TFeatureExtractor(
            *(config.feature_projection_input_dim // 2, 16000, config.feature_projection_input_dim // 2)
        ),
    ),
    "ser_spectrogram": Encoder(  # one vector per clip
        reads="spectrogram",
        input_name="input_features",
        frames=lambda config, lengths: lengths * 0 + 1,
        steps=lambda config, frames: 1,
        padding_sensitive=lambda config: config.padding_sensitive,
        time=1,
    ),
}

# Every text encoder of transformers; they name their layers for FSDP themselves.
TEXT = Encoder(
    reads="text",
    input_name="input_ids",
    frames=lambda config, tokens: tokens,
    steps=lambda config, frames: frames,
    padding_sensitive=lambda config: config.model_type == "fnet",  # it takes no mask
    lora=(
        *("query", "value"),  # BERT, RoBERTa, XLM-R, ELECTRA, ALBERT
        *("q_lin", "v_lin"),  # DistilBERT
        *("query_proj", "value_proj"),  # DeBERTa-v2
        *("q", "v"),  # MPNet, T5
        *("q_proj", "v_proj"),  # BART, OPT, Llama, Qwen
        *("Wqkv", "query_key_value", "qkv_proj", "c_attn"),  # ModernBERT, GPT-NeoX, Phi, GPT-2
    ),
)


# Audio models that cannot be encoders here, and why.
REFUSED = {
    "audio-spectrogram-transformer": "it reads patches of one spectrogram of fixed length, and no mask",
    "clap": "it has one vector per clip and no frames",
    **dict.fromkeys(("encodec", "dac", "mimi"), "it is a codec, trained to reconstruct audio"),
    **dict.fromkeys(("sew", "sew-d"), "its frames cannot be told from its configuration"),
    **dict.fromkeys(("speecht5", "seamless_m4t", "seamless_m4t_v2", "speech_to_text"), "it translates speech"),
}


def describe(config: PreTrainedConfig) -> Encoder | None:
    """The description of an encoder; None if it is of a kind that is not supported."""
    if config.model_type in ENCODERS:
        return ENCODERS[config.model_type]
    own_code = not type(config).__module__.startswith("transformers.")
    if own_code and hasattr(config, "conv_kernel") and hasattr(config, "conv_stride"):
        return WAVEFORM
    texts = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return TEXT if config.model_type in texts else None


def describe_audio(config: PreTrainedConfig, *reads: str) -> Encoder:
    """The description of an audio encoder; ValueError unless it reads one of `reads` (default: any audio)."""
    description, reads = describe(config), reads or ("waveform", "log-mel", "spectrogram")
    if description is None or description.reads not in reads:
        names = ", ".join(name for name, entry in ENCODERS.items() if entry.reads in reads)
        why = "it reads text" if description is TEXT else REFUSED.get(config.model_type)
        reason = f" ({why})" if why else ""
        raise ValueError(f"audio encoder {config.model_type!r} is not supported{reason}: use one of {names}")
    return description


def check_text(config: PreTrainedConfig) -> None:
    """Raises ValueError unless it is an encoder of texts that takes a mask."""
    problem = ""
    if config.is_encoder_decoder or describe(config) is not TEXT:
        problem = "is not supported: use BERT, RoBERTa, XLM-R, DistilBERT, DeBERTa or the like"
    elif TEXT.padding_sensitive(config):
        problem = "takes no mask: padding would change its hidden states"
    if problem:
        raise ValueError(f"text encoder {config.model_type!r} {problem}")


def padding_sensitive(config: PreTrainedConfig) -> bool:
    """Whether padding changes an encoder's output even with a mask; True where the encoder is not described."""
    description = describe(config)
    return description is None or description.padding_sensitive(config)


def shortest_input(config: PreTrainedConfig) -> int:
    """Input steps that one output frame requires (wav2vec2: 400 samples, 25 ms); 1 where it is not described."""
    description = describe(config)
    return 1 if description is None else description.steps(config, 1)


def width(config: PreTrainedConfig) -> int:
    """Dimensions of an audio encoder's last hidden state."""
    return getattr(config, "output_hidden_size", config.hidden_size) if _adapters(config) else config.hidden_size


def complete(config: PreTrainedConfig, every_layer: bool) -> None:
    """Set, in an audio encoder's configuration, what its training requires; `every_layer`: all its layers are read."""
    if every_layer:  # a dropped layer leaves no hidden state to weigh
        config.layerdrop = 0.0
        if hasattr(config, "encoder_layerdrop"):
            config.encoder_layerdrop = 0.0
    if hasattr(config, "mask_feature_prob") and not hasattr(config, "mask_feature_min_masks"):
        config.mask_feature_min_masks = 0  # WavLM's SpecAugment reads it, WavLM's configuration has no such field


def layer_count(config: PreTrainedConfig) -> int:
    """Number of hidden states: those of the layers and the input of the first; 1 where there are no layers."""
    description = describe(config)
    return 1 if description and description.reads == "spectrogram" else config.num_hidden_layers + 1


def transformer_layers(encoder: nn.Module) -> nn.ModuleList | None:
    """The transformer layers of an audio encoder, first to last; None where it has none."""
    path = describe_audio(encoder.config).layers
    return None if path is None else encoder.get_submodule(path)


def depth(config: PreTrainedConfig, name: str) -> int:
    """The transformer layer, from 1, that an audio encoder's module or parameter of this name belongs to: 0 before the
    first layer, and the number of layers after the last.

    >>> from transformers import WhisperConfig
    >>> names = "conv1.weight", "layers.0.fc1.bias", "layer_norm.bias"
    >>> [depth(WhisperConfig(encoder_layers=4), name) for name in names]
    [0, 1, 4]
    """
    description = describe_audio(config)
    if match := re.match(rf"{re.escape(description.layers)}\.(\d+)(\.|$)", name):
        return int(match[1]) + 1
    follows = any(f"{name}.".startswith(f"{path}.") for path in description.after(config))
    return config.num_hidden_layers if follows else 0


def freeze_layers(encoder: nn.Module, count: int) -> None:
    """Stop the gradients of the first `count` transformer layers of an audio encoder and of everything before them."""
    for name, parameter in encoder.named_parameters():
        if depth(encoder.config, name) <= count:
            parameter.requires_grad_(False)


def train_upper_layers(encoder: nn.Module, count: int, mode: bool) -> None:
    """Put an encoder into evaluation mode, but the layers from number `count` on, and what follows them, into training
    mode if `mode`. The encoder itself masks its input (SpecAugment) and skips layers (LayerDrop): it does neither."""
    encoder.eval()
    for name, module in encoder.named_modules():
        if depth(encoder.config, name) > count:
            module.train(mode)


def runs_above(config: PreTrainedConfig) -> bool:
    """Whether an audio encoder's upper layers run without those below (`encode_above`)."""
    return describe_audio(config).chained and not _adapters(config)


def longest_clip(config: PreTrainedConfig) -> float | None:
    """Seconds of the longest clip that an audio encoder reads (Whisper: 30), None where there is no limit."""
    description = describe(config)
    limit = description and description.longest
    return limit(config) if limit else None


def example(config: PreTrainedConfig, batch: int = 1) -> torch.Tensor:
    """Random input of an audio encoder, always the same: its longest clip, or one second of a waveform, or 100 steps.

    >>> from transformers import WhisperConfig
    >>> example(WhisperConfig()).shape
    torch.Size([1, 80, 3000])
    """
    description = describe_audio(config)
    steps = round(100 * (longest_clip(config) or 1.0)) if description.rows else 16000
    rows = (description.rows(config),) if description.rows else ()
    shape = (batch, steps, *rows) if description.time == 1 else (batch, *rows, steps)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def freeze_feature_encoder(encoder: nn.Module) -> None:
    """Stop the gradients of the convolutions that read the waveform; ValueError if the encoder has none."""
    path = describe_audio(encoder.config).feature_encoder
    if path is None:
        raise ValueError(f"encoder {encoder.config.model_type!r} has no feature encoder to freeze")
    encoder.get_submodule(path)._freeze_parameters()


def new_encoder(config: PreTrainedConfig) -> nn.Module:
    """An audio encoder with random weights."""
    return describe_audio(config).model.from_config(config)


def load_encoder(name_or_path: str, config: PreTrainedConfig, **options):
    """A pretrained encoder of transformers, or that of any model with one, in float32: half precision does not train.
    ValueError if weights of the encoder itself are missing from the checkpoint."""
    verbosity, options, description = logging.get_verbosity(), options | without_pooler(config), describe(config)
    kind, renamed = (description.model, description.renamed) if description else (AutoModel, {})
    options |= {"key_mapping": renamed} if renamed else {}
    logging.set_verbosity_error()  # a dropped head is not worth its table; missing weights are an error below
    try:
        options |= {"config": config, "dtype": torch.float32}
        encoder, info = load_safetensors(kind.from_pretrained, name_or_path, **options)
    finally:
        logging.set_verbosity(verbosity)
    # masked_spec_embed fills what SpecAugment masks; some published checkpoints never had one.
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("masked_spec_embed"))
    if missing:
        raise ValueError(f"{name_or_path}: the encoder's weights {', '.join(missing[:4])} are missing")
    return encoder


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The argument that leaves out BERT's pooler, where it is taken: its weights would be random, its output unused."""
    kind = modeling_auto.MODEL_MAPPING.get(type(config), None)  # None brings its own code
    takes = inspect.signature(kind.__init__).parameters if kind else ()
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def long_enough(values: torch.Tensor, mask: torch.Tensor | None, config: PreTrainedConfig, training: bool):
    """`values`, an encoder's input, and `mask` `(batch, steps)`, 1 = real, or None, as long as transformers demands.

    Clips too short for one frame are zero-padded, and these zeros count as real, for a clip alone and in a batch alike.
    Batches too short for SpecAugment's masks (in training) are zero-padded too, and these zeros count as padding.
    """
    description = describe_audio(config)
    needed, length = description.steps(config, 1), values.shape[description.time]

    def lengthen(extra: int) -> torch.Tensor:
        return F.pad(values, (0, extra) if description.time == -1 else (0, 0, 0, extra))

    if mask is not None:
        short, columns = mask.sum(dim=-1, keepdim=True) < needed, torch.arange(length, device=mask.device) < needed
        mask = mask.masked_fill(short & columns, 1)
    if length < needed:
        values = lengthen(needed - length)
        mask = None if mask is None else F.pad(mask, (0, needed - length), value=1)
    # data2vec's configuration has no switch apply_spec_augment: it always masks.
    if training and getattr(config, "apply_spec_augment", True) and getattr(config, "mask_time_prob", 0) > 0:
        length = values.shape[description.time]
        extra = description.steps(config, config.mask_time_length + 1) - length
        if extra > 0:
            mask = torch.ones((len(values), length), dtype=torch.long, device=values.device) if mask is None else mask
            values, mask = lengthen(extra), F.pad(mask, (0, extra))
    return values, mask


def frame_mask(config: PreTrainedConfig, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`(batch, frames)`, True where an output frame `(batch, frames, dim)` is no padding by the input's `mask` `(batch,
    steps)`, 1 = real, or None."""
    if mask is None:
        return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    lengths = describe_audio(config).frames(config, mask.sum(dim=-1)).clamp(min=1)
    return torch.arange(frames.shape[1], device=frames.device) < lengths.unsqueeze(-1)


def encode(
    encoder: nn.Module,
    inputs: torch.Tensor,
    mask: torch.Tensor | None,
    every_layer: bool = False,
    attentions: bool = False,
):
    """The output of an audio encoder, and the mask `(batch, frames)` of its frames, True = real.

    Args:
        inputs: `(batch, samples)`, `(batch, rows, frames)` of Whisper, or `(batch, frames, rows)` of w2v-BERT or a
            spectrogram model; no clip is missing.
        mask: `(batch, samples)` or `(batch, frames)`, 1 = real; None when no clip is padded.
        every_layer, attentions: Whether the output has `hidden_states`, `attentions`.
    """
    values, mask = long_enough(inputs, mask, encoder.config, encoder.training)
    names = {describe_audio(encoder.config).input_name: values, "attention_mask": mask}
    out = _run(encoder, names, every_layer, attentions)
    return out, frame_mask(encoder.config, out.last_hidden_state, mask)


def encode_above(encoder: nn.Module, states: torch.Tensor, real: torch.Tensor, count: int) -> BaseModelOutput:
    """The output of an audio encoder that `runs_above` from its hidden states `(batch, frames, dim)` after `count`
    layers, and their mask `(batch, frames)`, True = real."""
    modules = dict(encoder.named_modules())
    mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=states, attention_mask=real)
    for layer in transformer_layers(encoder)[count:]:
        states = layer(states, mask)
    for path in describe_audio(encoder.config).after(encoder.config):
        states = modules[path](states) if path in modules else states
    return BaseModelOutput(last_hidden_state=states)


def audio_states(encoder: nn.Module, inputs: torch.Tensor, mask: torch.Tensor | None, every_layer: bool = False):
    """Hidden states `(batch, layers, frames, dim)` of an audio encoder, and their mask `(batch, frames)`, True = real.
    With `every_layer` also the layers before the last, and the input of the first. Arguments as in `encode`."""
    every_layer = every_layer and describe_audio(encoder.config).layers is not None
    out, real = encode(encoder, inputs, mask, every_layer)
    return stacked(out, every_layer), real


def encode_text(
    encoder: nn.Module,
    inputs: torch.Tensor,
    mask: torch.Tensor | None,
    every_layer: bool = False,
    attentions: bool = False,
):
    """As `encode`, of a text encoder for token ids and `mask` `(batch, tokens)`."""
    names = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs) if mask is None else mask}
    return _run(encoder, names, every_layer, attentions), names["attention_mask"].bool()


def _run(encoder: nn.Module, names: dict, every_layer: bool, attentions: bool):
    wanted = {"output_hidden_states": every_layer, "output_attentions": attentions}
    return encoder(**names, **{name: True for name, value in wanted.items() if value}, return_dict=True)


def text_states(encoder: nn.Module, input_ids: torch.Tensor, mask: torch.Tensor | None, every_layer: bool = False):
    """As `audio_states`, of a text encoder for `input_ids` and `mask` `(batch, tokens)`."""
    out, real = encode_text(encoder, input_ids, mask, every_layer)
    return stacked(out, every_layer), real


def stacked(out: ModelOutput, every_layer: bool) -> torch.Tensor:
    """`(batch, layers, frames, dim)` from an encoder's output: all its hidden states, or the last alone."""
    return torch.stack(out.hidden_states, dim=1) if every_layer else out.last_hidden_state.unsqueeze(1)


# ---- features


def load_extractor(name_or_path: str, config: PreTrainedConfig, whole: bool = False, **options):
    """The feature extractor of an audio encoder's checkpoint. `whole`: Whisper's stock extractor, which pads every clip
    to 30 s; else its features end where the clip does. ValueError: it does not fit the encoder."""
    kind = describe_audio(config).extractor
    if kind is not AutoFeatureExtractor:  # it would read the settings of any other
        saved = kind.get_feature_extractor_dict(name_or_path)[0].get("feature_extractor_type")
        if saved is not None and saved not in [base.__name__ for base in kind.__mro__]:
            raise ValueError(f"the feature extractor {saved} does not fit {config.model_type}")
    # Not AutoFeatureExtractor for a whole 30 s: a model that was trained on clips is saved with the clips' extractor.
    extractor = (WhisperFeatureExtractor if whole else kind).from_pretrained(name_or_path, **options)
    check_extractor(extractor, config)
    return extractor


def check_extractor(extractor: FeatureExtractionMixin, config: PreTrainedConfig) -> None:
    """Raises ValueError unless the feature extractor's output is what the encoder reads."""
    description, problem = describe_audio(config), ""
    if extractor.model_input_names[0] != description.input_name:
        problem = f"makes {extractor.model_input_names[0]}, the encoder reads {description.input_name}"
    elif description.rows and description.reads == "log-mel":
        rows = extractor.feature_size * getattr(extractor, "stride", 1)
        if rows != description.rows(config):
            problem = f"makes {rows} values per frame, the encoder reads {description.rows(config)}"
    if problem:
        raise ValueError(
            f"the feature extractor {type(extractor).__name__} does not fit {config.model_type}: {problem}"
        )


def extract(
    extractor: FeatureExtractionMixin, clips: Sequence[np.ndarray], least: int = 1, **changes
) -> dict[str, torch.Tensor]:
    """The input of an audio encoder and its `attention_mask`, for clips `(samples,)` at the extractor's rate, padded
    to a batch; clips of fewer than `least` samples are zero-padded first. `changes` are arguments of the extractor."""
    clips = [np.pad(clip, (0, max(0, least - len(clip)))) for clip in clips]
    # Whisper's stock extractor must pad to 30 s: the stock encoder reads nothing else.
    padding = "max_length" if type(extractor).__name__ == "WhisperFeatureExtractor" else True
    options = {"sampling_rate": extractor.sampling_rate, "return_attention_mask": True, "return_tensors": "pt"}
    return dict(extractor(clips, **{"padding": padding, **changes, **options}))
