"""Several systems on several corpora: Friedman's test on ranks, and Nemenyi's critical difference of mean ranks.

Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006). Figures are `(corpora, systems)`.
"""

import warnings

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ..files import png

LEVEL = 0.05  # of every test


def ranks(figures: np.ndarray) -> np.ndarray:
    """Ranks of the systems on each corpus `(corpora, systems)`, 1 the greatest; equal figures share their mean rank.

    >>> ranks(np.array([[0.9, 0.8, 0.8]])).tolist()
    [[1.0, 2.5, 2.5]]
    """
    return stats.rankdata(-figures, axis=1)


def friedman(figures: np.ndarray) -> tuple[float, float] | None:
    """Friedman's chi-squared of three systems or more, corrected for ties, and its p; None where all are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0
        found = stats.friedmanchisquare(*figures.T)
    return None if np.isnan(found.statistic) else (float(found.statistic), float(found.pvalue))


def signed_ranks(differences: np.ndarray) -> float | None:
    """p of Wilcoxon's signed-ranks test of two systems, from their difference on each corpus; None where all are 0."""
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else None


def critical_difference(systems: int, corpora: int) -> float:
    """How far apart two mean ranks must be (Nemenyi): Demsar's `q * sqrt(k (k + 1) / 6 N)`.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    q = stats.studentized_range.ppf(1 - LEVEL, systems, np.inf) / 2**0.5
    return float(q * (systems * (systems + 1) / (6 * corpora)) ** 0.5)


def needed(systems: int) -> int:
    """The least number of corpora at which a difference can show at all: where every corpus ranks the systems alike.

    >>> needed(2), needed(3), needed(10)
    (6, 3, 3)
    """
    if systems == 2:  # p of Wilcoxon's exact test is at least 2 / 2^N
        return next(n for n in range(1, 99) if 2 / 2**n < LEVEL)
    shows = (
        n
        for n in range(1, 99)
        if stats.chi2.sf(n * (systems - 1), systems - 1) < LEVEL and critical_difference(systems, n) < systems - 1
    )
    return next(shows)


def groups(mean_ranks: np.ndarray, difference: float) -> list[list[int]]:
    """The longest runs of systems, from the best, whose mean ranks all lie within the critical difference.

    >>> groups(np.array([3.2, 1.0, 2.0, 2.1]), 1.25)
    [[1, 2, 3], [2, 3, 0]]
    """
    order, runs = np.argsort(mean_ranks, kind="stable").tolist(), []
    for first in range(len(order)):
        run = [i for i in order[first:] if mean_ranks[i] - mean_ranks[order[first]] <= difference]
        if len(run) > 1 and not (runs and set(run) <= set(runs[-1])):
            runs.append(run)
    return runs


def rank_figure(means: dict[str, float], difference: float, title: str) -> bytes:
    """PNG, Demsar's diagram: mean ranks on a line, the best left, a bar over systems that no difference is shown of."""
    systems, mean_ranks = list(means), np.array(list(means.values()))
    count, order = len(systems), np.argsort(mean_ranks, kind="stable")
    bars = groups(mean_ranks, difference)
    image = Figure(figsize=(7.5, 1.6 + 0.22 * len(bars) + 0.25 * (count // 2 + 1)), layout="constrained")
    axes = image.add_subplot(title=title)
    axes.plot([1, count], [0, 0], color="black", linewidth=1)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.15], color="black", linewidth=1)
        axes.text(rank, 0.25, str(rank), ha="center")
    axes.plot([1, 1 + difference], [1.1, 1.1], "|-", color="black")
    axes.text(1 + difference / 2, 1.2, f"critical difference {difference:.2f}", ha="center")
    for number, bar in enumerate(bars):
        ends = mean_ranks[bar].min() - 0.04, mean_ranks[bar].max() + 0.04
        axes.plot(ends, [-0.35 - 0.35 * number] * 2, color="black", linewidth=4, solid_capstyle="butt")
    below = -0.8 - 0.35 * len(bars)
    for place, system in enumerate(order):
        left = place < (count + 1) // 2
        height, edge = below - 0.6 * (place if left else count - 1 - place), 0.8 if left else count + 0.2
        axes.plot([mean_ranks[system]] * 2 + [edge], [0, height, height], color="0.4", linewidth=1)
        name = f"{systems[system]} {mean_ranks[system]:.2f} "
        axes.text(edge, height, name if left else f" {name}", ha="right" if left else "left", va="center")
    margin = 0.35 * (count - 1)
    axes.set(xlim=(0.8 - margin, count + 0.2 + margin), ylim=(below - 0.6 * (count // 2), 1.9))
    axes.axis("off")
    return png(image)
