"""Computed over real seconds, and the largest over the mean batch, of three ways to make batches. Exact, not timed."""

import numpy as np

from ser_hf.data.batching import LengthBatchSampler

from .corpus import iemocap_lengths
from .figures import Figure, Options

CLIPS, WORST = 6000, 0.167  # a sixth
EPOCHS = 3  # whose mean is reported; they differ in the fourth digit


def padding_factor(durations: np.ndarray, batches: list[np.ndarray]) -> float:
    """Padded seconds divided by real seconds; 1.0 is no padding."""
    padded = sum(durations[batch].max() * len(batch) for batch in batches)
    return float(padded / durations[np.concatenate(batches)].sum())


def random_batches(clips: int, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The batches of a plain Trainer."""
    order = rng.permutation(clips)
    return [order[i : i + count] for i in range(0, clips, count)]


def length_groups(seconds: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """transformers' `group_by_length`: random pools of 50 batches, each sorted by length and cut into batches.

    >>> [b.tolist() for b in length_groups(np.array([1.0, 9.0, 2.0, 8.0]), 2, np.random.default_rng(0))]
    [[1, 3], [2, 0]]
    """
    order, pool = rng.permutation(len(seconds)), 50 * count
    pools = [order[i : i + pool] for i in range(0, len(order), pool)]
    pools = [part[np.argsort(-seconds[part], kind="stable")] for part in pools]
    return [part[i : i + count] for part in pools for i in range(0, len(part), count)]


def largest(seconds: np.ndarray, batches: list[np.ndarray]) -> float:
    """Padded seconds of the largest batch, which decides the memory: what a step keeps grows with them."""
    return float(max(seconds[batch].max() * len(batch) for batch in batches))


def largest_over_mean(seconds: np.ndarray, batches: list[np.ndarray]) -> float:
    """Padded seconds of the largest batch over those of the mean one.

    >>> largest_over_mean(np.array([1.0, 2.0, 2.0]), [np.array([0, 1]), np.array([2])])  # 2 x 2 s and 1 x 2 s
    1.3333333333333333
    """
    padded = [seconds[batch].max() * len(batch) for batch in batches]
    return float(max(padded) / np.mean(padded))


def measure(clips: int = CLIPS) -> dict[str, tuple[float, float, float]]:
    """`{way: (padding factor, largest over mean batch, seconds of the largest)}`, the first two means over epochs."""
    seconds = iemocap_lengths(clips)
    sampler = LengthBatchSampler(seconds, 36.0)
    ways = {
        "budget of 36 s": sampler.batches,
        "random 8": lambda epoch: random_batches(clips, 8, np.random.default_rng(epoch)),
        "length groups of 8": lambda epoch: length_groups(seconds, 8, np.random.default_rng(epoch)),
    }
    found = {}
    for way, batches in ways.items():
        epochs = [batches(epoch) for epoch in range(EPOCHS)]
        found[way] = (
            float(np.mean([padding_factor(seconds, made) for made in epochs])),
            float(np.mean([largest_over_mean(seconds, made) for made in epochs])),
            max(largest(seconds, made) for made in epochs),
        )
    return found


def run(options: Options) -> list[Figure]:
    figures, found = [], measure()
    for way, (factor, ratio, _) in found.items():
        ours = way.startswith("budget")
        figures += [
            Figure(f"padding factor, {way}", factor, "x", at_most=1.05 if ours else None),
            Figure(f"largest / mean batch, {way}", ratio, "x", at_most=1.3 if ours else None),
        ]
    worst = found["budget of 36 s"][2] / found["random 8"][2]
    return [*figures, Figure("largest batch in padded seconds, budget / random 8", worst, "x", at_most=WORST)]
