"""95 % intervals by bootstrap over clusters (speakers), of any metric and of differences between systems.

Utterances of one speaker resemble each other, so whole speakers are resampled (Ferrer & Riera, confidence intervals for
evaluation in machine learning, 2022). With only one cluster, utterances are resampled, which says nothing about other
speakers; reports say so (`intervals_over`). Draws depend on the clusters and the seed alone: two systems on the same
utterances get the same draws, so that differences of their metrics are paired.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .metrics import from_counts


def draw(clusters: Sequence[str | None], samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Resample clusters, one name per utterance, with replacement: `(utterances,)` the number of each utterance's
    cluster, and `(samples, clusters)` the clusters of each draw."""
    names, cluster = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if len(names) < 2:
        cluster = np.arange(len(clusters))
    count = int(cluster.max()) + 1
    return cluster, np.random.default_rng(seed).integers(count, size=(samples, count))


def class_draws(
    references, predictions, clusters: Sequence[str | None], num_labels: int, samples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """UAR, WA, macro and weighted F1 of every draw, `{metric: (samples,)}`, without a loop over draws: counts of a draw
    are sums of its clusters' counts."""
    references, predictions = np.asarray(references), np.asarray(predictions)
    cluster, drawn = draw(clusters, samples, seed)
    count = drawn.shape[1]
    times = np.apply_along_axis(np.bincount, 1, drawn, minlength=count).astype(float)  # (samples, clusters)

    def counts(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        per_cluster = np.bincount(cluster[rows] * num_labels + labels[rows], minlength=count * num_labels)
        return times @ per_cluster.reshape(count, num_labels)

    every, correct = np.arange(len(references)), np.flatnonzero(references == predictions)
    return from_counts(counts(correct, references), counts(every, references), counts(every, predictions))


def metric_draws(
    compute: Callable[[np.ndarray], dict], clusters: Sequence[str | None], samples: int = 500, seed: int = 0
) -> dict[str, np.ndarray]:
    """Any metrics of every draw, `{metric: (samples,)}`, NaN where undefined; `compute` takes row numbers and returns
    None for an undefined metric."""
    cluster, drawn = draw(clusters, samples, seed)
    groups = [np.flatnonzero(cluster == number) for number in range(drawn.shape[1])]
    tables = [compute(np.concatenate([groups[number] for number in numbers])) for numbers in drawn]
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
