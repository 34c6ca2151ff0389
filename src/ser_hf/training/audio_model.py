"""A speech encoder under a head, its collators, and the cached hidden states of a frozen one."""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoConfig, FeatureExtractionMixin, PreTrainedConfig, TrainingArguments

from ..data.augmentation import Augmentation
from ..data.collators import SpeechCollator
from ..data.columns import select_present
from ..errors import SerError, one_line
from ..models import SerConfig, SerForAudioClassification
from ..models.encoders import describe_audio, load_extractor, longest_clip, runs_above, transformer_layers
from .encoder_states import StateCollator, States, check_states, encode, trims, with_estimated_speakers, with_shifts
from .run import say
from .saved_model import check_labels, label_maps, load_finetuned
from .settings import ClipArguments, EncoderArguments, HeadArguments
from .speakers import check_speakers, check_whole_clips, learnable, speaker_remark

MASK_LENGTH = 10  # frames, transformers' default; shorter clips are padded to it


@dataclass(frozen=True)
class _Keywords(EncoderArguments, HeadArguments):
    """The keywords of `audio_model`."""


def audio_model(
    label_names: list[str],  # in index order
    problem_type: str = "single_label_classification",  # as in transformers
    *,
    new_head: bool = True,  # False loads a fine-tuned model, whose labels must be `label_names`
    **keywords: Any,  # the fields of `settings.EncoderArguments` and `HeadArguments`
) -> tuple[SerForAudioClassification, FeatureExtractionMixin]:
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
        raise SerError(f"model {model_type or name!r}: {one_line(error)}") from None
    audio = model.config.audio_config
    width = getattr(audio, "num_mel_bins", audio.hidden_size)  # of Whisper, whose masks are on the log-mel features
    if new_head and getattr(audio, "mask_feature_prob", 0) and audio.mask_feature_length > width:
        length = audio.mask_feature_length
        raise SerError(f"--mask_feature_length {length}: {audio.model_type} has {width} dimensions; give less")
    if not new_head:
        check_labels(model.config, label_names, name)
        if flags.speaker_norm:
            why = "a trained model is scored clip by clip, without its speakers' means"
            raise SerError(f"--speaker_norm true: {why}; leave it out")
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
    config: PreTrainedConfig,  # of the audio encoder
    parts: Mapping[str, Dataset],
    clips: ClipArguments,
    augmentation: Augmentation | None = None,  # of train
    advice: str = "give --window_seconds or --max_seconds",
) -> None:
    """Raises SerError if a clip is longer than the encoder reads (Whisper: 30 s), or augmentation makes it longer."""
    if "train" in parts:
        _check_masks(config, parts["train"], clips)
    limit = longest_clip(config)
    if limit is None:
        return
    if clips.min_seconds > limit:
        raise SerError(f"--min_seconds {clips.min_seconds:g}: {config.model_type} reads {limit:g} s; give less")
    if clips.max_seconds is not None and clips.max_seconds <= limit:
        return
    slowest = min(augmentation.speed_factor) if augmentation and augmentation.speed_p else 1.0
    long = []
    for part, rows in parts.items():
        stretch = 1 / min(1.0, slowest) if part == "train" else 1.0
        lengths = zip(rows["duration"][:], rows["id"][:], strict=True)
        long += [(stretch * seconds, name) for seconds, name in lengths if seconds and stretch * seconds > limit]
    if long:
        seconds, name = max(long)
        slowed = "slowed by --speed_factor, " if slowest < 1 else ""
        longer = f"{len(long)} clips are longer, {name} the longest ({slowed}{seconds:.1f} s)"
        raise SerError(f"{config.model_type} reads {limit:g} s and {longer}: {advice}")


def _check_masks(config: PreTrainedConfig, train: Dataset, clips: ClipArguments) -> None:
    """Raises SerError if masks in time are longer than the longest training clip, to which batches would be padded."""
    length, description = getattr(config, "mask_time_length", 0), describe_audio(config)
    steps = length if description.reads == "log-mel" else description.steps(config, length) if length else 0
    seconds = steps / (16000 if description.reads == "waveform" else 100)
    longest = max([clips.min_seconds, *(duration or 0.0 for duration in train["duration"][:])])
    longest = min(longest, clips.max_seconds or longest)
    if length > MASK_LENGTH and getattr(config, "mask_time_prob", 0) and seconds > longest:
        long = f"masks of {seconds:.1f} s, and the longest training clip has {longest:.1f} s"
        raise SerError(f"--mask_time_length {length}: {long}; give less")


def speech_collators(
    model: SerForAudioClassification,
    extractor: FeatureExtractionMixin,
    clips: ClipArguments,
    augmentation: Augmentation,
    seed: int,
) -> dict[str, SpeechCollator]:
    """`data_collator` for training, with augmentation, and `eval_collator`, without. `seed` draws augmentation and
    random crops. Raises SerError: masks of a spectrogram for a waveform, or mixup of features in which 0 is no silence.
    """
    audio, log_mel = model.config.audio_config, describe_audio(model.config.audio_config).reads == "log-mel"
    if augmentation.spec_p and not log_mel:
        why = f"masks log-mel features, and {audio.model_type} reads waveforms"
        raise SerError(f"--spec_p {augmentation.spec_p:g}: {why}; its masks are --mask_time_prob, --mask_feature_prob")
    if augmentation.mixup_p and log_mel:
        why = f"mixes waveforms, and {audio.model_type} reads log-mel features"
        raise SerError(f"--mixup_p {augmentation.mixup_p:g}: {why}; leave it out")
    trims(extractor, clips)  # checks
    same = {"least": describe_audio(audio).least, **vars(clips)}
    training = {"skip_unreadable": True, "augmentation": augmentation, "seed": seed}
    return {
        "data_collator": SpeechCollator(extractor, num_labels=model.config.num_labels, **training, **same),
        "eval_collator": SpeechCollator(extractor, **same),
    }


def with_copies(train: Dataset, speeds: list[float] | None) -> Dataset:
    """The rows, and copies of them at other speeds (`data.augmentation.speed`). The column `speed` has the factor of a
    copy; None for the rows themselves."""
    if not speeds:
        return train

    def copies(factor: float) -> Dataset:
        names = [f"{name} x{factor:g}" for name in train["id"][:]]
        seconds = (np.array(train["duration"][:], dtype=np.float32) / factor).astype(np.float32)
        copy = train.remove_columns(["id", "duration"]).add_column("id", names).add_column("duration", seconds)
        return copy.add_column("speed", [factor] * len(names)).select_columns([*train.column_names, "speed"])

    return concatenate_datasets([train, *(copies(factor) for factor in dict.fromkeys(speeds) if factor != 1.0)])


def count_copies(rows: Dataset) -> int:
    """How many rows are copies at other speeds (`with_copies`)."""
    return sum(speed is not None for speed in rows["speed"][:]) if "speed" in rows.column_names else 0


def reads_states(
    model: SerForAudioClassification,  # or with adapters
    train: Dataset,
    clips: ClipArguments,
    augmentation: Augmentation,
) -> bool:
    """Whether a model trains on cached hidden states: if its encoder is frozen, and if its lower layers are, where what
    they compute of a clip is always the same and is all that the rest reads. Of frozen layers it prints the way."""
    if model._frozen or not (count := model._frozen_layers):
        return model._frozen
    config, audio = model.config, model.config.audio_config
    random = [name for name, p in vars(augmentation).items() if name.endswith("_p") and p]
    longest = max([0.0, *(duration or 0.0 for duration in train["duration"][:])])
    reasons = {
        **{f"--{name} changes clips at random": True for name in random},
        "--max_seconds crops clips at random": clips.max_seconds is not None and longest > clips.max_seconds,
        f"a layer of this {audio.model_type} reads more than the layer below": not runs_above(audio),
        f"--layer_mix {config.layer_mix} reads several layers": config.layer_mix != "last",
        "adapters are trained": hasattr(model, "peft_config"),
        "FSDP shards them": os.environ.get("ACCELERATE_USE_FSDP") == "true",
    }
    why = [reason for reason, holds in reasons.items() if holds]
    way = f"run in every epoch: {why[0]}" if why else "run once for each clip, and their states are cached"
    say(f"--freeze_layers {count}: the frozen layers {way}")
    return not why


def probe_states(
    model: SerForAudioClassification,
    extractor: FeatureExtractionMixin,
    parts: Mapping[str, Dataset],
    clips: ClipArguments,
    training: TrainingArguments,
    budget: float | None,  # padded seconds of audio per batch
    estimate_speakers: bool = False,
) -> States:
    """The hidden states of a frozen encoder, or those after its frozen layers, for every utterance of all parts, each
    encoded once and cached; a probe's scale is measured on those of train. With `estimate_speakers` the speakers of
    test are not read but estimated, and the model can do so too. Raises SerError: with `speaker_norm`, clips are cut or
    an utterance has no speaker; as `learnable`."""
    check_whole_clips(model.config.speaker_norm, clips, windowed="window_start" in parts["train"].column_names)
    if model.config.speaker_norm:
        check_speakers({"train": parts["train"]} if estimate_speakers else parts)
    if estimate_speakers:
        train = select_present(parts["train"], ("speaker", "speed"))
        learnable(row["speaker"] for row in train.to_list() if row.get("speed") is None)
    states = encode(model, extractor, parts, clips, training, budget)
    if estimate_speakers:
        states, speaker_map = with_estimated_speakers(states, parts)
        model.set_speaker_map(torch.from_numpy(speaker_map.weight), speaker_map.distance)
    states = with_shifts(states, parts) if model.config.speaker_norm else states
    if model.config.standardise:
        rows = select_present(parts["train"], StateCollator.columns).to_list()
        model.ser_scale.fit(states.find("audio", row) for row in rows)
    # The shortest and the longest test clip are encoded again, alone: padding and cropping would concern them most.
    by_length = np.argsort(np.array(parts["test"]["duration"][:], dtype=float), kind="stable")
    check_states(model, states, parts["test"].select(dict.fromkeys([*by_length[:1], *by_length[-1:]])))
    return states


def saved_extractor(extractor: FeatureExtractionMixin, clips: ClipArguments) -> FeatureExtractionMixin:
    """The feature extractor to save with a model: where it can (Whisper's on clips), it trims as the run did."""
    if clips.trim_db is None or not hasattr(extractor, "trim_db"):
        return extractor
    trimming = copy.deepcopy(extractor)
    trimming.trim_db = clips.trim_db
    return trimming


def audio_remarks(
    model: SerForAudioClassification,
    states: States | None,  # None if audio was scored
    splits: Mapping[str, Dataset],
) -> list[str]:
    """Lines of the report on cached states and on speaker normalisation."""
    lines = states.remarks if states else []
    if states and states.shifts is not None:
        lines = [*lines, speaker_remark(splits, model.config.model_type)]
    elif model.config.speaker_norm:
        why = "each clip is scored here as that of an average speaker"
        lines = [*lines, f"the model was trained with --speaker_norm, and {why}"]
    return lines
