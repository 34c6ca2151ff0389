"""What a report of 50,000 rows costs: thresholds of several labels, 95 % intervals of each task, calibration."""

import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from .figures import Figure, Options

ROWS, LABELS = 50_000, 6
SECONDS, MEMORY = 1.0, 200  # goals, MB


def answers(kind: str, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of one task, right more often than by chance."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(rows, LABELS))
    if kind == "classes":
        labels = rng.integers(LABELS, size=rows)
        return labels, noise + np.eye(LABELS)[labels]
    labels = (rng.random((rows, LABELS)) < 0.2) + 0.0 if kind == "labels" else rng.normal(size=(rows, LABELS))
    return labels, noise + labels


def peak(step: Callable[[], object]) -> float:
    """MB that a call holds at most, by tracemalloc, which sees numpy's arrays."""
    tracemalloc.start()
    step()
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held / 1e6


def run(options: Options) -> list[Figure]:
    """CPU seconds, the least of the rounds: the work is the same in each."""
    from ser_hf.evaluation import CLASSES, VALUES, bootstrap, calibration
    from ser_hf.evaluation import LABELS as SEVERAL
    from ser_hf.evaluation.metrics import tune_thresholds
    from ser_hf.evaluation.tasks import TASKS

    names = [f"label {i}" for i in range(LABELS)]
    people = {"20 speakers": [f"s{i % 20}" for i in range(ROWS)], "unknown speakers": [None] * ROWS}
    work = {}
    labels, logits = answers("labels")
    work["thresholds, six labels"] = lambda: tune_thresholds(labels, TASKS[SEVERAL].scores(logits), names)
    for kind, problem_type in (("classes", CLASSES), ("labels", SEVERAL), ("values", VALUES)):
        task, (truth, answer) = TASKS[problem_type], answers(kind)
        for who, speakers in people.items():
            part = truth, task.scores(answer), names, None, speakers
            work[f"intervals, {kind}, {who}"] = lambda task=task, part=part: bootstrap.intervals(task.draw(*part))
    truth, answer = answers("classes")
    part = {"label": truth, "speaker": people["20 speakers"]}
    work["calibration, 20 speakers"] = lambda: calibration.describe(answer, answer * 0.8, part, None)
    figures = []
    for name, step in work.items():
        seconds, memory = [], peak(step)
        for _ in range(options.rounds):
            started = time.process_time()
            step()
            seconds.append(time.process_time() - started)
        figures += [
            Figure(f"{name} (CPU)", min(seconds), "s", at_most=SECONDS),
            Figure(f"{name}, memory", memory, "MB", at_most=MEMORY),
        ]
    return figures
