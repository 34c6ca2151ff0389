"""95 % intervals by bootstrap over clusters (speakers), of any metric and of differences between systems.

Utterances of one speaker resemble each other, so whole speakers are resampled (Ferrer & Riera, confidence intervals for
evaluation in machine learning, 2022). An utterance of an unknown speaker is a cluster of its own. Fewer than `FEW`
clusters have too few outcomes (two speakers of equal figures would give an interval of width 0), so the utterances
within each drawn speaker are resampled too (a two-stage bootstrap, Davison & Hinkley 1997, section 3.8), and of one
speaker the utterances alone; reports say so (`resampled`). Draws depend on the clusters and the seed alone: two systems
on the same utterances get the same draws, so that differences of their metrics are paired.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .metrics import from_counts

FEW = 5
# `expected_interval`: the system is right on this share of clips, with this standard deviation between speakers, twice
# that between RAVDESS's folds of four speakers (recipes/results).
RIGHT, SPREAD = 0.7, 0.1


def clusters_of(speakers: Sequence[str | None]) -> tuple[np.ndarray, int, int]:
    """The cluster of each utterance `(utterances,)`, the number of speakers, and of utterances of unknown speakers.

    >>> clusters_of(["b", None, "a", "b", None])
    (array([1, 2, 0, 1, 3]), 2, 2)
    """
    cluster, names = pd.factorize(np.asarray(speakers, dtype=object), sort=True)  # -1: unknown
    unknown = np.flatnonzero(cluster < 0)
    cluster[unknown] = len(names) + np.arange(len(unknown))
    return cluster, len(names), len(unknown)


def resampled(speakers: Sequence[str | None]) -> str:
    """What the intervals are over, in words.

    >>> resampled(["a"] * 9), resampled(list("abcde"))
    ('utterances of one speaker', 'speakers')
    >>> resampled(list("aabb"))
    'speakers and the utterances of each (fewer than five say little about other speakers)'
    """
    _, named, unknown = clusters_of(speakers)
    if named == 1 and not unknown:
        return "utterances of one speaker"
    over = " and ".join(["speakers"] * (named > 0) + ["utterances of unknown speakers"] * (unknown > 0))
    few = " and the utterances of each (fewer than five say little about other speakers)"
    return over + few * (0 < named < FEW - unknown)


def draw(speakers: Sequence[str | None], samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Resample clusters with replacement, and where they are fewer than `FEW` the utterances within each. Returns
    `(utterances,)`, the unit of each utterance (its cluster, or itself where utterances are resampled), and `(samples,
    units)`, how often each draw has each unit."""
    cluster, *counts = clusters_of(speakers)
    if sum(counts) == 1:
        cluster = np.arange(len(cluster))
    count, generator = int(cluster.max()) + 1, np.random.default_rng(seed)
    drawn = generator.integers(count, size=(samples, count)) + count * np.arange(samples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=samples * count).reshape(samples, count)
    if count >= FEW:
        return cluster, times
    within = np.empty((samples, len(cluster)), dtype=int)
    for number in range(count):  # a cluster of n utterances that is drawn k times: k * n utterances
        rows = np.flatnonzero(cluster == number)
        within[:, rows] = generator.multinomial(times[:, number] * len(rows), np.full(len(rows), 1 / len(rows)))
    return np.arange(len(cluster)), within


def class_draws(
    references: ArrayLike,
    predictions: ArrayLike,
    speakers: Sequence[str | None],
    num_labels: int,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """UAR, WA, macro and weighted F1 of every draw, `{metric: (samples,)}`, without a loop over draws: counts of a draw
    are sums of its units' counts."""
    references, predictions = np.asarray(references), np.asarray(predictions)
    unit, times = draw(speakers, samples, seed)
    count, times = times.shape[1], times.astype(float)

    def counts(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        per_unit = np.bincount(unit[rows] * num_labels + labels[rows], minlength=count * num_labels)
        return times @ per_unit.reshape(count, num_labels)

    every, correct = np.arange(len(references)), np.flatnonzero(references == predictions)
    return from_counts(counts(correct, references), counts(every, references), counts(every, predictions))


def metric_draws(
    compute: Callable[[np.ndarray], dict], speakers: Sequence[str | None], samples: int = 500
) -> dict[str, np.ndarray]:
    """Any metrics of every draw, `{metric: (samples,)}`, NaN where undefined; `compute` takes row numbers and returns
    None for an undefined metric."""
    unit, times = draw(speakers, samples)
    rows = np.arange(len(unit))
    tables = [compute(np.repeat(rows, of_draw[unit])) for of_draw in times]
    return {name: np.array([table[name] for table in tables], dtype=float) for name in tables[0]}


def intervals(draws: dict[str, np.ndarray]) -> dict[str, list[float] | None]:
    """95 % percentile interval of each metric's draws; None where a tenth of them or more are undefined (NaN).

    >>> intervals({"uar": np.arange(101.0), "ccc": np.full(10, np.nan)})
    {'uar': [2.5, 97.5], 'ccc': None}
    """
    defined = {name: values[~np.isnan(values)] for name, values in draws.items()}
    return {
        name: np.percentile(values, [2.5, 97.5]).tolist() if len(values) > 0.9 * len(draws[name]) else None
        for name, values in defined.items()
    }


def expected_interval(labels: Sequence[int], speakers: Sequence[str | None], num_labels: int) -> list[float]:
    """The interval of the UAR that reports would give, on these clips, a system that is right on `RIGHT` of them: the
    mean of 20 simulations. Each speaker has an accuracy of their own (`SPREAD`)."""
    labels, (cluster, *_) = np.array(labels), clusters_of(speakers)
    ends = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        accuracy = generator.normal(RIGHT, SPREAD, cluster.max() + 1).clip(0, 1)
        right = generator.random(len(labels)) < accuracy[cluster]
        others = (labels + generator.integers(1, num_labels, len(labels))) % num_labels
        draws = class_draws(labels, np.where(right, labels, others), speakers, num_labels, 500, seed)
        ends.append(intervals(draws)["uar"] or [0.0, 1.0])
    half = float(np.diff(ends, axis=1).mean() / 2)
    return [round(max(0.0, RIGHT - half), 3), round(min(1.0, RIGHT + half), 3)]
