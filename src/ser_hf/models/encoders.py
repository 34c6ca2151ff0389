"""Pretrained encoders under heads of ours: loading them, and what they make of inputs. Ships to the Hub beside the
weights: imports nothing of this project but its siblings."""

import inspect

import torch
from transformers import AutoModel, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from .frames import frame_mask, long_enough, pool


def load_encoder(name_or_path: str, config: PreTrainedConfig, **options):
    """A pretrained encoder of transformers, or that of any model with one (its head is left behind), in float32: a
    checkpoint in half precision does not train.

    Args:
        name_or_path: Hub id or folder.
        config: The encoder's.
        options: Of its class.

    Raises:
        ValueError: weights of the encoder itself are missing from the checkpoint.
    """
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # a head left behind is not worth its table; what is missing is told below
    try:
        encoder, info = AutoModel.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    finally:
        logging.set_verbosity(shown)
    # masked_spec_embed fills what SpecAugment masks; some published checkpoints never had one.
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("masked_spec_embed"))
    if missing:
        raise ValueError(f"{name_or_path}: the encoder's weights {', '.join(missing[:4])} are missing")
    return encoder


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The argument that leaves out BERT's pooler, of the text encoders that take it: nothing here reads it, so that it
    would be a random weight."""
    kind = modeling_auto.MODEL_MAPPING.get(type(config), None)  # None brings its own code
    takes = inspect.signature(kind.__init__).parameters if kind else ()
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def check_text(config: PreTrainedConfig) -> None:
    """Raises ValueError unless it is an encoder of texts."""
    if config.model_type == "fnet":
        raise ValueError(
            "text encoder 'fnet' takes no mask: a text's states would change with the padding of its batch"
        )
    known = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if config.is_encoder_decoder or config.model_type not in known:
        raise ValueError(
            f"text encoder {config.model_type!r}: use BERT, RoBERTa, XLM-R, DistilBERT, DeBERTa or the like"
        )


def check_audio(config: PreTrainedConfig) -> None:
    """Raises ValueError unless it is an encoder of raw audio, or of our features."""
    if config.model_type != "ser_spectrogram" and not hasattr(config, "conv_kernel"):
        raise ValueError(
            f"audio encoder {config.model_type!r} does not read raw audio: use wav2vec2, XLSR, HuBERT, WavLM, "
            "data2vec-audio, or our spectrogram model"
        )


def audio_states(encoder, inputs: torch.Tensor, mask: torch.Tensor | None, every_layer: bool = False):
    """What an audio encoder makes of clips, none of which is missing.

    Args:
        encoder: Of raw audio, or our spectrogram model, which makes one vector a clip.
        inputs: `(batch, samples)`, or `(batch, rows, frames)`.
        mask: `(batch, samples)` or `(batch, frames)`, 1 = real; None when no clip is padded.
        every_layer: Also the layers before the last, and the input of the first.

    Returns:
        States `(batch, layers, frames, dim)` and their mask `(batch, frames)`, True = real.
    """
    if encoder.config.model_type == "ser_spectrogram":
        states = encoder(inputs, mask).last_hidden_state.unsqueeze(1)  # (batch, 1, 1, dim)
        return states, torch.ones(states[:, 0, :, 0].shape, dtype=torch.bool, device=states.device)
    values, mask = long_enough(inputs, mask, encoder.config, encoder.training)
    states = _states(encoder, every_layer, input_values=values, attention_mask=mask)
    return states, frame_mask(encoder, states[:, 0], mask)


def text_states(encoder, input_ids: torch.Tensor, mask: torch.Tensor | None, every_layer: bool = False):
    """What a text encoder makes of texts, none of which is missing; `(batch, tokens)` each, as `audio_states`."""
    mask = torch.ones_like(input_ids) if mask is None else mask
    return _states(encoder, every_layer, input_ids=input_ids, attention_mask=mask), mask.bool()


def _states(encoder, every_layer: bool, **inputs) -> torch.Tensor:
    out = encoder(**inputs, output_hidden_states=every_layer, return_dict=True)
    return torch.stack(out.hidden_states, dim=1) if every_layer else out.last_hidden_state.unsqueeze(1)


def pool_layers(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> tuple[torch.Tensor, torch.Tensor]:
    """States and mask of one frame, each layer pooled by itself.

    Args:
        states: `(batch, layers, frames, dim)`.
        mask: `(batch, frames)`, True = real.
        pooling: `first`, `mean`, `max` or `meanmax` (of twice the width).
    """
    if pooling == "first":
        return states[:, :, :1], mask[:, :1]
    layers = states.shape[1]
    pooled = pool(states.flatten(0, 1), mask.repeat_interleave(layers, dim=0), pooling)
    return pooled.unflatten(0, (-1, layers)).unsqueeze(2), torch.ones_like(mask[:, :1])
