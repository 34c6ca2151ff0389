"""From samples to frames that are real, and from frames to one vector. Ships to the Hub beside the weights: imports
nothing of this project."""

import torch
import torch.nn.functional as F
from torch import nn


def pool(frames: torch.Tensor, mask: torch.Tensor, pooling: str, scores: torch.Tensor | None = None) -> torch.Tensor:
    """One vector a clip from its real frames; padding never counts.

    Args:
        frames: `(batch, frames, dim)`.
        mask: `(batch, frames)`, True = real frame; every clip has at least one.
        pooling: `mean`, `max`, `meanmax` or `attentive`.
        scores: `(batch, frames, 1)`, for `attentive`: a softmax over real frames makes the weights.

    Returns:
        `(batch, dim)`, or `(batch, 2 * dim)` for `meanmax`.

    >>> pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]), "meanmax")
    tensor([[2., 3.]])
    """
    real = mask.unsqueeze(-1)
    if pooling == "attentive":
        weights = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(dim=1)
        return (frames * weights).sum(dim=1)
    mean = frames.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)
    if pooling == "mean":
        return mean
    largest = frames.masked_fill(~real, torch.finfo(frames.dtype).min).amax(dim=1)
    return largest if pooling == "max" else torch.cat([mean, largest], dim=-1)


class LayerSum(nn.Module):
    """A softmax-weighted sum of all layers (SUPERB, Yang et al. 2021); a module, so that PEFT can save it."""

    def __init__(self, layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(layers) / layers)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, layers, ..., dim)` to `(batch, ..., dim)`."""
        return torch.einsum("l,bl...->b...", self.weight.softmax(dim=-1).to(states), states)


def samples_for(frames: int, audio) -> int:
    """Samples that the convolutions of a raw-audio encoder need for so many frames.

    Args:
        audio: The encoder's configuration, with its `conv_kernel` and `conv_stride`.
    """
    samples = frames
    for kernel, stride in zip(reversed(audio.conv_kernel), reversed(audio.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def long_enough(values: torch.Tensor, mask: torch.Tensor | None, audio, training: bool):
    """Zeros behind clips that are too short for one frame (counted as real, alone and in a batch alike), and behind
    batches too short for SpecAugment's masks (counted as padding), both of which transformers refuses.

    Args:
        values: `(batch, samples)`.
        mask: `(batch, samples)`, 1 = real sample, or None.
        audio: The encoder's configuration.
        training: Whether the encoder is in training mode.

    Returns:
        Both, perhaps longer.
    """
    needed = samples_for(1, audio)
    if mask is not None and (short := mask.sum(dim=-1) < needed).any():
        columns = torch.arange(mask.shape[1], device=mask.device) < needed
        mask = torch.where(short.unsqueeze(-1) & columns, torch.ones_like(mask), mask)
    if values.shape[1] < needed:
        extra = needed - values.shape[1]
        values = F.pad(values, (0, extra))
        mask = None if mask is None else F.pad(mask, (0, extra), value=1)
    # data2vec's configuration has no such switch and always masks.
    if training and getattr(audio, "apply_spec_augment", True) and audio.mask_time_prob > 0:
        extra = samples_for(audio.mask_time_length + 1, audio) - values.shape[1]
        if extra > 0:
            mask = torch.ones_like(values, dtype=torch.long) if mask is None else mask
            values, mask = F.pad(values, (0, extra)), F.pad(mask, (0, extra))
    return values, mask


def frame_mask(encoder, frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`(batch, frames)`, True where the frame is of the clip and not of its padding.

    Args:
        encoder: A raw-audio encoder of transformers.
        frames: `(batch, frames, dim)`, what it made.
        mask: `(batch, samples)`, 1 = real sample, or None.
    """
    if mask is None:
        return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    lengths = encoder._get_feat_extract_output_lengths(mask.sum(dim=-1)).clamp(min=1)
    return torch.arange(frames.shape[1], device=frames.device) < lengths.unsqueeze(-1)
