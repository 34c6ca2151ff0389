"""Spectrogram models from flags, and their features: computed once a clip, kept by content, changed while training."""

import logging
from collections import Counter

import numpy as np
import torch
from datasets import Dataset

from ..data.augmentation import augment_spectrogram
from ..data.cache import Store, settings_folder
from ..data.collators import SpeechCollator
from ..errors import SerError
from .arguments import check_whole_clips

logger = logging.getLogger("ser_hf")

# Changes of the waveform, after which features must be computed anew.
WAVEFORM = ("crop_p", "speed_p", "pitch_p", "reverb_p", "noise_p", "gain_p")
WRITE_EVERY = 256  # clips a file of the store


def spectrogram_model(flags, report):
    """The model and the feature extractor that the flags ask for.

    Args:
        flags: What `args.parse` returned, of the system `spectrogram`.
        report: `CorpusReport`, for the labels.

    Raises:
        SerError: checkpoint not found or of other labels; settings that do not fit; no ImageNet weights.
    """
    from ..models import SerForSpectrogramClassification, SerSpectrogramConfig, SerSpectrogramFeatureExtractor
    from .imagenet import load

    args, name = flags.model, flags.model.model_name_or_path
    try:
        if name:
            model = SerForSpectrogramClassification.from_pretrained(name)
            extractor = SerSpectrogramFeatureExtractor.from_pretrained(name)
            if args.speaker_norm and extractor.mean_spectrum is None:
                raise SerError(f"--speaker_norm: {name} was trained without it, and must be trained anew")
            if args.speaker_norm is False and extractor.mean_spectrum is not None and flags.training.do_train:
                raise SerError(f"--speaker_norm false: {name} was trained with it; false is for --do_train false")
            if args.speaker_norm is None and extractor.mean_spectrum is not None:
                check_whole_clips(flags.data)
                args.speaker_norm = True
        else:
            kind = args.features or ("mfcc" if args.arch.startswith("cnn1d") else "mel")
            sizes = {key: getattr(args, key) for key in ("n_mels", "n_mfcc", "n_fft", "win_length", "hop_length")}
            rows = args.n_mels if kind == "mel" else args.n_mfcc
            extractor = SerSpectrogramFeatureExtractor(
                args.sampling_rate,
                kind,
                normalize=args.normalize,
                trim_db=flags.data.trim_db,
                mean_spectrum=[0.0] * rows if args.speaker_norm else None,  # until `feature_collators` has heard them
                **sizes,
            )
            config = SerSpectrogramConfig(
                arch=args.arch,
                rows=rows,
                reduce=args.reduce,
                pooling=args.pooling,
                dropout=args.dropout,
                id2label=dict(enumerate(report.label_names)),
                label2id={label: index for index, label in enumerate(report.label_names)},
                problem_type=report.problem_type,
            )
            model = SerForSpectrogramClassification(config)
    except (OSError, ValueError, TypeError) as error:
        raise SerError(f"model {name or args.arch!r}: {' '.join(str(error).split())}") from None
    if list(model.config.id2label.values()) != report.label_names:
        raise SerError(
            f"{name} answers {', '.join(model.config.id2label.values())}, "
            f"but the corpus's labels are {', '.join(report.label_names)}: choose another --labels"
        )
    if args.imagenet and not name:
        load(model)
    return model.to(memory_format=torch.channels_last), extractor  # the same numbers, a third faster on a CPU


def content(row: dict) -> str:
    """The name of a row's features in the store: its audio's hash, and the window's times in it."""
    start, end = row.get("window_start"), row.get("window_end")
    return row["audio_hash"] if start is None else f"{row['audio_hash']} {start} {end}"


class FeatureCollator(SpeechCollator):
    """Rows to a padded batch of features, from the store where they are in it and from the audio otherwise.

    Waveforms are changed only where no store is given; SpecAugment and mixup change what comes from a store too.

    Args:
        extractor: `SerSpectrogramFeatureExtractor`, which trims and scales too.
        store: Where the features are (`compute`), before they are scaled; None computes them from each clip's audio,
            changed at random.
        means: Mean spectra `(rows,)` by speaker (`speaker_means`), if features are relative to them.
        Others: as in `SpeechCollator`.
    """

    columns = (*SpeechCollator.columns, "audio_hash", "speaker")
    values = "input_features"

    def __init__(self, extractor, store: Store | None, means: dict[str, torch.Tensor] | None = None, **kwargs):
        super().__init__(extractor, trim_db=extractor.trim_db, **kwargs)
        self.extractor, self.store, self.means = extractor, store, means or {}

    def from_audio(self, row: dict, generator: np.random.Generator) -> torch.Tensor:
        """`(rows, frames)` float32 of a row, not scaled and without SpecAugment."""
        return self.extractor.unscaled(self.samples(row, generator, trim_db=None)).float()

    def unscaled(self, row: dict, generator: np.random.Generator) -> torch.Tensor:
        """The same, from the store where it has them."""
        stored = self.store is not None and row.get("audio_hash")
        return self.store[content(row)] if stored else self.from_audio(row, generator)

    def _clip(self, row: dict) -> torch.Tensor:
        generator = self._generator(row["id"])
        mean = self.means[row["speaker"]] if self.means else None
        features = self.extractor.scaled(self.unscaled(row, generator), mean)
        if self.augmentation is None or not self.augmentation.spec_p:
            return features
        # What is hidden gets the mean; of MFCC each row its own, for coefficients have not one scale as mel bands do.
        mean = features.mean(dim=1, keepdim=True) if self.extractor.kind == "mfcc" else torch.zeros(1)
        return torch.from_numpy(augment_spectrogram((features - mean).numpy(), self.augmentation, generator)) + mean

    def _batch(self, clips: list) -> dict[str, torch.Tensor]:
        return self.extractor.batch(clips)


def compute(store: Store, rows: Dataset, collator: FeatureCollator) -> int:
    """Put into the store what is missing of the rows' features; returns how many clips were computed.

    Raises:
        AudioError: a clip cannot be read.
    """
    table = rows.select_columns([column for column in collator.columns if column in rows.column_names])
    unread = table.select_columns([column for column in table.column_names if column != "audio"])
    names = [content(row) for row in unread]
    missing = [position for position in store.missing(names) if unread[position]["audio_hash"]]
    for first in range(0, len(missing), WRITE_EVERY):
        made = {}
        for position in missing[first : first + WRITE_EVERY]:
            row = table[position]
            made[names[position]] = collator.from_audio(row, collator._generator(row["id"]))
        store.add(made)
    return len(missing)


def speaker_means(parts, collator: FeatureCollator) -> dict[str, torch.Tensor]:
    """The mean spectrum `(rows,)` of each speaker of all parts, over that speaker's rows, each counting once.

    Speaker normalisation as in Schuller et al. (2010), "Cross-Corpus Acoustic Emotion Recognition: Variances and
    Strategies", of the mean alone. No label is read. Of a speaker who is tested these are the clips to be scored: who
    uses the model needs clips of the speaker too (`adapted`).

    Raises:
        AudioError: a clip cannot be read.
    """
    sums, counts = {}, Counter()
    for rows in parts.values():
        unread = ("audio",) if collator.store is not None and None not in rows["audio_hash"][:] else ()
        kept = [name for name in collator.columns if name in rows.column_names and name not in unread]
        for row in rows.select_columns(kept):
            mean = collator.unscaled(row, collator._generator(row["id"])).double().mean(dim=1)
            sums[row["speaker"]] = sums.get(row["speaker"], 0) + mean
            counts[row["speaker"]] += 1
    return {speaker: (total / counts[speaker]).float() for speaker, total in sums.items()}


def speaker_remark(splits) -> str:
    """How much is known of the tested speakers where features are relative to their means."""
    heard = Counter(speaker for rows in splits.values() for speaker in rows["speaker"])
    counts = [heard[speaker] for speaker in set(splits["test"]["speaker"])]
    return (
        f"SPEAKER-NORMALISED: features are relative to each speaker's mean spectrum, in test of {min(counts)} to "
        f"{max(counts)} utterances; do not compare with systems that hear one clip of a stranger"
    )


def feature_collators(extractor, flags, report, parts) -> dict:
    """`data_collator` and `eval_collator` over one store that holds the features of all parts.

    Without a store are training clips whose waveforms are to be changed, and all where of long clips only a stretch is
    taken (`--max_seconds`), which in training is another in every epoch. With `--speaker_norm` the extractor is given
    the mean spectrum of the training speakers.

    Raises:
        SerError: with `--speaker_norm`, an utterance has no speaker.
        AudioError: a clip cannot be read.
    """
    data, training, augmentation = flags.data, flags.training, flags.augmentation
    same = {"min_seconds": data.min_seconds, "max_seconds": data.max_seconds, "seed": training.seed}
    by_speaker, store = flags.model.speaker_norm, None
    speakers = [speaker for rows in parts.values() for speaker in rows["speaker"]] if by_speaker else []
    if None in speakers:
        count = f"{speakers.count(None)} of {len(speakers)} utterances do not say who speaks"
        raise SerError(f"--speaker_norm: {count}; --speaker_norm false goes without")
    if data.max_seconds is None:
        # What is done when they are read (`scaled`) is not in the store.
        scaling = ("auto_map", "mean_spectrum", "normalize", "padding_value")
        settings = {key: value for key, value in extractor.to_dict().items() if key not in scaling}
        store = Store(settings_folder("features", sorted(settings.items()), data.min_seconds))
    plain = FeatureCollator(extractor, store, **same)
    changed = any(getattr(augmentation, name) for name in WAVEFORM)
    if store is not None:
        with training.main_process_first():
            wanted = [part for name, part in parts.items() if by_speaker or not (changed and name == "train")]
            count = sum(compute(store, rows, plain) for rows in wanted if len(rows))
            if count and training.process_index == 0:
                logger.info("features of %d clips computed into %s", count, store.folder)
    if by_speaker:
        plain.means = speaker_means(parts, plain)
        if training.do_train:
            heard = sorted(set(parts["train"]["speaker"]))
            extractor.mean_spectrum = torch.stack([plain.means[name] for name in heard]).mean(dim=0).tolist()
    data_collator = FeatureCollator(
        extractor,
        None if changed else store,
        plain.means,
        skip_unreadable=True,
        augmentation=augmentation,
        num_labels=len(report.label_names),
        **same,
    )
    return {"data_collator": data_collator, "eval_collator": plain}


def as_heard(rows: Dataset, collator: FeatureCollator) -> Dataset:
    """`rows` with the seconds that are left of each clip after trimming as their `duration`, so that clips of equal
    length share a batch; unchanged where nothing is trimmed or the features are not in a store."""
    extractor, store = collator.extractor, collator.store
    if extractor.trim_db is None or store is None or None in rows["audio_hash"]:
        return rows
    kept = [name for name in collator.columns if name in rows.column_names and name != "audio"]
    frames = [store[content(row)].shape[1] for row in rows.select_columns(kept)]
    seconds = np.array(frames, np.float32) * extractor.hop_length / extractor.sampling_rate
    return rows.select_columns(kept).add_column("duration", seconds)


def early_stopping(run, has_validation: bool) -> list:
    """The Trainer's callback for `--early_stopping_patience`, if it is given.

    Raises:
        SerError: there is no validation to watch.
    """
    from transformers import EarlyStoppingCallback

    patience = run.early_stopping_patience
    if patience is None:
        return []
    if patience < 1 or not has_validation:
        problem = "must be at least 1" if patience < 1 else "needs validation: give --validation_fraction"
        raise SerError(f"--early_stopping_patience {patience}: {problem}")
    return [EarlyStoppingCallback(patience)]
