"""One system against others on the same utterances: the others' figures, and the difference with a paired interval.

Two intervals that overlap do not say that two systems are equal: both depend on which speakers were tested. Here every
bootstrap draw scores both systems on the same resampled speakers, and the interval is of the difference.
"""

import numpy as np
from datasets import Dataset

from .metrics import bootstrap_scores, classification_metrics
from .scoring import cluster_intervals, to_scores
from .vector_metrics import label_metrics, sentiment_metrics, value_metrics

# Draws where every draw is scored anew; as many as `scoring.score` makes.
LABEL_DRAWS, VALUE_DRAWS = 200, 500


def compare(
    dataset: Dataset,
    logits: np.ndarray,
    others: dict[str, np.ndarray],
    names: list[str],
    problem_type: str = "single_label_classification",
    thresholds: list[float] | None = None,
) -> dict[str, dict]:
    """Compare a system with others on one part of a corpus.

    Args:
        dataset: The part, in the order of `logits`: its columns `label` and `speaker` are read.
        logits: `(utterances, labels)` of the main system.
        others: `{name: logits}` of the same shape; for classes also `(utterances,)` predicted class indices.
        names: Label names in index order.
        problem_type: As in transformers.
        thresholds: Multi-label: the main system's decision threshold of each label (0.5 each if None). The others'
            are 0.5; logits can be moved so that another one is (`text_baselines`).

    Returns:
        For each other system `metrics` and `intervals` (95 %), `difference` (main minus other) and
        `difference_intervals` (95 %, paired: both systems on the same resampled speakers, or utterances where there
        are no speakers or one). What is undefined is None. Of errors (MAE, MSE, RMSE) a negative difference is the
        better one.

    Raises:
        ValueError: a system has not as many rows as the part.
    """
    labels, speakers = np.array(dataset["label"]), dataset["speaker"]
    for name, rows in {"the main system": logits, **others}.items():
        if len(rows) != len(labels):
            raise ValueError(f"{name} has {len(rows)} rows, the part {len(labels)} utterances")
    if problem_type == "single_label_classification":
        return _compare_classes(labels, speakers, logits, others, len(names))

    def figures(system: np.ndarray, limits: list[float] | None, rows) -> dict[str, float | None]:
        scores = to_scores(system[rows], problem_type)
        if problem_type == "multi_label_classification":
            return label_metrics(labels[rows], scores, names, np.asarray(limits or [0.5] * len(names)))
        values = value_metrics(labels[rows], scores, names)
        return values | (sentiment_metrics(labels[rows], scores) if names == ["sentiment"] else {})

    def together(rows) -> dict:
        """Everything of one draw under keys `(what, other, metric)`."""
        main, found = figures(logits, thresholds, rows), {}
        for name, other in others.items():
            for metric, value in figures(other, None, rows).items():
                undefined = value is None or main[metric] is None
                found["metrics", name, metric] = value
                found["difference", name, metric] = None if undefined else main[metric] - value
        return found

    draws = LABEL_DRAWS if problem_type == "multi_label_classification" else VALUE_DRAWS
    values = together(np.arange(len(labels)))
    intervals = cluster_intervals(speakers, together, samples=draws) if others else {}

    def pick(table: dict, what: str, name: str) -> dict:
        return {metric: value for (kind, of, metric), value in table.items() if (kind, of) == (what, name)}

    return {
        name: {
            "metrics": pick(values, "metrics", name),
            "intervals": pick(intervals, "metrics", name),
            "difference": pick(values, "difference", name),
            "difference_intervals": pick(intervals, "difference", name),
        }
        for name in others
    }


def _compare_classes(labels, speakers, logits, others, num_labels: int) -> dict[str, dict]:
    def of(system: np.ndarray) -> tuple[dict, dict]:
        predictions = system if system.ndim == 1 else system.argmax(axis=1)
        scores = classification_metrics(labels, predictions, num_labels)
        return scores, bootstrap_scores(labels, predictions, speakers, num_labels)

    def interval(drawn: np.ndarray) -> list[float]:
        return [float(value) for value in np.percentile(drawn, [2.5, 97.5])]

    main, main_drawn = of(np.asarray(logits))
    result = {}
    for name, other in others.items():
        scores, drawn = of(np.asarray(other))
        result[name] = {
            "metrics": scores,
            "intervals": {metric: interval(values) for metric, values in drawn.items()},
            "difference": {metric: main[metric] - value for metric, value in scores.items()},
            "difference_intervals": {metric: interval(main_drawn[metric] - v) for metric, v in drawn.items()},
        }
    return result
