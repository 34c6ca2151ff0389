"""Arms timed in turn, A B C A B C, so that what else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from .figures import Figure

# Median and fastest passes further apart than this: the machine was too busy for the figure.
TRUSTED = 0.3


@dataclass(frozen=True)
class Pass:
    """One timed pass of an arm: how much it did (seconds of audio, clips), in wall-clock and in CPU seconds."""

    amount: float
    wall: float
    cpu: float


class Watch:
    """Wall-clock and CPU seconds of this process since it was made."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self, amount: float) -> Pass:
        return Pass(amount, time.perf_counter() - self.wall, time.process_time() - self.cpu)


def alternate(arms: dict[str, Callable[[], Pass]], rounds: int, seconds: float = 0.0) -> dict[str, list[Pass]]:
    """`rounds` passes of every arm, in turn, after one of each that is not counted; more where they took fewer than
    `seconds` in all: short passes differ more."""
    for arm in arms.values():
        arm()
    passes: dict[str, list[Pass]] = {name: [] for name in arms}
    started, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - started < seconds:
        for name, arm in arms.items():
            passes[name].append(arm())
        done += 1
    return passes


def rate(passes: list[Pass]) -> float:
    """Amount per second of the median pass."""
    return statistics.median(one.amount / one.wall for one in passes)


def compare(
    passes: dict[str, list[Pass]], arm: str, reference: str, at_least: float | None = None, cpu: bool = True
) -> list[Figure]:
    """Speed of one arm over another's: the median of the rounds' ratios, which carries the goal; the ratio of the
    fastest passes, which other work disturbs least; and the median ratio of CPU seconds, which waiting cannot change.

    >>> passes = {"a": [Pass(8, 1.0, 1.0), Pass(8, 2.0, 1.0)], "b": [Pass(4, 1.0, 1.0), Pass(4, 1.0, 1.0)]}
    >>> [figure.value for figure in compare(passes, "a", "b")]
    [1.5, 2.0, 2.0]
    """
    pairs = list(zip(passes[arm], passes[reference], strict=True))
    median = statistics.median(a.amount / a.wall * b.wall / b.amount for a, b in pairs)
    fastest = max(a.amount / a.wall for a, _ in pairs) / max(b.amount / b.wall for _, b in pairs)
    name = f"{arm} / {reference}"
    figures = [Figure(name, median, "x", at_least), Figure("  of the fastest passes", fastest, "x")]
    if cpu:
        ratio = statistics.median(a.amount / a.cpu * b.cpu / b.amount for a, b in pairs)
        figures.append(Figure("  of CPU seconds", ratio, "x"))
    return figures


def unsteady(median: float, fastest: float) -> bool:
    """Whether two ratios that should agree do not.

    >>> unsteady(1.0, 1.2), unsteady(1.0, 1.4)
    (False, True)
    """
    return max(median, fastest) > (1 + TRUSTED) * min(median, fastest)
