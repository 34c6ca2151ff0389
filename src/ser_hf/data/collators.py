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
from .audio import AudioError, check_trim_db, read_clip
from .augmentation import Augmentation, augment, mixup

logger = logging.getLogger(__name__)


def pad_and_normalize(
    clips: Sequence[np.ndarray], normalize: bool, padding_value: float = 0.0
) -> dict[str, torch.Tensor]:
    """The output of `Wav2Vec2FeatureExtractor` for mono float32 clips, three times faster: `input_values`
    `(batch, samples)`, and `attention_mask` (1 = real sample) if any clip is padded. With `normalize` each clip has
    zero mean and unit variance over its own samples."""
    lengths = torch.tensor([len(clip) for clip in clips])
    values = torch.full((len(clips), int(lengths.max())), padding_value)
    for row, clip in zip(values, clips, strict=True):
        samples = row[: len(clip)]
        samples.copy_(torch.from_numpy(np.ascontiguousarray(clip, dtype=np.float32)))
        if normalize:  # not torch.var_mean: it takes ten times as long as these two passes
            samples -= samples.mean()
            samples /= torch.sqrt(samples.dot(samples) / len(clip) + 1e-7)  # 1e-7: the feature extractor's constant
    batch = {"input_values": values}
    if int(lengths.min()) < values.shape[1]:
        batch["attention_mask"] = (torch.arange(values.shape[1]) < lengths.unsqueeze(-1)).long()
    return batch


@dataclass(eq=False)
class SpeechCollator:
    """Decodes, resamples, trims, augments, normalises and pads the clips of a batch; a class because workers must
    pickle it. SerError: `trim_db` is not above 0.

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
    epoch: int = field(default=0, init=False)

    columns: ClassVar = ("id", "audio", "label", "window_start", "window_end")  # the columns of a row that are read

    def __post_init__(self):
        check_trim_db(self.trim_db)

    @property
    def values(self) -> str:
        """Name of the model's input."""
        return self.feature_extractor.model_input_names[0]

    def set_epoch(self, epoch: int) -> None:
        """The batch sampler calls this, so that every epoch draws anew."""
        self.epoch = epoch

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(name.encode())])

    def samples(self, row: dict, generator: np.random.Generator) -> np.ndarray:
        """The samples of a row, with augmentation in training; raises `AudioError` if it cannot be read."""
        rate, config, random = self.feature_extractor.sampling_rate, self.augmentation, {}
        if config is not None:
            change = partial(augment, rate=rate, config=config, generator=generator)
            random = {"change": change, "generator": generator}
        times = row.get("window_start"), row.get("window_end")
        return read_clip(row["audio"], rate, self.trim_db, self.min_seconds, self.max_seconds, *times, **random)

    def _clip(self, row: dict) -> np.ndarray:
        return self.samples(row, self._generator(row["id"]))

    def _batch(self, clips: list) -> dict[str, torch.Tensor]:
        if self.values != "input_values":
            return extract(self.feature_extractor, clips, self.least)
        normalize = getattr(self.feature_extractor, "do_normalize", False)
        return pad_and_normalize(clips, normalize, self.feature_extractor.padding_value)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        clips, labels = [], []
        for row in rows:
            try:
                clips.append(self._clip(row))
            except AudioError as error:
                if not self.skip_unreadable:
                    raise
                logger.warning("skipped while training: %s", error)
                continue
            labels.append(row["label"])
        if not clips:
            raise AudioError(f"none of the {len(rows)} clips of a batch can be read; the first is {rows[0]['id']}")
        batch = self._batch(clips)
        batch["labels"] = torch.tensor(labels)
        return self._mix(batch, rows[0]["id"])

    def _mix(self, batch: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
        config = self.augmentation
        if config is None or config.mixup_p == 0 or len(batch["labels"]) < 2:
            return batch
        labels = batch["labels"]
        if not labels.dtype.is_floating_point:
            labels = torch.nn.functional.one_hot(labels, self.num_labels).float()
        generator, mask = self._generator(f"mixup {name}"), batch.get("attention_mask")
        values, labels, mask = mixup(batch[self.values], labels, config.mixup_alpha, generator, mask, config.mixup_p)
        return {self.values: values, "labels": labels} | ({} if mask is None else {"attention_mask": mask})
