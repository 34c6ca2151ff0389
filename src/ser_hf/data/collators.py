"""Rows to a padded batch: training decodes audio only here."""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from ..models.encoders import extract
from . import audio
from .audio import AudioError, check_trim_db, float_samples, prepared
from .augmentation import Augmentation, augment, augment_spectrogram, mixup
from .cache import load_array, save_array, settings_folder

logger = logging.getLogger(__name__)


def padded(clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """A zero-padded batch: `input_values` `(batch, samples)`, int16 if all clips are, `lengths` if any is padded."""
    if any(clip.dtype != np.int16 for clip in clips):
        clips = [float_samples(clip) for clip in clips]
    lengths = [len(clip) for clip in clips]
    values = np.zeros((len(clips), max(lengths)), dtype=clips[0].dtype)
    for row, clip in zip(values, clips, strict=True):
        row[: len(clip)] = clip
    batch = {"input_values": torch.from_numpy(values)}
    return batch | ({"lengths": torch.tensor(lengths)} if min(lengths) < max(lengths) else {})


def encoder_input(batch: dict[str, Any]) -> dict[str, Any]:
    """The output of `Wav2Vec2FeatureExtractor` from a `SpeechCollator.compact` batch, on its device and without waiting
    for it: `input_values` `(batch, samples)` float32, each clip with zero mean and unit variance where the extractor
    normalises, and `attention_mask` (1 = real sample) if any clip is padded. Other batches stay as they are."""
    if "scaling" not in batch:
        return batch
    rest = {name: value for name, value in batch.items() if name not in ("input_values", "lengths", "scaling")}
    samples, lengths, (normalize, padding_value) = batch["input_values"], batch.get("lengths"), batch["scaling"]
    values, padding = samples * (1 / 32768 if samples.dtype == torch.int16 else 1.0), None
    if lengths is not None:
        padding = torch.arange(values.shape[1], device=values.device) >= lengths.unsqueeze(-1)
        rest["attention_mask"] = (~padding).int()
    if normalize and padding is not None and values.device.type == "cpu":  # without the padding: twice as fast
        for row, length in zip(values, lengths.tolist(), strict=True):
            _normalize(row[:length], length)
    elif normalize:
        _normalize(values, values.shape[1] if padding is None else lengths.unsqueeze(-1), padding)
    if padding is not None and padding_value:
        values.masked_fill_(padding, padding_value)
    return {"input_values": values, **rest}


def _normalize(values: torch.Tensor, count: int | torch.Tensor, padding: torch.Tensor | None = None) -> None:
    """Give samples `(..., samples)` zero mean and unit variance over the `count` that are no padding, in place."""
    values -= values.sum(dim=-1, keepdim=True) / count
    if padding is not None:
        values.masked_fill_(padding, 0.0)
    power = values.square().sum(dim=-1, keepdim=True) / count
    values /= torch.sqrt(power + 1e-7)  # the feature extractor's constant


@dataclass(eq=False)
class SpeechCollator:
    """Decodes, resamples, trims, augments, normalises and pads the clips of a batch; a class because workers must
    pickle it. `SerTrainer` takes `compact` batches and normalises them on its device. SerError: `trim_db` is not > 0.

    All randomness is a function of the seed, the epoch and the clip: any number of workers and processes draws the
    same, and a resumed run the same as an unbroken one.
    """

    feature_extractor: Any  # of the encoder
    # Leave out, with a warning, a clip that has become unreadable since the corpus was scanned: for training. In
    # evaluation it is an error, because every utterance must be scored.
    skip_unreadable: bool = False
    trim_db: float | None = None  # these three as in `read_clip`; crops are random with `augmentation`, else central
    min_seconds: float = 0.0
    max_seconds: float | None = None
    augmentation: Augmentation | None = None  # in training
    seed: int = 42
    num_labels: int | None = None  # mixup requires it to make class labels soft
    least: int = 1  # samples that the feature extractor needs (`models.encoders.Encoder.least`)
    # Keep what resampling makes of whole clips, under $SER_CACHE by their hash: 230 MB per hour at 16 kHz.
    keep_resampled: bool = True
    epoch: int = field(default=0, init=False)
    passed: float = field(default=1.0, init=False)  # the share of the training before this epoch

    # the columns of a row that are read
    columns: ClassVar = ("id", "audio", "label", "window_start", "window_end", "audio_hash")

    def __post_init__(self):
        check_trim_db(self.trim_db)
        rate = self.feature_extractor.sampling_rate
        self._kept = settings_folder("resampled", audio.__file__, rate) if self.keep_resampled else None

    @property
    def values(self) -> str:
        """Name of the model's input."""
        return self.feature_extractor.model_input_names[0]

    def set_epoch(self, epoch: int, passed: float = 1.0) -> None:
        """The Trainer calls this, so that every epoch draws anew."""
        self.epoch, self.passed = epoch, passed

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(name.encode())])

    def samples(self, row: dict, generator: np.random.Generator | None = None) -> np.ndarray:
        """The samples of a row, with augmentation in training: float32, or int16 where the file holds them so and
        nothing changes them. Raises `AudioError` if it cannot be read."""
        rate, config, samples, random = self.feature_extractor.sampling_rate, self.augmentation, self._decoded(row), {}
        if config is not None and (config.changes_waveforms or self.max_seconds is not None):
            samples = float_samples(samples) if config.changes_waveforms else samples
            generator = generator or self._generator(row["id"])
            change = partial(augment, rate=rate, config=config, generator=generator)
            random = {"change": change, "generator": generator}
        trim_db = self.trim_db if row.get("window_start") is None else None
        return prepared(samples, rate, trim_db, self.min_seconds, self.max_seconds, **random)

    def _decoded(self, row: dict) -> np.ndarray:
        """The samples of a row at the encoder's rate, resampled once."""
        rate, start, end = self.feature_extractor.sampling_rate, row.get("window_start"), row.get("window_end")
        if self._kept is None or start is not None or not row.get("audio_hash"):
            return audio.read(row["audio"], rate, start, end)[0]
        file = self._kept / f"{row['audio_hash']}.safetensors"
        if (kept := load_array(file)) is not None:
            return kept
        samples, found = audio.read(row["audio"], rate)
        if found != rate:
            try:
                save_array(file, samples)
            except OSError as error:
                logger.warning("clips are resampled in every epoch: %s cannot be written (%s)", file.parent, error)
                self._kept = None
        return samples

    def _clip(self, row: dict) -> np.ndarray:
        return self.samples(row)

    def _batch(self, clips: list, names: list[str]) -> dict[str, Any]:
        if self.values != "input_values":
            batch = extract(self.feature_extractor, [float_samples(clip) for clip in clips], self.least)
            if self.augmentation is not None and self.augmentation.spec_p:
                rows = zip(batch[self.values], batch["attention_mask"].sum(dim=1).tolist(), names, strict=True)
                batch[self.values] = torch.stack([self._masked(*row) for row in rows])
            return batch
        normalize = getattr(self.feature_extractor, "do_normalize", False)
        return padded(clips) | {"scaling": (normalize, self.feature_extractor.padding_value)}

    def _masked(self, values: torch.Tensor, steps: int, name: str) -> torch.Tensor:
        """SpecAugment on the real `steps` of one clip's log-mel features: Whisper's `(bands, steps)`, or w2v-BERT's
        `(steps, stride * bands)`, whose step is several frames in a row."""
        stacked, values = hasattr(self.feature_extractor, "stride"), values.clone()
        bands = values[:steps].view(-1, self.feature_extractor.feature_size).T if stacked else values[:, :steps]
        masked = augment_spectrogram(bands.numpy(), self.augmentation, self._generator(f"masks {name}"), self.passed)
        bands.copy_(torch.from_numpy(masked))
        return values

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return encoder_input(self.compact(rows))

    def compact(self, rows: list[dict]) -> dict[str, Any]:
        """A batch before `encoder_input`, which moves in half the memory: where the encoder reads waveforms, those of
        `padded`, and `scaling` (whether to normalise, the padding's value)."""
        clips, labels, names = [], [], []
        for row in rows:
            try:
                clips.append(self._clip(row))
            except AudioError as error:
                if not self.skip_unreadable:
                    raise
                logger.warning("skipped while training: %s", error)
                continue
            labels.append(row["label"])
            names.append(row["id"])
        if not clips:
            raise AudioError(f"none of the {len(rows)} clips of a batch can be read; the first is {rows[0]['id']}")
        return self._mix({**self._batch(clips, names), "labels": torch.tensor(labels)}, rows[0]["id"])

    def _mix(self, batch: dict[str, Any], name: str) -> dict[str, Any]:
        config = self.augmentation
        if config is None or config.mixup_p == 0 or len(batch["labels"]) < 2:
            return batch
        batch = encoder_input(batch)
        labels = batch["labels"]
        if not labels.dtype.is_floating_point:
            labels = torch.nn.functional.one_hot(labels, self.num_labels).float()
        generator, mask = self._generator(f"mixup {name}"), batch.get("attention_mask")
        values, labels, mask = mixup(batch[self.values], labels, config.mixup_alpha, generator, mask, config.mixup_p)
        return {self.values: values, "labels": labels} | ({} if mask is None else {"attention_mask": mask})
