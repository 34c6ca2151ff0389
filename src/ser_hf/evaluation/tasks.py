"""What a model answers, as one object for each of transformers' problem types: classes, several labels, or values.

Everything that depends on the problem type in training and evaluation stands here: `task = TASKS[report.problem_type]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import SerError
from . import CLASSES, LABELS, VALUES, bootstrap, metrics


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(rows, classes)` logits to probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Task:
    """One problem type. `labels` are `(rows,)` class indices, or `(rows, names)` floats; `scores` are `(rows, names)`.

    Args:
        problem_type: As in transformers.
        name: For messages: "classes".
        scores: Logits to what the pipeline answers: probabilities of classes, of labels, or the values themselves.
        logits: Scores to logits; the inverse of `scores` up to a constant.
        metrics: `(labels, scores, names, thresholds)` to every metric, None where undefined.
        metric_names: Label names to the names of `metrics`.
        draw: `(labels, scores, names, thresholds, clusters)` to every metric of every bootstrap draw (`bootstrap`).
        describe: `(labels, scores, names, thresholds, report_at)` to what results hold beside metrics and intervals:
            `chance` (of the metric `selected_by`), the table `table`, `remarks`, and others of this task alone.
        selected_by: The metric that selects a checkpoint on validation.
        compared_by: The metrics that systems are compared by in reports.
        table: The key of the table with one row for each label.
        figures: Names of the figures in a report.
        has_votes: Whether windows can vote.
        has_thresholds: Whether each label has a decision threshold, tuned on validation.
    """

    problem_type: str
    name: str
    scores: Callable[[np.ndarray], np.ndarray]
    logits: Callable[[np.ndarray], np.ndarray]
    metrics: Callable[..., dict[str, float | None]]
    metric_names: Callable[[Sequence[str]], tuple[str, ...]]
    draw: Callable[..., dict[str, np.ndarray]]
    describe: Callable[..., dict]
    selected_by: str
    compared_by: tuple[str, ...]
    table: str
    figures: tuple[str, ...] = ()
    has_votes: bool = True
    has_thresholds: bool = False

    def selection(self, metric: str | None, names: Sequence[str]) -> tuple[str, bool]:
        """The metric that selects a checkpoint on validation, and whether a greater value is better.

        Args:
            metric: `--metric_for_best_model`, with or without transformers' `eval_`; None for `selected_by`.
            names: Label names.

        Raises:
            SerError: the task has no such metric.
        """
        name = (metric or self.selected_by).removeprefix("eval_")
        choices = (*self.metric_names(names), "loss")
        if name not in choices:
            raise SerError(
                f"--metric_for_best_model {metric}: {self.name} have no such metric; choose {', '.join(choices)}"
            )
        return name, name not in metrics.SMALLER_IS_BETTER

    def compute_metrics(self, names: Sequence[str]) -> Callable:
        """`compute_metrics` of the Trainer. An undefined metric is 0 here, so that a model that answers a constant is
        not selected for it. Soft labels of classes count as their largest."""

        def compute(prediction) -> dict[str, float]:
            labels = prediction.label_ids
            if self.problem_type == CLASSES and labels.ndim == 2:
                labels = labels.argmax(axis=1)
            values = self.metrics(labels, self.scores(prediction.predictions), names)
            return {name: 0.0 if value is None else value for name, value in values.items()}

        return compute


# ---- classes


def _predicted(scores: np.ndarray) -> np.ndarray:
    """Predicted class indices of scores, or the indices themselves, `(rows,)`."""
    return scores if scores.ndim == 1 else scores.argmax(axis=1)


def _class_metrics(labels, scores, names, thresholds=None) -> dict[str, float]:
    return metrics.classification_metrics(labels, _predicted(scores), len(names))


def _class_draws(labels, scores, names, thresholds, clusters) -> dict[str, np.ndarray]:
    return bootstrap.class_draws(labels, _predicted(scores), clusters, len(names))


def _describe_classes(labels, scores, names, thresholds, report_at) -> dict:
    table = metrics.per_class(labels, _predicted(scores), names)
    absent = [name for name, row in table.items() if not row["support"]]
    remark = f"no test utterance is {', '.join(absent)}: UAR and macro F1 are over the other classes"
    return {
        "chance": 1 / len(set(labels.tolist())),
        "per_class": table,
        "confusion": metrics.confusion(labels, _predicted(scores), len(names)).tolist(),
        "remarks": [remark] if absent else [],
    }


# ---- several labels


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _logit(scores: np.ndarray) -> np.ndarray:
    scores = np.clip(scores, 1e-12, 1 - 1e-12)
    return np.log(scores / (1 - scores))


def _label_metrics(labels, scores, names, thresholds=None) -> dict[str, float | None]:
    return metrics.label_metrics(labels, scores, names, 0.5 if thresholds is None else np.asarray(thresholds))


def _label_draws(labels, scores, names, thresholds, clusters) -> dict[str, np.ndarray]:
    # 200 draws: each sorts all scores of each label
    return bootstrap.metric_draws(lambda r: _label_metrics(labels[r], scores[r], names, thresholds), clusters, 200)


def _describe_labels(labels, scores, names, thresholds, report_at) -> dict:
    limits = [0.5] * len(names) if thresholds is None else thresholds
    table = metrics.per_label(labels, scores, names, np.asarray(limits))
    absent = [name for name, row in table.items() if not row["support"]]
    present = labels > 0.5
    return {
        # a random ranking has a label's frequency as its average precision
        "chance": metrics.mean_defined(present.mean(axis=0)[present.any(axis=0)]),
        "decision_thresholds": dict(zip(names, map(float, limits), strict=True)),
        "per_label": table,
        "remarks": [f"no test utterance has {', '.join(absent)}: undefined, and not in the means"] if absent else [],
    }


# ---- values


def _value_metrics(labels, scores, names, thresholds=None) -> dict[str, float | None]:
    values = metrics.value_metrics(labels, scores, names)
    return values | (metrics.sentiment_metrics(labels, scores) if list(names) == ["sentiment"] else {})


def _value_metric_names(names: Sequence[str]) -> tuple[str, ...]:
    sentiment = metrics.SENTIMENT_METRICS if list(names) == ["sentiment"] else ()
    return (*metrics.VALUE_METRICS, *(f"ccc_{name}" for name in names), *sentiment)


def _value_draws(labels, scores, names, thresholds, clusters) -> dict[str, np.ndarray]:
    return bootstrap.metric_draws(lambda rows: _value_metrics(labels[rows], scores[rows], names), clusters, 500)


def _describe_values(labels, scores, names, thresholds, report_at) -> dict:
    table = metrics.per_value(labels, scores, names)
    undefined = [name for name, row in table.items() if row["ccc"] is None]
    remark = f"{', '.join(undefined)}: constant labels or predictions, a correlation is undefined and not in the means"
    reports = {str(limit): metrics.classification_report(labels, scores, names, limit) for limit in report_at or []}
    return {"chance": 0.0, "per_value": table, "thresholds": reports, "remarks": [remark] if undefined else []}


TASKS = {
    CLASSES: Task(
        problem_type=CLASSES,
        name="classes",
        scores=softmax,
        logits=lambda scores: np.log(np.clip(scores, 1e-12, 1 - 1e-12)),
        metrics=_class_metrics,
        metric_names=lambda names: metrics.METRICS,
        draw=_class_draws,
        describe=_describe_classes,
        selected_by="uar",
        compared_by=("uar", "macro_f1"),
        table="per_class",
        figures=("confusion_matrix",),
    ),
    LABELS: Task(
        problem_type=LABELS,
        name="several labels",
        scores=_sigmoid,
        logits=_logit,
        metrics=_label_metrics,
        metric_names=lambda names: metrics.LABEL_METRICS,
        draw=_label_draws,
        describe=_describe_labels,
        selected_by="map",
        compared_by=("map", "macro_f1"),
        table="per_label",
        has_thresholds=True,
    ),
    VALUES: Task(
        problem_type=VALUES,
        name="values",
        scores=lambda logits: logits,
        logits=lambda scores: scores,
        metrics=_value_metrics,
        metric_names=_value_metric_names,
        draw=_value_draws,
        describe=_describe_values,
        selected_by="ccc",
        compared_by=("ccc", "mae"),
        table="per_value",
        figures=("scatter",),
        has_votes=False,
    ),
}
