"""A speech encoder under a head, and its collators."""

import json
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from ..data.augmentation import Augmentation
from ..data.collators import SpeechCollator
from ..errors import SerError
from ..models import SerConfig, SerForAudioClassification
from ..models.encoders import padding_sensitive
from .hub import check_labels, label_maps, load_finetuned
from .settings import ClipArguments


def audio_model(
    label_names: list[str],
    problem_type: str = "single_label_classification",
    *,
    model_name_or_path: str | None = None,
    model_type: str | None = None,
    config_overrides: str | None = None,
    freeze_feature_encoder: bool | None = None,
    mask_time_prob: float | None = None,
    mask_time_length: int | None = None,
    mask_feature_prob: float | None = None,
    mask_feature_length: int | None = None,
    trust_remote_code: bool = False,
    pooling: str = "mean",
    head: str = "linear",
    head_size: int = 256,
    use_weighted_layer_sum: bool = False,
    new_head: bool = True,
) -> tuple[SerForAudioClassification, Any]:
    """An audio model and its feature extractor.

    Args:
        label_names: In index order.
        problem_type: As in transformers.
        new_head: True makes a new head. False loads a fine-tuned model, whose labels must be `label_names`.
        The others: the fields of `settings.EncoderArguments` and `HeadArguments`.

    Raises:
        SerError: the checkpoint is not found, or does not fit these settings.
    """
    name = model_name_or_path
    options = {
        "pooling": pooling,
        "head": head,
        "head_size": head_size,
        "use_weighted_layer_sum": use_weighted_layer_sum,
        "problem_type": problem_type,
        **label_maps(label_names),
    }
    masks = {
        "mask_time_prob": mask_time_prob,
        "mask_time_length": mask_time_length,
        "mask_feature_prob": mask_feature_prob,
        "mask_feature_length": mask_feature_length,
    }
    masks = {name: value for name, value in masks.items() if value is not None}
    overrides = json.loads(config_overrides or "{}") | masks | ({"apply_spec_augment": True} if masks else {})
    try:
        if model_type:
            audio = AutoConfig.for_model(model_type, **overrides)
            extractor = Wav2Vec2FeatureExtractor(return_attention_mask=not padding_sensitive(audio))
            model = SerForAudioClassification(SerConfig(audio_config=audio, **options))
        else:
            extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=trust_remote_code)
            if new_head:
                model = SerForAudioClassification.from_encoder(name, overrides, trust_remote_code, **options)
            else:
                model = load_finetuned(name, trust_remote_code)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"model {model_type or name!r}: {' '.join(str(error).split())}") from None
    if not new_head:
        check_labels(model.config, label_names, name)
    if (not model_type) if freeze_feature_encoder is None else freeze_feature_encoder:
        model.freeze_feature_encoder()
    return model, extractor


def speech_collators(
    extractor, clips: ClipArguments, augmentation: Augmentation, seed: int, num_labels: int
) -> dict[str, SpeechCollator]:
    """`data_collator` for training, with augmentation, and `eval_collator`, without.

    `seed` draws augmentation and random crops; mixup makes soft labels of `num_labels` classes.
    """
    training = {"skip_unreadable": True, "augmentation": augmentation, "seed": seed, "num_labels": num_labels}
    return {
        "data_collator": SpeechCollator(extractor, **training, **vars(clips)),
        "eval_collator": SpeechCollator(extractor, **vars(clips)),
    }
