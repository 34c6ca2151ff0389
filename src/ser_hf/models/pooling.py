"""From frames to one vector per clip, and from layers to one sequence of frames. Ships to the Hub. To add a pooling,
add an entry to `POOLINGS`; everything else follows it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pooling:
    """One pooling."""

    function: Callable[..., Tensor]  # (frames, mask, scores or None) to (batch, width * dim), see `pool`
    width: int = 1  # of the result, relative to the frames
    parameters: Callable[[int], nn.Module] | None = None  # if learned: dim to the module from frames to scores
    linear: bool = False  # commutes with projections and layer sums, which may follow it at 1 / frames of their cost


def _first(frames: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    return frames[:, 0]


def _mean(frames: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    real = mask.unsqueeze(-1)
    return frames.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)


def _max(frames: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    return frames.masked_fill(~mask.unsqueeze(-1), torch.finfo(frames.dtype).min).amax(dim=1)


def _mean_and_max(frames: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    return torch.cat([_mean(frames, mask), _max(frames, mask)], dim=-1)


def _mean_and_std(frames: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    mean, real = _mean(frames, mask), mask.unsqueeze(-1)
    squares = (frames - mean.unsqueeze(1)).square().masked_fill(~real, 0.0)
    # The small constant keeps the gradient of the root finite where all frames are equal, as for a clip of one.
    return torch.cat([mean, (squares.sum(dim=1) / real.sum(dim=1) + 1e-8).sqrt()], dim=-1)


def _attentive(frames: Tensor, mask: Tensor, scores: Tensor) -> Tensor:
    weights = scores.masked_fill(~mask.unsqueeze(-1), torch.finfo(scores.dtype).min).softmax(dim=1)
    return (frames * weights).sum(dim=1)


def attention_scores(dim: int) -> nn.Sequential:
    """One score per frame: dense, tanh, dense, as Lin et al. (2017) with one head; the hidden width 128 is a choice."""
    return nn.Sequential(nn.Linear(dim, 128), nn.Tanh(), nn.Linear(128, 1))


POOLINGS = {
    "mean": Pooling(_mean, linear=True),
    "max": Pooling(_max),
    "meanmax": Pooling(_mean_and_max, width=2),
    "meanstd": Pooling(_mean_and_std, width=2),  # statistics pooling (Snyder et al. 2017)
    "attentive": Pooling(_attentive, parameters=attention_scores),
}
# Poolings of texts; `first` is the vector at [CLS] or <s>.
TEXT_POOLINGS = {"first": Pooling(_first, linear=True), "mean": POOLINGS["mean"], "max": POOLINGS["max"]}


def pool(frames: Tensor, mask: Tensor, pooling: str, scorer: nn.Module | None = None) -> Tensor:
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


def pool_layers(states: Tensor, mask: Tensor, pooling: str) -> tuple[Tensor, Tensor]:
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

    def forward(self, states: Tensor) -> Tensor:
        """`(batch, layers, ..., dim)` to `(batch, ..., dim)`."""
        return torch.einsum("l,bl...->b...", self.weight.softmax(dim=-1).to(states), states)


class Scale(nn.Module):
    """Hidden states `(batch, layers, ..., dim)` to zero mean and unit variance, each layer and dimension on its own, by
    numbers that are measured once (`fit`) and saved with the model."""

    def __init__(self, layers: int, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(layers, dim))
        self.register_buffer("std", torch.ones(layers, dim))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Measure on hidden states `(layers, frames, dim)` of clips, each clip with equal weight. Where nothing varies
        (by 1e-6 of the largest deviation) nothing is scaled."""
        count, total, squares = 0, torch.zeros_like(self.mean).double(), torch.zeros_like(self.mean).double()
        for states in batches:
            values = states.to(total)
            count, total, squares = count + 1, total + values.mean(dim=1), squares + values.square().mean(dim=1)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0.0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std)))

    def forward(self, states: Tensor) -> Tensor:
        shape = (1, self.mean.shape[0], *(1 for _ in states.shape[2:-1]), self.mean.shape[1])
        return (states - self.mean.view(shape).to(states)) / self.std.view(shape).to(states)
