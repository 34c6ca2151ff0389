"""95 % intervals by bootstrap over clusters (speakers), of any metric and of differences between systems.

Utterances of one speaker resemble each other, so whole speakers are resampled (Ferrer & Riera, confidence intervals for
evaluation in machine learning, 2022). An utterance of an unknown speaker is a cluster of its own. Fewer than `FEW`
clusters have too few outcomes (two speakers of equal figures would give an interval of width 0), so the utterances
within each drawn speaker are resampled too (a two-stage bootstrap, Davison & Hinkley 1997, section 3.8), and of one
speaker the utterances alone; reports say so (`resampled`). Draws depend on the clusters and the seed alone: two systems
on the same utterances get the same draws, so that differences of their metrics are paired.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .metrics import VALUE_METRICS, f1_averages, from_counts, row_f1

FEW = 5
BLOCK = 64  # draws whose counts are floats at a time
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
    times = np.empty((samples, count), dtype=np.uint16)  # a quarter of the memory of whole numbers
    for of_draw in times:
        of_draw[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    if count >= FEW:
        return cluster, times
    within = np.empty((samples, len(cluster)), dtype=np.uint16)
    for number in range(count):  # a cluster of n utterances that is drawn k times: k * n utterances
        rows = np.flatnonzero(cluster == number)
        equal = np.full(len(rows), 1 / len(rows))
        for of_draw, k in zip(within, times[:, number].tolist(), strict=True):
            of_draw[rows] = generator.multinomial(k * len(rows), equal)
    return np.arange(len(cluster)), within


def draw_sums(columns: Sequence[np.ndarray], unit: np.ndarray, times: np.ndarray) -> list[np.ndarray]:
    """The sum of each column over the utterances of each draw, `(utterances, n)` to `(samples, n)`; `unit` and `times`
    are those of `draw`. Sums of a draw are sums of its units' sums."""
    widths = np.cumsum([column.shape[1] for column in columns])
    per_unit = np.stack([np.bincount(unit, one) for column in columns for one in column.T], axis=1)
    parts = [times[first : first + BLOCK].astype(float) @ per_unit for first in range(0, len(times), BLOCK)]
    return np.split(np.concatenate(parts), widths[:-1], axis=1)


def class_draws(
    references: ArrayLike,
    predictions: ArrayLike,
    speakers: Sequence[str | None],
    num_labels: int,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """UAR, WA, macro and weighted F1 of every draw, `{metric: (samples,)}`."""
    truth, said = (np.eye(num_labels)[np.asarray(rows, dtype=int)] for rows in (references, predictions))
    return from_counts(*draw_sums([truth * said, truth, said], *draw(speakers, samples, seed)))


def label_draws(
    references: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    thresholds: Sequence[float] | None,
    speakers: Sequence[str | None],
    samples: int = 200,
) -> dict[str, np.ndarray]:
    """The figures of `metrics.label_metrics` of every draw, `{metric: (samples,)}`, NaN where undefined."""
    truth, decided = references > 0.5, scores >= (0.5 if thresholds is None else np.asarray(thresholds))
    rows = [np.ones((len(truth), 1)), row_f1(truth, decided)[:, None]]
    drawn = draw(speakers, samples)
    count, f1, both, support, predicted = draw_sums([*rows, truth & decided, truth, decided], *drawn)
    with np.errstate(invalid="ignore"):
        averages = f1_averages(both, support, predicted, (f1 / count)[:, 0])
        accuracies = (both / support + (count - support - predicted + both) / (count - support)) / 2
        precisions = [_average_precisions(*column, *drawn) for column in zip(truth.T, scores.T, strict=True)]
    return {
        "map": _mean_defined(np.stack(precisions, axis=1)),
        **{f"{average}_f1": values for average, values in averages.items()},
        "weighted_accuracy": _mean_defined(accuracies),
        **{f"weighted_accuracy_{name}": values for name, values in zip(names, accuracies.T, strict=True)},
    }


def _average_precisions(truth: np.ndarray, scores: np.ndarray, unit: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Average precision of one label in every draw `(samples,)`, NaN without a positive; the scores are sorted once."""
    order = np.argsort(-scores, kind="stable")
    unit, falling, present = unit[order], -scores[order], np.flatnonzero(truth[order])  # recall grows at `present`
    last = np.searchsorted(falling, falling[present], side="right") - 1  # row of the same score
    last_present = np.searchsorted(present, last, side="right") - 1
    found = np.full(len(times), np.nan)
    for number, of_draw in enumerate(times):
        above = np.cumsum(of_draw[unit], dtype=np.uint32)[last]
        positives = of_draw[unit[present]]
        right = np.cumsum(positives, dtype=np.uint32)
        if positives.any():
            found[number] = (positives * (right[last_present] / np.maximum(above, 1))).sum() / right[-1]
    return found


def value_draws(
    references: np.ndarray,
    predictions: np.ndarray,
    names: Sequence[str],
    speakers: Sequence[str | None],
    samples: int = 500,
) -> dict[str, np.ndarray]:
    """The figures of `metrics.value_metrics` of every draw, `{metric: (samples,)}`, NaN where undefined; from sums."""
    y, x = np.asarray(references, dtype=float), np.asarray(predictions, dtype=float)
    a, b, d = x - np.median(x, axis=0), y - np.median(y, axis=0), x - y  # sums of small numbers are exact
    columns = [np.ones((len(y), 1)), a, b, a * a, b * b, a * b, d, np.abs(d), d * d]
    sentiment = _sentiment_columns(y[:, 0], x[:, 0]) if list(names) == ["sentiment"] else []
    count, *sums = draw_sums([*columns, *sentiment], *draw(speakers, samples))
    a, b, aa, bb, ab, d, mae, mse = (values / count for values in sums[:8])
    x_variance, y_variance, covariance = aa - a * a, bb - b * b, ab - a * b
    constant = (x_variance <= 1e-12 * aa) | (y_variance <= 1e-12 * bb)
    with np.errstate(invalid="ignore", divide="ignore"):
        ccc = 2 * covariance / (x_variance + y_variance + d * d)
        pearson = covariance / np.sqrt(x_variance * y_variance)
    each = (*(np.where(constant, np.nan, values) for values in (ccc, pearson)), mae, mse, np.sqrt(mse))
    each = dict(zip(VALUE_METRICS, each, strict=True))
    draws = {metric: _mean_defined(values) for metric, values in each.items()}
    draws |= {f"{m}_{name}": each[m][:, i] for m in ("ccc", "rmse") for i, name in enumerate(names)}
    if sentiment:
        equal, *counts = sums[8:]
        with np.errstate(invalid="ignore"):
            has0, non0 = (from_counts(*counts[first : first + 3]) for first in (0, 3))
        draws |= {"acc7": (equal / count)[:, 0]}
        draws |= {"acc2_has0": has0["wa"], "f1_has0": has0["weighted_f1"]}
        draws |= {"acc2_non0": non0["wa"], "f1_non0": non0["weighted_f1"], "corr": draws["pearson"]}
    return draws


def _sentiment_columns(y: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Columns for `metrics.sentiment_metrics`: equal levels, and twice the three counts of `from_counts`."""
    levels = [np.clip(np.round(values), -3, 3) for values in (x, y)]
    columns = [(levels[0] == levels[1])[:, None]]
    for rows, truth, decided in ((np.full(len(y), True), y >= 0, x >= 0), (y != 0, y > 0, x > 0)):
        present, said = (np.eye(2)[values.astype(int)] * rows[:, None] for values in (truth, decided))
        columns += [present * said, present, said]
    return columns


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """The mean over columns `(samples, n)` that are not NaN; NaN where all are."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=1) / (~np.isnan(values)).sum(axis=1)


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
