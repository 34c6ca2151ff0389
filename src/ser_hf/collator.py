"""Rows to a padded batch: the only place where audio is decoded while training."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from .audio import AudioError, decode

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
        samples = torch.from_numpy(np.ascontiguousarray(clip, dtype=np.float32))
        if normalize:
            variance, mean = torch.var_mean(samples, correction=0)
            samples = (samples - mean) / torch.sqrt(variance + 1e-7)  # 1e-7: the feature extractor's constant
        row[: len(clip)] = samples
    batch = {"input_values": values}
    if int(lengths.min()) < values.shape[1]:
        batch["attention_mask"] = (torch.arange(values.shape[1]) < lengths.unsqueeze(-1)).long()
    return batch


class SpeechCollator:
    """Decodes, resamples, normalises and pads the clips of a batch; a class because workers must pickle it.

    Args:
        feature_extractor: Of the encoder: says the rate in Hz, whether to normalise and what to pad with.
        skip_unreadable: In training a clip that has become unreadable since the corpus was scanned is left out with a
            warning; in evaluation it is an error, because every utterance must be scored.
    """

    def __init__(self, feature_extractor, skip_unreadable: bool = False):
        self.sampling_rate = feature_extractor.sampling_rate
        self.normalize = feature_extractor.do_normalize
        self.padding_value = feature_extractor.padding_value
        self.skip_unreadable = skip_unreadable

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        clips, labels = [], []
        for row in rows:
            try:
                clips.append(decode(row["audio"], self.sampling_rate))
                labels.append(row["label"])
            except AudioError as error:
                if not self.skip_unreadable:
                    raise
                logger.warning("skipped while training: %s", error)
        if not clips:
            raise AudioError(f"none of the {len(rows)} clips of a batch can be read, first {rows[0]['id']}")
        batch = pad_and_normalize(clips, self.normalize, self.padding_value)
        batch["labels"] = torch.tensor(labels)
        return batch
