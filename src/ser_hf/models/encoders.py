"""Pretrained encoders of transformers under heads of ours. Ships to the Hub beside the weights: imports nothing of this
project."""

import inspect

import torch
from transformers import AutoModel, PreTrainedConfig
from transformers.models.auto import modeling_auto


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
    encoder, info = AutoModel.from_pretrained(
        name_or_path, config=config, dtype=torch.float32, output_loading_info=True, **options
    )
    # masked_spec_embed fills what SpecAugment masks; some published checkpoints never had one.
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("masked_spec_embed"))
    if missing:
        raise ValueError(f"{name_or_path}: the encoder's weights {', '.join(missing[:4])} are missing")
    return encoder


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The argument that leaves out BERT's pooler, of the text encoders that take it: nothing here reads it, so that it
    would be a random weight."""
    kind = modeling_auto.MODEL_MAPPING[type(config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def check_text(config: PreTrainedConfig) -> None:
    """Raises ValueError unless it is an encoder of texts."""
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
