"""What is reported of one scored part of a corpus, as data: metrics, intervals, tables, comparisons, predictions."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset

from ..data.schema import SPELLINGS
from ..data.windows import combine
from ..errors import SerError
from . import bootstrap
from .metrics import tune_thresholds
from .tasks import CLASSES, TASKS, Limits


def score(
    dataset: Dataset,
    logits: np.ndarray,
    names: list[str],
    problem_type: str = CLASSES,
    thresholds: Limits = None,
    report_at: Limits = None,
) -> dict:
    """The scores of a part: `problem_type`, `utterances`, `speakers`, `metrics`, `intervals` (95 %), `intervals_over`,
    `chance`, `figures`, and what the task's `describe` returns. Of `dataset`, in the order of `logits` `(utterances,
    labels)`, the columns `label` and `speaker` are read; `names` are in index order. `thresholds` are decision
    thresholds of several labels (0.5 each if None), `report_at` those of a classification report of values."""
    task, labels, speakers = TASKS[problem_type], np.array(dataset["label"][:]), dataset["speaker"][:]
    scores = task.scores(logits)
    details = task.describe(labels, scores, names, thresholds, report_at)
    return {
        "problem_type": problem_type,
        "utterances": len(labels),
        "speakers": bootstrap.clusters_of(speakers)[1],
        "intervals_over": bootstrap.resampled(speakers),
        "metrics": task.metrics(labels, scores, names, thresholds),
        "intervals": bootstrap.intervals(task.draw(labels, scores, names, thresholds, speakers)),
        **details,
        "chance": {"metric": task.selected_by, "value": details["chance"]},
        "figures": list(task.figures),
    }


def groups(
    dataset: Dataset, logits: np.ndarray, names: list[str], problem_type: str = CLASSES, thresholds: Limits = None
) -> dict:
    """A part by gender and by speaker; arguments as of `score`. `by_gender` has for each gender `utterances`,
    `speakers`, and `metrics` and `intervals` of the metric that selects models; `by_speaker` has the `speakers` with an
    utterance and, of that metric over them, the `quartiles` (five values, from the lowest to the highest), without
    names. Without genders, or with fewer than two speakers, they are empty."""
    task, by_gender, by_speaker = TASKS[problem_type], {}, {}
    columns = {key: np.array(dataset[key][:], dtype=object) for key in ("speaker", "gender") if key in dataset.features}
    labels = np.array(dataset["label"][:])

    def of(rows: np.ndarray) -> dict:
        part = {"label": labels[rows], "speaker": columns["speaker"][rows].tolist()}
        return score(part, logits[rows], names, problem_type, thresholds)

    genders = columns.get("gender", np.array([]))
    for gender in sorted(set(genders) - {None}):
        scored = of(np.flatnonzero(genders == gender))
        figures = {key: {task.selected_by: scored[key][task.selected_by]} for key in ("metrics", "intervals")}
        by_gender[gender] = {"utterances": scored["utterances"], "speakers": scored["speakers"], **figures}
    speakers = sorted(set(columns["speaker"]) - {None})
    scores = task.scores(logits)
    values = [
        task.metrics(labels[rows], scores[rows], names, thresholds)[task.selected_by]
        for one in speakers
        for rows in [columns["speaker"] == one]
    ]
    if len(defined := [value for value in values if value is not None]) > 1:
        quartiles = np.percentile(defined, (0, 25, 50, 75, 100)).tolist()
        by_speaker = {"metric": task.selected_by, "speakers": len(defined), "quartiles": quartiles}
    return {"by_gender": by_gender, "by_speaker": by_speaker}


def answerable(names: Sequence[str], problem_type: str, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The labels of a part in the order of a model's label names, the rows that have one, and remarks on the others. A
    class of another spelling (`hap`) is the same class. SerError: the labels are none that the model answers."""
    feature, labels = dataset.features["label"], dataset["label"][:]
    classes = problem_type == CLASSES
    if hasattr(feature, "names") != classes or (not classes and len(labels[0]) != len(names)):
        raise SerError(f"not scored: the model answers {', '.join(names)}, the labels are others")
    if not classes:
        return np.array(labels), np.arange(len(labels)), []
    place = {SPELLINGS.get(name.lower(), name): index for index, name in enumerate(names)}
    here = [place.get(SPELLINGS.get(name.lower(), name), -1) for name in feature.names]
    numbers = np.array(here)[labels]
    rows = np.flatnonzero(numbers >= 0)
    if not len(rows):
        theirs = ", ".join(feature.names)
        raise SerError(f"not scored: the model answers {', '.join(names)}, and the labels are {theirs}")
    lacking = len(labels) - len(rows)
    remarks = [f"not scored: {lacking} with labels that the model lacks"] if lacking else []
    return numbers[rows], rows, remarks


def answers_of(config) -> tuple[list[str], list[float] | None]:
    """The label names of a model's configuration in index order, and their decision thresholds (None: it has none)."""
    names = [name for _, name in sorted(config.id2label.items())]
    thresholds = getattr(config, "thresholds", None)
    return names, None if thresholds is None else [thresholds[name] for name in names]


def pipeline_scores(pipe, clips: Iterable[dict], **options) -> list[np.ndarray | str]:
    """What a `SerPipeline` answers to each clip, in the order of its label names; or the error."""
    names, _ = answers_of(pipe.model.config)
    options, found = {"on_error": "return", "batch_seconds": pipe.fast_batch, **options}, []
    for answer in pipe((clip for clip in clips), **options):
        if isinstance(answer, dict) and "error" in answer:
            found.append(answer["error"])
            continue
        entries = answer["scores"] if isinstance(answer, dict) else answer
        by_name = {entry["label"]: entry["score"] for entry in entries}
        found.append(np.array([by_name[name] for name in names]))
    return found


def compare(
    dataset: Dataset,
    logits: np.ndarray,
    others: dict[str, np.ndarray],
    names: list[str],
    problem_type: str = CLASSES,
    thresholds: Limits = None,
) -> dict[str, dict]:
    """Compare a system with others on the same utterances. ValueError: a system has not as many rows as the part.

    Two intervals that overlap do not say that two systems are equal: both depend on which speakers were tested. Here
    every bootstrap draw scores both systems on the same resampled utterances, and the interval is of the difference.

    `logits` are `(utterances, labels)` of the main system, `others` those of other systems by name, or predicted class
    indices; `thresholds` are the main system's, as in `score`. Others have 0.5: shift their logits for another one.
    Returns for each other system `metrics` and `intervals` (95 %), `difference` (main minus other; None if undefined)
    and `difference_intervals` (95 %, paired). For errors (MAE, MSE, RMSE) a negative difference is an improvement.
    """
    task, labels, speakers = TASKS[problem_type], np.array(dataset["label"][:]), dataset["speaker"][:]
    for name, rows in {"the main system": logits, **others}.items():
        if len(rows) != len(labels):
            raise ValueError(f"{name} has {len(rows)} rows, the part {len(labels)} utterances")
    if not others:
        return {}

    def figures(system: np.ndarray, limits: list[float] | None) -> tuple[dict, dict]:
        scores = system if system.ndim == 1 else task.scores(system)
        return task.metrics(labels, scores, names, limits), task.draw(labels, scores, names, limits, speakers)

    main, main_draws = figures(np.asarray(logits), thresholds)
    comparisons = {}
    for name, other in others.items():
        values, draws = figures(np.asarray(other), None)
        comparisons[name] = {
            "metrics": values,
            "intervals": bootstrap.intervals(draws),
            "difference": {m: None if None in (main[m], value) else main[m] - value for m, value in values.items()},
            "difference_intervals": bootstrap.intervals({m: main_draws[m] - draws[m] for m in draws}),
        }
    return comparisons


def compute_metrics(names: Sequence[str], problem_type: str = CLASSES) -> Callable:
    """`compute_metrics` of a Trainer: every metric of the task."""
    return TASKS[problem_type].compute_metrics(names)


def utterance_logits(logits: np.ndarray, windows: Dataset, dataset: Dataset, problem_type: str, how: str) -> np.ndarray:
    """Logits of windows `(windows, labels)` to logits of utterances, in the order of `dataset`: combined as scores
    (`how` as in `data.windows.combine`). Raises ValueError if an utterance has no window."""
    task = TASKS[problem_type]
    scores, ids = combine(task.scores(logits), windows["utterance"][:], how, problem_type)
    place = {name: row for row, name in enumerate(ids)}
    missing = [name for name in dataset["id"][:] if name not in place]
    if missing:
        raise ValueError(f"{len(missing)} utterances have no window, first {missing[0]}")
    return task.logits(scores[[place[name] for name in dataset["id"][:]]])


def decision_thresholds(
    validation: Dataset, logits: np.ndarray | None, names: list[str], problem_type: str
) -> list[float] | None:
    """Each label's threshold with the best F1 on validation; None for tasks without thresholds or no validation."""
    task = TASKS[problem_type]
    if not task.has_thresholds or logits is None:
        return None
    return tune_thresholds(np.array(validation["label"][:]), task.scores(logits), names)


def predictions_table(
    dataset: Dataset,
    logits: np.ndarray,
    names: list[str],
    problem_type: str = CLASSES,
    others: dict[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """One row per utterance: `id`, `speaker`, `score_<label>` for each label, and the truth: `label` and `prediction`
    as words for classes, `label_<label>` otherwise. For classes also `prediction_<system>` of systems compared with."""
    table = pd.DataFrame({"id": dataset["id"][:], "speaker": dataset["speaker"][:]})
    labels, scores = np.array(dataset["label"][:]), TASKS[problem_type].scores(logits)
    if problem_type == CLASSES:
        words = np.array(names, dtype=object)
        table["label"], table["prediction"] = words[labels], words[scores.argmax(axis=1)]
        for system, theirs in (others or {}).items():
            table[f"prediction_{system}"] = words[theirs.argmax(axis=1)]
    else:
        for name, column in zip(names, labels.T, strict=True):
            table[f"label_{name}"] = column
    for name, column in zip(names, scores.T, strict=True):
        table[f"score_{name}"] = column
    return table


def truth_of(table: pd.DataFrame, names: list[str], problem_type: str = CLASSES) -> np.ndarray:
    """The labels of a table by `predictions_table`, as in `tasks.Task`."""
    if problem_type == CLASSES:
        return class_indices(table["label"], names)
    return table[[f"label_{name}" for name in names]].to_numpy()


def logits_of(results: dict, table: pd.DataFrame, names: list[str], problem_type: str = CLASSES) -> np.ndarray:
    """Logits `(utterances, labels)` of a run from its `results.json` and its table. Several labels: relative to the
    run's decision thresholds, so that 0.5 is the threshold of every run. Classes: 1 for the prediction, else 0."""
    if problem_type == CLASSES:
        return np.eye(len(names))[class_indices(table["prediction"], names)]
    logits = TASKS[problem_type].logits(table[[f"score_{name}" for name in names]].to_numpy())
    limits = results["test"].get("decision_thresholds")
    return logits if limits is None else logits - TASKS[problem_type].logits(np.array([limits[n] for n in names]))


def class_indices(words: pd.Series, names: list[str]) -> np.ndarray:
    """The index of each word."""
    return words.map({name: index for index, name in enumerate(names)}).to_numpy()
