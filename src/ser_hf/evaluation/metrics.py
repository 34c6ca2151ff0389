"""The field's metrics: of classes from a confusion matrix, of continuous values, and of several labels at once.

UAR (unweighted average recall) is the mean of the classes' recalls; WA (weighted accuracy) is plain accuracy, weighted
by how often the classes occur. Both names are the field's (Schuller et al. 2009, Interspeech Emotion Challenge).

A metric that is undefined (a constant has no correlation, a label without a positive no average precision) is None and
takes no part in means; reports print "undefined". Not scikit-learn's: classes may be absent, a single label is not two
classes, and intervals compute every metric hundreds of times.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

METRICS = ("uar", "wa", "macro_f1", "weighted_f1")
VALUE_METRICS = ("ccc", "pearson", "mae", "mse", "rmse")
AVERAGES = ("micro", "macro", "weighted", "samples")
SMALLER_IS_BETTER = frozenset({"loss", "mae", "mse", "rmse"})  # of all others a greater value is better


def confusion(references: ArrayLike, predictions: ArrayLike, num_labels: int) -> np.ndarray:
    """`(labels, labels)` counts: row = reference, column = prediction.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = np.asarray(references, dtype=int) * num_labels + np.asarray(predictions, dtype=int)
    return np.bincount(flat, minlength=num_labels**2).reshape(num_labels, num_labels)


def from_counts(correct: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray | float]:
    """UAR, WA, macro and weighted F1 from each class's numbers `(..., labels)` of hits, utterances and predictions.

    Classes without any reference take no part in UAR and macro F1 (a recall of nothing is not a number), as in
    scikit-learn's `balanced_accuracy_score`; a class never predicted has precision and F1 of 0.
    """
    _, recall, f1 = _precision_recall_f1(correct, support, predicted)
    present = support > 0
    classes, total = present.sum(-1), support.sum(-1)
    scores = {
        "uar": recall.sum(-1) / classes,
        "wa": correct.sum(-1) / total,
        "macro_f1": (f1 * present).sum(-1) / classes,
        "weighted_f1": (f1 * support).sum(-1) / total,
    }
    return {name: float(value) if np.ndim(value) == 0 else value for name, value in scores.items()}


def classification_metrics(references: ArrayLike, predictions: ArrayLike, num_labels: int) -> dict[str, float]:
    """UAR, WA, macro F1 and weighted F1.

    >>> scores = classification_metrics([0] * 10 + [1] * 2, [0] * 8 + [1] * 2 + [0, 1], 2)
    >>> round(scores["uar"], 4), round(scores["wa"], 4)
    (0.65, 0.75)
    """
    matrix = confusion(references, predictions, num_labels)
    return from_counts(np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0))


def per_class(references: ArrayLike, predictions: ArrayLike, label_names: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class. Without any reference, recall is None."""
    matrix = confusion(references, predictions, len(label_names))
    support = matrix.sum(axis=1)
    figures = zip(*_precision_recall_f1(np.diagonal(matrix), support, matrix.sum(axis=0)), support, strict=True)
    return {
        name: {"precision": float(p), "recall": float(r) if n else None, "f1": float(f1), "support": int(n)}
        for name, (p, r, f1, n) in zip(label_names, figures, strict=True)
    }


def ccc(references: np.ndarray, predictions: np.ndarray) -> float | None:
    """Concordance correlation coefficient (Lin 1989), population moments; None where either is constant.

    >>> round(ccc(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])), 4)
    0.3636
    """
    x, y = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def pearson(references: np.ndarray, predictions: np.ndarray) -> float | None:
    """Pearson correlation; None where either is constant."""
    x, y = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std()))


def mean_defined(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if all are."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def per_value(references: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict[str, dict]:
    """CCC, Pearson, MAE, MSE and RMSE of each column of `(rows, names)`."""
    table = {}
    for column, name in enumerate(names):
        y, x = references[:, column].astype(float), predictions[:, column].astype(float)
        mae, mse = float(np.abs(x - y).mean()), float(((x - y) ** 2).mean())
        table[name] = {"ccc": ccc(y, x), "pearson": pearson(y, x), "mae": mae, "mse": mse, "rmse": mse**0.5}
    return table


def value_metrics(references: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict[str, float | None]:
    """Each metric's mean over columns, `ccc_<name>`, `rmse_<name>`; of `sentiment` alone also `sentiment_metrics`."""
    table = per_value(references, predictions, names)
    means = {metric: mean_defined(row[metric] for row in table.values()) for metric in VALUE_METRICS}
    each = {f"{metric}_{name}": row[metric] for metric in ("ccc", "rmse") for name, row in table.items()}
    sentiment = sentiment_metrics(references, predictions) if list(names) == ["sentiment"] else {}
    return {**means, **each, **sentiment}


def sentiment_metrics(references: ArrayLike, predictions: ArrayLike) -> dict[str, float | None]:
    """CMU-MOSEI's sentiment figures from values in -3..3: Acc2 and F1 as non-negative/negative and as
    positive/negative without zeros, Acc7 of rounded values, MAE, correlation (as MMSA computes them)."""
    y, x = np.asarray(references, dtype=float).ravel(), np.asarray(predictions, dtype=float).ravel()
    levels = [np.clip(np.round(values), -3, 3) for values in (x, y)]
    result: dict[str, float | None] = {"acc7": float((levels[0] == levels[1]).mean())}
    everything, nonzero = np.ones(len(y), dtype=bool), y != 0
    for name, rows, truth, decided in (("has0", everything, y >= 0, x >= 0), ("non0", nonzero, y > 0, x > 0)):
        scores = classification_metrics(truth[rows], decided[rows], 2) if rows.any() else {"wa": None}
        result |= {f"acc2_{name}": scores["wa"], f"f1_{name}": scores.get("weighted_f1")}
    return {**result, "mae": float(np.abs(x - y).mean()), "corr": pearson(y, x)}


def _precision_recall_f1(both: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, ...]:
    """From counts of any shape; 0 where nothing is predicted, or nothing is present."""
    f1 = 2 * both / np.maximum(support + predicted, 1)
    return both / np.maximum(predicted, 1), both / np.maximum(support, 1), f1


def per_label(references: ArrayLike, scores: np.ndarray, names: list[str], thresholds: ArrayLike) -> dict[str, dict]:
    """Average precision of each label's scores; precision, recall and F1 of `score >= threshold`; support. References
    (1 where the label is present) and scores are `(rows, labels)`, thresholds `(labels,)` or one number."""
    from sklearn.metrics import average_precision_score  # half a second that the first step of a training need not wait

    truth = np.asarray(references) > 0.5
    decided = np.asarray(scores) >= thresholds
    support = truth.sum(axis=0)
    precision, recall, f1 = _precision_recall_f1((truth & decided).sum(axis=0), support, decided.sum(axis=0))
    return {
        name: {
            "average_precision": float(average_precision_score(truth[:, i], scores[:, i])) if support[i] else None,
            "precision": float(precision[i]),
            "recall": float(recall[i]) if support[i] else None,
            "f1": float(f1[i]) if support[i] else None,
            "support": int(support[i]),
        }
        for i, name in enumerate(names)
    }


def label_metrics(
    references: ArrayLike, scores: np.ndarray, names: list[str], thresholds: ArrayLike | None = None
) -> dict[str, float | None]:
    """Mean average precision (`map`), F1 by `AVERAGES`, and weighted accuracies and their mean at the thresholds."""
    thresholds = 0.5 if thresholds is None else thresholds
    truth, decided = np.asarray(references) > 0.5, np.asarray(scores) >= thresholds
    f1 = averaged_f1(truth, decided)
    accuracies = [weighted_accuracy(*both) for both in zip(truth.T, decided.T, strict=True)]
    return {
        "map": mean_defined(row["average_precision"] for row in per_label(truth, scores, names, thresholds).values()),
        **{f"{average}_f1": f1[average] for average in AVERAGES},
        "weighted_accuracy": mean_defined(accuracies),
        **{f"weighted_accuracy_{name}": value for name, value in zip(names, accuracies, strict=True)},
    }


def averaged_f1(references: np.ndarray, decided: np.ndarray) -> dict[str, float | None]:
    """`f1_averages` of `(rows, labels)`; None where no label occurs."""
    truth, decided = np.asarray(references, dtype=bool), np.asarray(decided, dtype=bool)
    counts = (of.sum(axis=0) for of in (truth & decided, truth, decided))
    averages = f1_averages(*counts, row_f1(truth, decided).mean())
    return {name: None if np.isnan(f1) else float(f1) for name, f1 in averages.items()}


def f1_averages(both: np.ndarray, support: np.ndarray, predicted: np.ndarray, samples: ArrayLike) -> dict:
    """F1 by scikit-learn's averages from each label's counts `(..., labels)` and the mean `row_f1`; `macro` over labels
    that occur; NaN where none does. Rows without label and decision are 0 in `samples`, as in the reference work."""
    f1, present = _precision_recall_f1(both, support, predicted)[2], support > 0
    total = np.maximum(support.sum(-1), 1)
    micro = _precision_recall_f1(both.sum(-1), support.sum(-1), predicted.sum(-1))[2]
    macro = (f1 * present).sum(-1) / np.maximum(present.sum(-1), 1)
    averages = dict(zip(AVERAGES, (micro, macro, (f1 * support).sum(-1) / total, samples), strict=True))
    return {name: np.where(present.any(-1), value, np.nan) for name, value in averages.items()}


def row_f1(truth: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """F1 of each row of `(rows, labels)` booleans."""
    return _precision_recall_f1((truth & decided).sum(axis=1), truth.sum(axis=1), decided.sum(axis=1))[2]


def weighted_accuracy(references: np.ndarray, decided: np.ndarray) -> float | None:
    """MOSEI's `(TP * N / P + TN) / 2N`: the mean of both recalls (Zadeh et al. 2018, ACL); None without one of them."""
    positive = references.astype(bool)
    if positive.all() or not positive.any():
        return None
    return float((decided[positive].mean() + (~decided.astype(bool))[~positive].mean()) / 2)


def tune_thresholds(references: np.ndarray, scores: np.ndarray, names: list[str]) -> list[float]:
    """For each label the lowest threshold with the best F1; 0.5 for a label without a positive, or with one score only.
    Candidates lie halfway between neighbouring scores, so that a threshold does not depend on one utterance."""
    references, scores, thresholds = np.asarray(references) > 0.5, np.asarray(scores), []
    for i in range(len(names)):
        order = np.argsort(scores[:, i], kind="stable")
        truth, score = references[order, i], scores[order, i]
        levels = np.unique(score)
        if not truth.any() or len(levels) < 2:
            thresholds.append(0.5)
            continue
        candidates = (levels[:-1] + levels[1:]) / 2
        below = np.searchsorted(score, candidates)  # rows under each candidate
        both = truth.sum() - np.concatenate([[0], np.cumsum(truth)])[below]
        f1 = 2 * both / (len(score) - below + truth.sum())
        thresholds.append(float(candidates[int(np.argmax(f1))]))
    return thresholds


def classification_report(
    references: ArrayLike, predictions: ArrayLike, names: list[str], threshold: float
) -> dict[str, dict]:
    """The reference work's report of regressed intensities read at one threshold: present is `value >= threshold` on
    both sides; one row a name and one an average, with MOSEI's weighted accuracy, precision, recall, F1, support."""
    truth, decided = np.asarray(references) >= threshold, np.asarray(predictions) >= threshold
    support = truth.sum(axis=0)
    micro, each, rows = (  # precision, recall and F1: `(3,)`, `(3, labels)`, `(3, rows)`
        np.stack(_precision_recall_f1((truth & decided).sum(axis), truth.sum(axis), decided.sum(axis)))
        for axis in (None, 0, 1)
    )
    weighted = (each * support).sum(axis=1) / max(support.sum(), 1)
    averages = dict(zip(AVERAGES, (micro, each.mean(axis=1), weighted, rows.mean(axis=1)), strict=True))
    accuracies = [weighted_accuracy(truth[:, i], decided[:, i]) for i in range(len(names))]

    def row(accuracy: float | None, figures: np.ndarray, count: int) -> dict:
        named = dict(zip(("precision", "recall", "f1"), map(float, figures), strict=True))
        return {"weighted_accuracy": accuracy, **named, "support": int(count)}

    return {name: row(accuracies[i], each[:, i], support[i]) for i, name in enumerate(names)} | {
        f"{average} avg": row(mean_defined(accuracies) if average == "macro" else None, figures, support.sum())
        for average, figures in averages.items()
    }


@cache
def _metric_class():
    # A function, because `import evaluate` takes seconds and plain numbers do not need it.
    import datasets
    import evaluate

    class SerMetric(evaluate.Metric):
        """One of METRICS as an `evaluate` module: `config_name` says which, `all` computes them together."""

        def _info(self):
            return evaluate.MetricInfo(
                description=f"Speech emotion recognition: {self.config_name}",
                citation="Schuller et al. (2009), The Interspeech 2009 Emotion Challenge",
                inputs_description="predictions and references: class indices",
                features=datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int32"))),
            )

        def _compute(self, predictions, references):
            labels = int(max(np.max(predictions), np.max(references))) + 1
            scores = classification_metrics(references, predictions, labels)
            return scores if self.config_name == "all" else {self.config_name: scores[self.config_name]}

    return SerMetric


def load_metric(name: str = "all"):
    """An `evaluate.Metric` of `uar`, `wa`, `macro_f1`, `weighted_f1`, or of `all`; works with `add_batch` and
    `evaluate.combine`, and offline. ValueError: no such metric."""
    if name not in (*METRICS, "all"):
        raise ValueError(f"metric {name!r}: choose one of {', '.join(METRICS)} or all")
    return _metric_class()(config_name=name, keep_in_memory=True)
