"""Metrics for vector labels: continuous values (regression) and several labels at once.

Where a metric is undefined (a constant has no correlation, a label without a positive no average precision) it is
None and takes no part in the mean; reports print "undefined". Never NaN, never a 0 in its place.
"""

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

VALUE_METRICS = ("ccc", "pearson", "mae", "mse", "rmse")
AVERAGES = ("micro", "macro", "weighted", "samples")


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


def mean_defined(values) -> float | None:
    """Mean of those that are not None; None if none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def per_value(references: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict[str, dict]:
    """CCC, Pearson, MAE, MSE and RMSE of each column of `(rows, names)`."""
    table = {}
    for column, name in enumerate(names):
        y, x = references[:, column].astype(float), predictions[:, column].astype(float)
        error = x - y
        mse = float((error**2).mean())
        table[name] = {
            "ccc": ccc(y, x),
            "pearson": pearson(y, x),
            "mae": float(np.abs(error).mean()),
            "mse": mse,
            "rmse": mse**0.5,
        }
    return table


def value_metrics(references: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict[str, float | None]:
    """Each metric's mean over the columns, and `ccc_<name>` of each."""
    table = per_value(references, predictions, names)
    means = {metric: mean_defined(row[metric] for row in table.values()) for metric in VALUE_METRICS}
    return {**means, **{f"ccc_{name}": row["ccc"] for name, row in table.items()}}


def per_label(references, scores, names: list[str], thresholds) -> dict[str, dict]:
    """Average precision of each label's scores; precision, recall and F1 of `score >= threshold`; support.

    Args:
        references: `(rows, labels)`, 1 where the label is present.
        scores: `(rows, labels)`.
        thresholds: `(labels,)` or one number.
    """
    references = np.asarray(references) > 0.5
    decided = np.asarray(scores) >= thresholds
    support, predicted, both = references.sum(axis=0), decided.sum(axis=0), (references & decided).sum(axis=0)
    precision, recall = both / np.maximum(predicted, 1), both / np.maximum(support, 1)
    f1 = 2 * both / np.maximum(support + predicted, 1)
    table = {}
    for i, name in enumerate(names):
        some = 0 < support[i]
        table[name] = {
            "average_precision": float(average_precision_score(references[:, i], scores[:, i])) if some else None,
            "precision": float(precision[i]),
            "recall": float(recall[i]) if some else None,
            "f1": float(f1[i]) if some else None,
            "support": int(support[i]),
        }
    return table


def label_metrics(references, scores, names: list[str], thresholds) -> dict[str, float | None]:
    """`map` (mean average precision), micro/macro/weighted/samples F1, mean weighted accuracy, at the thresholds."""
    references = np.asarray(references) > 0.5
    table = per_label(references, scores, names, thresholds)
    f1 = averaged_f1(references, scores >= thresholds)
    accuracies = [weighted_accuracy(references[:, i], (scores >= thresholds)[:, i]) for i in range(len(names))]
    return {
        "map": mean_defined(row["average_precision"] for row in table.values()),
        **{f"{average}_f1": f1[average] for average in AVERAGES},
        "weighted_accuracy": mean_defined(accuracies),
    }


def averaged_f1(references: np.ndarray, decided: np.ndarray) -> dict[str, float | None]:
    """F1 by scikit-learn's averages; `macro` over labels that occur. Rows without label and decision are 0 in
    `samples`, as the reference work's classification report counts them."""
    truth, decided = np.asarray(references, dtype=bool), np.asarray(decided, dtype=bool)
    support, predicted, both = truth.sum(axis=0), decided.sum(axis=0), (truth & decided).sum(axis=0)
    if not support.any():
        return dict.fromkeys(AVERAGES)
    each = 2 * both / np.maximum(support + predicted, 1)  # not by scikit-learn: intervals need it hundreds of times
    rows = 2 * (truth & decided).sum(axis=1) / np.maximum(truth.sum(axis=1) + decided.sum(axis=1), 1)
    return {
        "micro": float(2 * both.sum() / (support.sum() + predicted.sum())),
        "macro": float(each[support > 0].mean()),
        "weighted": float((each * support).sum() / support.sum()),
        "samples": float(rows.mean()),
    }


def weighted_accuracy(references: np.ndarray, decided: np.ndarray) -> float | None:
    """MOSEI's accuracy of one emotion, `(TP * N / P + TN) / 2N`: the mean of both recalls (Zadeh et al. 2018, ACL).
    None where only positives or only negatives occur."""
    positive = references.astype(bool)
    if positive.all() or not positive.any():
        return None
    return float((decided[positive].mean() + (~decided.astype(bool))[~positive].mean()) / 2)


def tune_thresholds(references, scores, names: list[str]) -> list[float]:
    """For each label the threshold with the best F1 on validation; 0.5 for a label without a positive there.

    Candidates lie halfway between neighbouring scores, so that a threshold does not hang on one utterance.
    """
    references, chosen = np.asarray(references) > 0.5, []
    for i in range(len(names)):
        truth, score = references[:, i], np.asarray(scores)[:, i]
        levels = np.unique(score)
        if not truth.any() or len(levels) < 2:
            chosen.append(0.5)
            continue
        candidates = (levels[:-1] + levels[1:]) / 2
        decided = score[None, :] >= candidates[:, None]  # (candidates, rows)
        f1 = 2 * (decided & truth).sum(1) / (decided.sum(1) + truth.sum())
        chosen.append(float(candidates[int(np.argmax(f1))]))
    return chosen


def classification_report(references, predictions, names: list[str], threshold: float) -> dict[str, dict]:
    """The reference work's report of regressed intensities read at one threshold: present is `value >= threshold` on
    both sides; one row a name and one an average, with MOSEI's weighted accuracy, precision, recall, F1, support."""
    truth, decided = np.asarray(references) >= threshold, np.asarray(predictions) >= threshold
    accuracies = [weighted_accuracy(truth[:, i], decided[:, i]) for i in range(len(names))]

    def row(accuracy, precision, recall, f1, support) -> dict:
        figures = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
        return {"weighted_accuracy": accuracy, **figures, "support": int(support)}

    each = precision_recall_fscore_support(truth, decided, average=None, zero_division=0.0, labels=range(len(names)))
    rows = {name: row(accuracies[i], *(figures[i] for figures in each)) for i, name in enumerate(names)}
    for average in AVERAGES:
        figures = precision_recall_fscore_support(truth, decided, average=average, zero_division=0.0)[:3]
        accuracy = mean_defined(accuracies) if average == "macro" else None
        rows[f"{average} avg"] = row(accuracy, *figures, truth.sum())
    return rows


def sentiment_metrics(references, predictions) -> dict[str, float | None]:
    """CMU-MOSEI's sentiment figures from values in -3..3: Acc2 and F1 as non-negative/negative and as
    positive/negative without zeros, Acc7 of rounded values, MAE, correlation (as MMSA computes them)."""
    y, x = np.asarray(references, dtype=float).ravel(), np.asarray(predictions, dtype=float).ravel()
    nonzero = y != 0
    levels = [np.clip(np.round(values), -3, 3) for values in (x, y)]
    result: dict[str, float | None] = {"acc7": float((levels[0] == levels[1]).mean())}
    for name, rows, truth, decided in (
        ("has0", np.ones_like(nonzero), y >= 0, x >= 0),
        ("non0", nonzero, y > 0, x > 0),
    ):
        if not rows.any():
            result |= {f"acc2_{name}": None, f"f1_{name}": None}
            continue
        result[f"acc2_{name}"] = float((truth[rows] == decided[rows]).mean())
        f1 = precision_recall_fscore_support(truth[rows], decided[rows], average="weighted", zero_division=0.0)[2]
        result[f"f1_{name}"] = float(f1)
    return {**result, "mae": float(np.abs(x - y).mean()), "corr": pearson(y, x)}
