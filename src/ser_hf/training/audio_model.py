"""A speech encoder under a head, its collators, and the cached hidden states of a frozen one."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import AutoConfig

from ..data.augmentation import Augmentation
from ..data.collators import SpeechCollator
from ..errors import SerError
from ..models import SerConfig, SerForAudioClassification
from ..models.encoders import describe_audio, load_extractor, longest_clip, transformer_layers
from .encoder_states import StateCollator, States, check_states, encode, with_shifts
from .hub import check_labels, label_maps, load_finetuned
from .settings import AudioRegressionSettings, ClipArguments, EncoderArguments, HeadArguments, WindowArguments


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
    if flags.freeze_encoder and new_head and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise SerError("FSDP shards what is trained, and a frozen encoder is not: use it with --freeze_encoder false")
    name, model_type, remote = flags.model_name_or_path, flags.model_type, flags.trust_remote_code
    options = {field: getattr(flags, field) for field in HeadArguments.__dataclass_fields__}
    options |= {"problem_type": problem_type, "context": flags.context, **label_maps(label_names)}
    options |= {"standardise": flags.freeze_encoder, "speaker_norm": bool(flags.speaker_norm)}
    masks = {"mask_time_prob": flags.mask_time_prob, "mask_time_length": flags.mask_time_length}
    masks |= {"mask_feature_prob": flags.mask_feature_prob, "mask_feature_length": flags.mask_feature_length}
    masks = {name: value for name, value in masks.items() if value is not None}
    overrides = json.loads(flags.config_overrides or "{}") | masks | ({"apply_spec_augment": True} if masks else {})
    try:
        if model_type:
            audio = AutoConfig.for_model(model_type, **overrides)
            model = SerForAudioClassification(SerConfig(audio_config=audio, **options))
            extractor = describe_audio(audio).new_extractor(audio, flags.context == "full")
        else:
            if new_head:
                model = SerForAudioClassification.from_encoder(name, overrides, remote, **options)
            else:
                model = load_finetuned(name, remote)
            whole = model.config.context == "full"
            extractor = load_extractor(name, model.config.audio_config, whole, trust_remote_code=remote)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"model {model_type or name!r}: {' '.join(str(error).split())}") from None
    if not new_head:
        check_labels(model.config, label_names, name)
    frozen, convolutions = flags.freeze_feature_encoder, describe_audio(model.config.audio_config).feature_encoder
    if flags.freeze_encoder and new_head:
        model.freeze_encoder()
    elif flags.freeze_layers and new_head:
        _freeze_layers(model, flags.freeze_layers)
    elif frozen and convolutions is None:
        kind = model.config.audio_config.model_type
        raise SerError(f"--freeze_feature_encoder true: {kind} has no convolutions over the waveform; leave it out")
    elif convolutions and (frozen or (frozen is None and not model_type)):
        model.freeze_feature_encoder()
    return model, extractor


def _freeze_layers(model: SerForAudioClassification, count: int) -> None:
    layers, kind = len(transformer_layers(model.encoder)), model.config.audio_config.model_type
    if count > layers:
        raise SerError(f"--freeze_layers {count}: this {kind} has {layers} layers; give at most {layers - 1}")
    if count == layers:
        raise SerError(f"--freeze_layers {count}: these are all layers of this {kind}; give --freeze_encoder true")
    model.freeze_layers(count)


def check_lengths(
    model: SerForAudioClassification,
    parts: Mapping[str, Dataset],
    clips: ClipArguments,
    instead: str = "give --window_seconds or --max_seconds",
) -> None:
    """Raises SerError if a clip is longer than the encoder reads (Whisper: 30 s); `instead` is what to do then."""
    limit = longest_clip(model.config.audio_config)
    if limit is None or (clips.max_seconds is not None and clips.max_seconds <= limit):
        return
    rows = [row for part in parts.values() for row in zip(part["duration"], part["id"], strict=True)]
    long = [(seconds, name) for seconds, name in rows if seconds is not None and seconds > limit]
    if long:
        seconds, name = max(long)
        kind, count = model.config.audio_config.model_type, f"{len(long)} clips are longer, {name} the longest"
        raise SerError(f"{kind} reads {limit:g} s and {count} ({seconds:.1f} s): {instead}")


def check_whole_clips(speaker_norm: bool, clips: ClipArguments, windows: WindowArguments) -> None:
    """Raises SerError if clips are cut or zero-padded and `speaker_norm`: the mean of a speaker's windows or crops is
    not that of whole clips."""
    lengths = {"window_seconds": windows.window_seconds, **vars(clips)}
    for flag in ("window_seconds", "max_seconds", "min_seconds"):
        if speaker_norm and lengths[flag]:
            why = "speakers' means are those of whole clips; not with --speaker_norm"
            raise SerError(f"--{flag} {lengths[flag]}: {why}")


def check_speakers(parts: Mapping[str, Dataset]) -> None:
    """Raises SerError if an utterance has no speaker, for speaker normalisation."""
    speakers = [speaker for rows in parts.values() for speaker in rows["speaker"]]
    if None in speakers:
        count = f"{speakers.count(None)} of {len(speakers)} utterances have no speaker"
        raise SerError(f"--speaker_norm: {count}; --speaker_norm false goes without")


def speech_collators(
    model: SerForAudioClassification, extractor, clips: ClipArguments, augmentation: Augmentation, seed: int
) -> dict[str, SpeechCollator]:
    """`data_collator` for training, with augmentation, and `eval_collator`, without. `seed` draws augmentation and
    random crops."""
    same = {"least": describe_audio(model.config.audio_config).least, **vars(clips)}
    training = {"skip_unreadable": True, "augmentation": augmentation, "seed": seed}
    return {
        "data_collator": SpeechCollator(extractor, num_labels=model.config.num_labels, **training, **same),
        "eval_collator": SpeechCollator(extractor, **same),
    }


def with_copies(train: Dataset, speeds: list[float] | None) -> Dataset:
    """Rows, and copies of them at other speeds (`data.augmentation.speed`), which is their column `speed`; the rows
    themselves have None there."""
    if not speeds:
        return train

    def copies(factor: float) -> Dataset:
        names = [f"{name} x{factor:g}" for name in train["id"]]
        seconds = (np.array(train["duration"][:], dtype=np.float32) / factor).astype(np.float32)
        copy = train.remove_columns(["id", "duration"]).add_column("id", names).add_column("duration", seconds)
        return copy.add_column("speed", [factor] * len(names)).select_columns([*train.column_names, "speed"])

    return concatenate_datasets([train, *(copies(factor) for factor in dict.fromkeys(speeds) if factor != 1.0)])


def probe_states(
    model: SerForAudioClassification, extractor, parts: Mapping[str, Dataset], settings: AudioRegressionSettings
) -> States:
    """The hidden states of a frozen encoder for every utterance of all parts, encoded once and cached; the model's
    scale is measured on those of train. Raises SerError: clips are cut, and `--speaker_norm` needs whole ones."""
    by_speaker = model.config.speaker_norm
    check_whole_clips(by_speaker, settings.clips, settings.windows)
    states = encode(model, extractor, parts, settings.clips, settings.training, settings.batches.budget)
    states = with_shifts(states, parts) if by_speaker else states
    unread = parts["train"].select_columns([name for name in StateCollator.columns if name in parts["train"].features])
    model.ser_scale.fit(states.find("audio", row) for row in unread)
    check_states(model, states, parts["test"].select(range(min(8, len(parts["test"])))))
    return states
