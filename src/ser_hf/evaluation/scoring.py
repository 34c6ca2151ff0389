"""Everything that is said of one scored part of a corpus, as data: metrics, intervals, tables; and the predictions."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from datasets import Dataset

from ..data.windows import combine
from .metrics import bootstrap_intervals, classification_metrics, confusion, per_class
from .vector_metrics import (
    classification_report,
    label_metrics,
    per_label,
    per_value,
    sentiment_metrics,
    tune_thresholds,
    value_metrics,
)


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(rows, classes)` logits to probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def to_scores(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """What the pipeline answers: probabilities of classes or of labels, or the values themselves."""
    if problem_type == "single_label_classification":
        return softmax(logits)
    return 1 / (1 + np.exp(-logits)) if problem_type == "multi_label_classification" else logits


def from_scores(scores: np.ndarray, problem_type: str) -> np.ndarray:
    """Logits that `to_scores` makes these scores of."""
    if problem_type == "regression":
        return scores
    scores = np.clip(scores, 1e-12, 1 - 1e-12)
    return np.log(scores) if problem_type == "single_label_classification" else np.log(scores / (1 - scores))


def cluster_intervals(
    clusters, compute: Callable[[np.ndarray], dict[str, float | None]], samples: int = 500, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of any metrics, resampling whole clusters (speakers); utterances where there is one.

    Args:
        clusters: One name an utterance.
        compute: Row numbers to metrics; None where undefined, and an interval with many undefined draws is None too.
    """
    names, cluster = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    groups = [np.flatnonzero(cluster == i) for i in range(len(names))]
    if len(groups) < 2:
        groups = [np.array([i]) for i in range(len(cluster))]
    rng = np.random.default_rng(seed)
    drawn = [
        compute(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]))
        for _ in range(samples)
    ]
    intervals: dict[str, list[float] | None] = {}
    for name in drawn[0]:
        values = [draw[name] for draw in drawn if draw[name] is not None]
        enough = len(values) > 0.9 * samples
        intervals[name] = [float(v) for v in np.percentile(values, [2.5, 97.5])] if enough else None
    return intervals


def score(
    dataset: Dataset,
    logits: np.ndarray,
    names: list[str],
    problem_type: str = "single_label_classification",
    thresholds: list[float] | None = None,
    report_at: list[float] | None = None,
) -> dict:
    """Score one part.

    Args:
        dataset: The part, in the order of `logits`.
        logits: `(utterances, labels)`.
        names: Label names in index order.
        problem_type: As in transformers.
        thresholds: Multi-label: one decision threshold a label (0.5 each if None).
        report_at: Regression: thresholds at which the classification report is made.

    Returns:
        `problem_type`, `utterances`, `speakers`, `metrics`, `intervals` (95 %), `intervals_over`, `chance`, `remarks`,
        `figures`, and by problem type `per_class` and `confusion` (rows = truth), `per_label`, or `per_value`.
    """
    labels, speakers = np.array(dataset["label"]), dataset["speaker"]
    known = set(speakers) - {None}
    several = len(set(speakers)) > 1
    common = {
        "problem_type": problem_type,
        "utterances": len(labels),
        "speakers": len(known),
        "intervals_over": "speakers" if several else f"utterances of {'one speaker' if known else 'unknown speakers'}",
    }
    scores = to_scores(logits, problem_type)
    if problem_type == "single_label_classification":
        return common | _score_classes(labels, scores.argmax(axis=1), speakers, names)
    if problem_type == "multi_label_classification":
        return common | _score_labels(labels, scores, speakers, names, thresholds or [0.5] * len(names))
    return common | _score_values(labels, scores, speakers, names, report_at or [])


def _score_classes(labels, predictions, speakers, names) -> dict:
    table = per_class(labels, predictions, names)
    absent = [name for name, row in table.items() if not row["support"]]
    remark = f"no test utterance is {', '.join(absent)}: UAR and macro F1 are over the other classes"
    return {
        "metrics": classification_metrics(labels, predictions, len(names)),
        "intervals": bootstrap_intervals(labels, predictions, speakers, len(names)),
        "chance": {"metric": "uar", "value": 1 / len(set(labels.tolist()))},
        "per_class": table,
        "confusion": confusion(labels, predictions, len(names)).tolist(),
        "remarks": [remark] if absent else [],
        "figures": ["confusion_matrix"],
    }


def _score_labels(labels, scores, speakers, names, thresholds) -> dict:
    limits = np.asarray(thresholds)
    table = per_label(labels, scores, names, limits)
    absent = [name for name, row in table.items() if not row["support"]]
    return {
        "metrics": label_metrics(labels, scores, names, limits),
        "intervals": cluster_intervals(
            speakers, lambda rows: label_metrics(labels[rows], scores[rows], names, limits), samples=200
        ),
        # ranking at random has a label's frequency as its average precision
        "chance": {"metric": "map", "value": float((labels > 0.5).mean(axis=0)[(labels > 0.5).any(axis=0)].mean())},
        "decision_thresholds": dict(zip(names, map(float, thresholds), strict=True)),
        "per_label": table,
        "remarks": [f"no test utterance has {', '.join(absent)}: undefined, and not in the means"] if absent else [],
        "figures": [],
    }


def _score_values(labels, scores, speakers, names, report_at) -> dict:
    def compute(rows: np.ndarray) -> dict:
        drawn = value_metrics(labels[rows], scores[rows], names)
        return drawn | (sentiment_metrics(labels[rows], scores[rows]) if names == ["sentiment"] else {})

    table = per_value(labels, scores, names)
    undefined = [name for name, row in table.items() if row["ccc"] is None]
    remark = f"{', '.join(undefined)}: constant labels or predictions, a correlation is undefined and not in the means"
    return {
        "metrics": compute(np.arange(len(labels))),
        "intervals": cluster_intervals(speakers, compute),
        "chance": {"metric": "ccc", "value": 0.0},
        "per_value": table,
        "thresholds": {str(limit): classification_report(labels, scores, names, limit) for limit in report_at},
        "remarks": [remark] if undefined else [],
        "figures": ["scatter"],
    }


def utterance_logits(logits: np.ndarray, windows: Dataset, dataset: Dataset, problem_type: str, how: str) -> np.ndarray:
    """Windows' logits to utterances', in the order of `dataset`: combined as scores, and back to logits.

    Args:
        logits: `(windows, labels)` in the order of `windows`.
        windows: `windowing.to_windows(dataset, ...)`.
        dataset: The utterances.
        problem_type, how: As in `windowing.combine`.

    Raises:
        ValueError: an utterance has no window.
    """
    scores, ids = combine(to_scores(logits, problem_type), windows["utterance"], how, problem_type)
    place = {name: row for row, name in enumerate(ids)}
    missing = [name for name in dataset["id"] if name not in place]
    if missing:
        raise ValueError(f"{len(missing)} utterances have no window, first {missing[0]}")
    scores = scores[[place[name] for name in dataset["id"]]]
    return from_scores(scores, problem_type)


def decision_thresholds(validation: Dataset, logits: np.ndarray | None, names: list[str], problem_type: str):
    """Multi-label: each label's threshold with the best F1 on validation; None for other problems or no validation."""
    if problem_type != "multi_label_classification" or logits is None:
        return None
    return tune_thresholds(np.array(validation["label"]), to_scores(logits, problem_type), names)


# What a model is selected by on validation.
SELECTED_BY = {"single_label_classification": "uar", "multi_label_classification": "map", "regression": "ccc"}


def metrics_of(names: list[str], problem_type: str) -> Callable:
    """`compute_metrics` of the Trainer. What is undefined counts as 0 here, so that a model that answers a constant is
    not selected for it."""

    def compute(prediction) -> dict[str, float]:
        scores = to_scores(prediction.predictions, problem_type)
        if problem_type == "single_label_classification":
            labels = prediction.label_ids
            labels = labels.argmax(axis=1) if labels.ndim == 2 else labels  # soft ones
            metrics = classification_metrics(labels, scores.argmax(axis=1), len(names))
        elif problem_type == "multi_label_classification":
            metrics = label_metrics(prediction.label_ids, scores, names, 0.5)
        else:
            metrics = value_metrics(prediction.label_ids, scores, names)
        return {name: 0.0 if value is None else value for name, value in metrics.items()}

    return compute


def predictions_table(
    dataset: Dataset,
    logits: np.ndarray,
    names: list[str],
    problem_type: str = "single_label_classification",
    others: dict[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """One row an utterance: `id`, `speaker`, `score_<label>` for each label, and the truth: `label` and `prediction` as
    words for classes, `label_<label>` otherwise. For classes also `prediction_<system>` of systems compared with."""
    table = pd.DataFrame({"id": dataset["id"], "speaker": dataset["speaker"]})
    labels, scores = np.array(dataset["label"]), to_scores(logits, problem_type)
    if problem_type == "single_label_classification":
        table["label"] = [names[index] for index in labels]
        table["prediction"] = [names[index] for index in logits.argmax(axis=1)]
        for system, theirs in (others or {}).items():
            table[f"prediction_{system}"] = [names[index] for index in theirs.argmax(axis=1)]
    else:
        for name, column in zip(names, labels.T, strict=True):
            table[f"label_{name}"] = column
    for name, column in zip(names, scores.T, strict=True):
        table[f"score_{name}"] = column
    return table
