"""Rows to a padded batch: the only place where audio is decoded while training."""

import logging
import zlib
from collections.abc import Sequence

import numpy as np
import torch

from .audio import AudioError, decode
from .augmentation import Augmentation, augment, mixup
from .trimming import crop, fit_length, trim

logger = logging.getLogger(__name__)


def pad_and_normalize(
    clips: Sequence[np.ndarray], normalize: bool, padding_value: float = 0.0
) -> dict[str, torch.Tensor]:
    """What `Wav2Vec2FeatureExtractor` makes of the clips, three times faster (shared/PLATFORM.md 3.1).

    Args:
        clips: Mono float32 samples, one array a clip.
        normalize: Zero mean and unit variance for each clip, over its own samples.
        padding_value: What fills the rest of shorter clips.

    Returns:
        `input_values` `(batch, samples)`, and `attention_mask` (1 = real sample) where some clip is padded.
    """
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


class SpeechCollator:
    """Decodes, resamples, trims, augments, normalises and pads the clips of a batch; a class because workers must
    pickle it.

    What is random is a function of the seed, the epoch and the clip, whatever worker or process makes it: two
    processes draw what one does, and a resumed run what an unbroken one does.

    Args:
        feature_extractor: Of the encoder: says the rate in Hz, whether to normalise and what to pad with.
        skip_unreadable: In training a clip that has become unreadable since the corpus was scanned is left out with a
            warning; in evaluation it is an error, because every utterance must be scored.
        trim_db: Cut leading and trailing silence below this many dB under the clip's loudest; None for none. Not for
            windows, whose times it would shift.
        min_seconds, max_seconds: Shorter clips get zeros behind; of longer ones a stretch is taken, at random if
            `augmentation` is given and from the middle otherwise.
        augmentation: What is changed at random, in training; None in evaluation.
        seed: Of all randomness.
        num_labels: Needed for mixup, which makes class labels soft.
    """

    columns = ("id", "audio", "label", "window_start", "window_end")  # what is read of a row, where it is there
    values = "input_values"  # what the model calls its input

    def __init__(
        self,
        feature_extractor,
        skip_unreadable: bool = False,
        trim_db: float | None = None,
        min_seconds: float = 0.0,
        max_seconds: float | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 42,
        num_labels: int | None = None,
    ):
        self.sampling_rate = feature_extractor.sampling_rate
        self.normalize = getattr(feature_extractor, "do_normalize", False)
        self.padding_value = feature_extractor.padding_value
        self.skip_unreadable = skip_unreadable
        self.trim_db, self.min_seconds, self.max_seconds = trim_db, min_seconds, max_seconds
        self.augmentation, self.seed, self.num_labels = augmentation, seed, num_labels
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the batch sampler, so that every epoch draws anew."""
        self.epoch = epoch

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(name.encode())])

    def _clip(self, row: dict) -> np.ndarray:
        """What the model is to hear of a row; raises `AudioError` where it cannot be read."""
        window = row.get("window_start"), row.get("window_end")
        samples = decode(row["audio"], self.sampling_rate, *window)
        if self.trim_db is not None and window[0] is None:
            first, end = trim(samples, self.sampling_rate, self.trim_db)
            samples = samples[first:end]
        return self._change(samples, self._generator(row["id"]))

    def _change(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        training = self.augmentation is not None
        if training:
            samples = augment(samples, self.sampling_rate, self.augmentation, generator)
        if self.max_seconds is not None:
            how = "random" if training else "centre"
            samples = crop(samples, self.max_seconds, self.sampling_rate, how, generator)
        return fit_length(samples, round(self.min_seconds * self.sampling_rate))

    def _batch(self, clips: list) -> dict[str, torch.Tensor]:
        return pad_and_normalize(clips, self.normalize, self.padding_value)

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
            raise AudioError(f"none of the {len(rows)} clips of a batch can be read, first {rows[0]['id']}")
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
        mixed = mixup(
            batch[self.values],
            labels,
            config.mixup_alpha,
            self._generator(f"mixup {name}"),
            batch.get("attention_mask"),
            config.mixup_p,
        )
        values, labels, mask = mixed
        batch = {self.values: values, "labels": labels}
        return batch if mask is None else {**batch, "attention_mask": mask}
