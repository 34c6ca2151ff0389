"""A speech encoder under a head, and its collators."""

import json
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from ..data.augmentation import Augmentation
from ..data.collators import SpeechCollator
from ..errors import SerError
from ..models import SerConfig, SerForAudioClassification
from ..models.encoders import padding_sensitive
from .hub import check_labels, label_maps, load_finetuned
from .settings import ClipArguments, EncoderArguments, HeadArguments


@dataclass(frozen=True)
class _Keywords(EncoderArguments, HeadArguments):
    """The keywords of `audio_model`."""


def audio_model(
    label_names: list[str],  # in index order
    problem_type: str = "single_label_classification",  # as in transformers
    *,
    new_head: bool = True,  # False loads a fine-tuned model, whose labels must be `label_names`
    **keywords: Any,  # the fields of `settings.EncoderArguments` and `HeadArguments`
) -> tuple[SerForAudioClassification, Any]:
    """An audio model and its feature extractor.
    Raises SerError: the checkpoint is not found, or does not fit these settings."""
    flags = _Keywords(**keywords)
    name, model_type, remote = flags.model_name_or_path, flags.model_type, flags.trust_remote_code
    options = {field: getattr(flags, field) for field in HeadArguments.__dataclass_fields__}
    options |= {"problem_type": problem_type, **label_maps(label_names)}
    masks = {"mask_time_prob": flags.mask_time_prob, "mask_time_length": flags.mask_time_length}
    masks |= {"mask_feature_prob": flags.mask_feature_prob, "mask_feature_length": flags.mask_feature_length}
    masks = {name: value for name, value in masks.items() if value is not None}
    overrides = json.loads(flags.config_overrides or "{}") | masks | ({"apply_spec_augment": True} if masks else {})
    try:
        if model_type:
            audio = AutoConfig.for_model(model_type, **overrides)
            extractor = Wav2Vec2FeatureExtractor(return_attention_mask=not padding_sensitive(audio))
            model = SerForAudioClassification(SerConfig(audio_config=audio, **options))
        else:
            extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=remote)
            if new_head:
                model = SerForAudioClassification.from_encoder(name, overrides, remote, **options)
            else:
                model = load_finetuned(name, remote)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"model {model_type or name!r}: {' '.join(str(error).split())}") from None
    if not new_head:
        check_labels(model.config, label_names, name)
    frozen = flags.freeze_feature_encoder
    if frozen or (frozen is None and not model_type):
        model.freeze_feature_encoder()
    return model, extractor


def speech_collators(
    extractor, clips: ClipArguments, augmentation: Augmentation, seed: int, num_labels: int
) -> dict[str, SpeechCollator]:
    """`data_collator` for training, with augmentation, and `eval_collator`, without. `seed` draws augmentation and
    random crops; mixup makes soft labels of `num_labels` classes."""
    training = {"skip_unreadable": True, "augmentation": augmentation, "seed": seed, "num_labels": num_labels}
    return {
        "data_collator": SpeechCollator(extractor, **training, **vars(clips)),
        "eval_collator": SpeechCollator(extractor, **vars(clips)),
    }
