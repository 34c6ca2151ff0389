"""The field's metrics for classes, from a confusion matrix, and as `evaluate.Metric` modules that need no network.

UAR (unweighted average recall) is the mean of the classes' recalls; WA (weighted accuracy) is plain accuracy, weighted
by how often the classes occur. Both names are the field's (Schuller et al. 2009, Interspeech Emotion Challenge).
"""

from functools import cache

import numpy as np

METRICS = ("uar", "wa", "macro_f1", "weighted_f1")


def confusion(references, predictions, num_labels: int) -> np.ndarray:
    """`(labels, labels)` counts: row = reference, column = prediction.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = np.asarray(references, dtype=int) * num_labels + np.asarray(predictions, dtype=int)
    return np.bincount(flat, minlength=num_labels**2).reshape(num_labels, num_labels)


def from_confusion(matrix: np.ndarray) -> dict[str, np.ndarray | float]:
    """UAR, WA, macro and weighted F1 of one confusion matrix `(labels, labels)`, or of many `(..., labels, labels)`.

    Classes without any reference take no part in UAR and macro F1 (a recall of nothing is not a number), as in
    scikit-learn's `balanced_accuracy_score`; a class never predicted has precision and F1 of 0.

    >>> scores = from_confusion(np.array([[8, 2], [1, 1]]))
    >>> round(scores["uar"], 4), round(scores["wa"], 4)
    (0.65, 0.75)
    """
    matrix = np.asarray(matrix, dtype=float)
    correct = np.diagonal(matrix, axis1=-2, axis2=-1)
    support, predicted = matrix.sum(-1), matrix.sum(-2)
    present = support > 0
    recall = np.divide(correct, support, out=np.zeros_like(correct), where=present)
    f1 = np.divide(2 * correct, support + predicted, out=np.zeros_like(correct), where=support + predicted > 0)
    classes, total = present.sum(-1), support.sum(-1)
    scores = {
        "uar": recall.sum(-1) / classes,
        "wa": correct.sum(-1) / total,
        "macro_f1": (f1 * present).sum(-1) / classes,
        "weighted_f1": (f1 * support).sum(-1) / total,
    }
    return {name: float(value) if np.ndim(value) == 0 else value for name, value in scores.items()}


def classification_metrics(references, predictions, num_labels: int) -> dict[str, float]:
    """UAR, WA, macro F1 and weighted F1."""
    return from_confusion(confusion(references, predictions, num_labels))


def per_class(references, predictions, label_names: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class. Without any reference, recall is None."""
    matrix = confusion(references, predictions, len(label_names))
    table = {}
    for index, name in enumerate(label_names):
        correct, support, predicted = matrix[index, index], matrix[index].sum(), matrix[:, index].sum()
        table[name] = {
            "precision": float(correct / predicted) if predicted else 0.0,
            "recall": float(correct / support) if support else None,
            "f1": float(2 * correct / (support + predicted)) if support + predicted else 0.0,
            "support": int(support),
        }
    return table


def bootstrap_scores(
    references, predictions, clusters, num_labels: int, samples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """All metrics of `samples` bootstrap draws, `{metric: (samples,)}`, resampling whole clusters (speakers), because
    utterances of one speaker are not independent (Ferrer & Riera, Confidence Intervals for evaluation in machine
    learning, 2022). With only one cluster, utterances are resampled.

    What is drawn depends on the clusters and the seed alone: two systems on the same utterances get the same draws, so
    that differences of their scores are paired.
    """
    references, predictions = np.asarray(references), np.asarray(predictions)
    names, cluster = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if len(names) < 2:
        cluster = np.arange(len(references))
    matrices = np.zeros((cluster.max() + 1, num_labels, num_labels))
    np.add.at(matrices, (cluster, references, predictions), 1)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(matrices), size=(samples, len(matrices)))
    weight = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(matrices))  # (samples, clusters)
    return from_confusion(np.einsum("sc,cij->sij", weight, matrices))


def bootstrap_intervals(
    references, predictions, clusters, num_labels: int, samples: int = 1000, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of all metrics from `bootstrap_scores`.

    Returns:
        `{metric: [low, high]}`. Only one cluster: utterances are resampled instead, which says nothing about other
        speakers; the caller must say so.
    """
    scores = bootstrap_scores(references, predictions, clusters, num_labels, samples, seed)
    return {name: [float(v) for v in np.percentile(values, [2.5, 97.5])] for name, values in scores.items()}


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
                features=datasets.Features(
                    {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
                ),
            )

        def _compute(self, predictions, references):
            labels = int(max(np.max(predictions), np.max(references))) + 1
            scores = classification_metrics(references, predictions, labels)
            return scores if self.config_name == "all" else {self.config_name: scores[self.config_name]}

    return SerMetric


def load_metric(name: str = "all"):
    """An `evaluate.Metric` of `uar`, `wa`, `macro_f1`, `weighted_f1`, or of `all`; works with `add_batch` and
    `evaluate.combine`, and offline.

    Raises:
        ValueError: no such metric.
    """
    if name not in (*METRICS, "all"):
        raise ValueError(f"metric {name!r}: choose one of {', '.join(METRICS)} or all")
    return _metric_class()(config_name=name, keep_in_memory=True)
