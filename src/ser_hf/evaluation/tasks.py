"""What a model answers, as one object for each of transformers' problem types: classes, several labels, or values.

Everything that depends on the problem type in training and evaluation stands here: `task = TASKS[report.problem_type]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import SerError
from . import CLASSES, LABELS, VALUES, bootstrap, metrics

if TYPE_CHECKING:
    from transformers import EvalPrediction

Limits = Sequence[float] | None


@dataclass(frozen=True)
class Task:
    """One problem type. `labels` are `(rows,)` class indices or `(rows, names)` floats, `scores` are `(rows, names)`;
    for classes, predicted indices `(rows,)` can stand for scores. `thresholds` are `(names,)`, or None for 0.5."""

    problem_type: str  # as in transformers
    name: str  # in messages
    scores: Callable[[np.ndarray], np.ndarray]  # logits to what the pipeline answers: probabilities, or values
    logits: Callable[[np.ndarray], np.ndarray]  # the inverse of `scores`, up to a constant
    metrics: Callable[..., dict[str, float | None]]  # of (labels, scores, names, thresholds); undefined ones are None
    describe: Callable[..., dict]  # of (labels, scores, names, thresholds, report_at): the rest of `scoring.score`
    selected_by: str  # the metric that selects a checkpoint on validation, and that `chance` is of
    compared_by: tuple[str, ...]  # the metrics that systems are compared by in reports
    summary: tuple[str, ...]  # the metrics in the tables of a cross-validation
    table: str  # the key of the table with one row per label in `describe`
    figures: tuple[str, ...]  # names of a report's figures (`figures.FIGURES`)
    each: tuple[str, ...] = ()  # the metrics that every label has too, as `<metric>_<label>`
    has_thresholds: bool = False  # whether each label has a decision threshold, tuned on validation

    def draw(
        self,
        labels: np.ndarray,
        scores: np.ndarray,
        names: Sequence[str],
        thresholds: Limits,
        speakers: Sequence[str | None],
    ) -> dict[str, np.ndarray]:
        """Every metric of every bootstrap draw, `{metric: (draws,)}`, NaN where undefined."""
        if self.problem_type == CLASSES:
            return bootstrap.class_draws(labels, _predicted(scores), speakers, len(names))
        if self.problem_type == LABELS:
            return bootstrap.label_draws(labels, scores, names, thresholds, speakers)
        return bootstrap.value_draws(labels, scores, names, speakers)

    def metric_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names of `metrics` for these label names."""
        zeros = np.zeros((2, len(names)))
        return tuple(self.metrics(zeros[:, 0] if self.problem_type == CLASSES else zeros, zeros, names))

    def selection(self, metric: str | None, names: Sequence[str]) -> tuple[str, bool]:
        """The metric that selects a checkpoint on validation, and whether a greater value is better. `metric` is
        `--metric_for_best_model` (with `eval_` or not), None for `selected_by`. SerError: there is no such metric."""
        name = (metric or self.selected_by).removeprefix("eval_")
        if name not in (choices := (*self.metric_names(names), "loss")):
            hint = f"{self.name} have no such metric; choose {', '.join(choices)}"
            raise SerError(f"--metric_for_best_model {metric}: {hint}")
        return name, name.split("_")[0] not in metrics.SMALLER_IS_BETTER

    def compute_metrics(self, names: Sequence[str]) -> Callable:
        """`compute_metrics` of the Trainer. An undefined metric is 0 here, so that a model that answers a constant is
        not selected for it. Soft labels of classes count as their largest."""

        def compute(prediction: "EvalPrediction") -> dict[str, float]:
            labels = prediction.label_ids
            if self.problem_type == CLASSES and labels.ndim == 2:
                labels = labels.argmax(axis=1)
            values = self.metrics(labels, self.scores(prediction.predictions), names)
            return {name: 0.0 if value is None else value for name, value in values.items()}

        return compute


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(rows, classes)` logits to probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _clip(scores: np.ndarray) -> np.ndarray:
    return np.clip(scores, 1e-12, 1 - 1e-12)


def _predicted(scores: np.ndarray) -> np.ndarray:
    return scores if scores.ndim == 1 else scores.argmax(axis=1)


def _describe_classes(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str], thresholds: Limits, report_at: Limits
) -> dict:
    table = metrics.per_class(labels, _predicted(scores), names)
    absent = [name for name, row in table.items() if not row["support"]]
    remark = f"no test utterance is {', '.join(absent)}: UAR and macro F1 are over the other classes"
    return {
        "chance": 1 / len(set(labels.tolist())),
        "per_class": table,
        "confusion": metrics.confusion(labels, _predicted(scores), len(names)).tolist(),
        "remarks": [remark] if absent else [],
    }


def _describe_labels(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str], thresholds: Limits, report_at: Limits
) -> dict:
    limits = [0.5] * len(names) if thresholds is None else thresholds
    table, present = metrics.per_label(labels, scores, names, limits), labels > 0.5
    absent = [name for name, row in table.items() if not row["support"]]
    return {
        # a random ranking has a label's frequency as its average precision
        "chance": metrics.mean_defined(present.mean(axis=0)[present.any(axis=0)]),
        "decision_thresholds": dict(zip(names, map(float, limits), strict=True)),
        "per_label": table,
        "remarks": [f"no test utterance has {', '.join(absent)}: undefined, and not in the means"] if absent else [],
    }


def _describe_values(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str], thresholds: Limits, report_at: Limits
) -> dict:
    table = metrics.per_value(labels, scores, names)
    undefined = [name for name, row in table.items() if row["ccc"] is None]
    remark = f"{', '.join(undefined)}: constant labels or predictions, a correlation is undefined and not in the means"
    reports = {str(limit): metrics.classification_report(labels, scores, names, limit) for limit in report_at or []}
    return {"chance": 0.0, "per_value": table, "thresholds": reports, "remarks": [remark] if undefined else []}


_CLASSES = Task(
    CLASSES, "classes", softmax, lambda scores: np.log(_clip(scores)),
    lambda labels, scores, names, _=None: metrics.classification_metrics(labels, _predicted(scores), len(names)),
    _describe_classes,
    selected_by="uar", compared_by=("uar", "macro_f1"), summary=metrics.METRICS, table="per_class",
    figures=("confusion_matrix",),
)  # fmt: skip
_LABELS = Task(
    LABELS, "several labels", lambda logits: 1 / (1 + np.exp(-logits)), lambda s: np.log(_clip(s) / (1 - _clip(s))),
    metrics.label_metrics, _describe_labels,
    selected_by="map", compared_by=("map", "macro_f1"), summary=("map", "macro_f1", "micro_f1", "weighted_accuracy"),
    each=("weighted_accuracy",), table="per_label", figures=(), has_thresholds=True,
)  # fmt: skip
_VALUES = Task(
    VALUES, "values", lambda logits: logits, lambda scores: scores,
    lambda labels, scores, names, _=None: metrics.value_metrics(labels, scores, names), _describe_values,
    selected_by="ccc", compared_by=("ccc", "mae"), summary=("ccc", "pearson", "rmse", "mae"), each=("ccc", "rmse"),
    table="per_value", figures=("scatter",),
)  # fmt: skip
TASKS = {task.problem_type: task for task in (_CLASSES, _LABELS, _VALUES)}
