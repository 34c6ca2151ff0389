"""From frames to one vector per clip, and from layers to one sequence of frames. Ships to the Hub. To add a pooling,
add an entry to `POOLINGS`; everything else follows it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Pooling:
    """One pooling."""

    function: Callable[..., torch.Tensor]  # (frames, mask, scores or None) to (batch, width * dim), see `pool`
    width: int = 1  # of the result, relative to the frames
    parameters: Callable[[int], nn.Module] | None = None  # if learned: dim to the module from frames to scores
    linear: bool = False  # commutes with projections and layer sums, which may follow it at 1 / frames of their cost


def _first(frames, mask, scores=None):
    return frames[:, 0]


def _mean(frames, mask, scores=None):
    real = mask.unsqueeze(-1)
    return frames.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)


def _max(frames, mask, scores=None):
    return frames.masked_fill(~mask.unsqueeze(-1), torch.finfo(frames.dtype).min).amax(dim=1)


def _mean_and_max(frames, mask, scores=None):
    return torch.cat([_mean(frames, mask), _max(frames, mask)], dim=-1)


def _attentive(frames, mask, scores):
    weights = scores.masked_fill(~mask.unsqueeze(-1), torch.finfo(scores.dtype).min).softmax(dim=1)
    return (frames * weights).sum(dim=1)


def attention_scores(dim: int) -> nn.Sequential:
    """One score per frame: dense, tanh, dense, as Lin et al. (2017) with one head; the hidden width 128 is a choice."""
    return nn.Sequential(nn.Linear(dim, 128), nn.Tanh(), nn.Linear(128, 1))


POOLINGS = {
    "mean": Pooling(_mean, linear=True),
    "max": Pooling(_max),
    "meanmax": Pooling(_mean_and_max, width=2),
    "attentive": Pooling(_attentive, parameters=attention_scores),
}
# Poolings of texts; `first` is the vector at [CLS] or <s>.
TEXT_POOLINGS = {"first": Pooling(_first, linear=True), "mean": POOLINGS["mean"], "max": POOLINGS["max"]}


def pool(frames: torch.Tensor, mask: torch.Tensor, pooling: str, scorer: nn.Module | None = None) -> torch.Tensor:
    """`frames` `(batch, frames, dim)` to one vector per clip, `(batch, width * dim)`; padding never counts.

    Args:
        mask: `(batch, frames)`, True = real frame; every clip has at least one.
        pooling: A name of `POOLINGS` or `TEXT_POOLINGS`.
        scorer: The `parameters` module of a learned pooling, which gives `(batch, frames, 1)` scores.

    >>> pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]), "meanmax")
    tensor([[2., 3.]])
    """
    scores = None if scorer is None else scorer(frames)
    return (POOLINGS | TEXT_POOLINGS)[pooling].function(frames, mask, scores)


def pool_layers(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Each layer pooled on its own, by a pooling without parameters: `(batch, layers, frames, dim)` and its mask
    `(batch, frames)` to `(batch, layers, 1, width * dim)` and `(batch, 1)`."""
    layers = states.shape[1]
    pooled = pool(states.flatten(0, 1), mask.repeat_interleave(layers, dim=0), pooling)
    return pooled.unflatten(0, (-1, layers)).unsqueeze(2), mask.any(dim=1, keepdim=True)


class LayerSum(nn.Module):
    """A softmax-weighted sum of all layers (SUPERB, Yang et al. 2021); a module, so that PEFT can save it."""

    def __init__(self, layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(layers) / layers)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, layers, ..., dim)` to `(batch, ..., dim)`."""
        return torch.einsum("l,bl...->b...", self.weight.softmax(dim=-1).to(states), states)
