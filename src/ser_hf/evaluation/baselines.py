"""Baselines of a text system: the most frequent answer, and TF-IDF under a linear model.

Both use what the fine-tuned model uses: the same training texts, cleaned the same way, and validation for the one
choice that is made (the strength of regularisation).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from .metrics import tune_thresholds
from .tasks import CLASSES, LABELS, TASKS, VALUES

# Candidates for the inverse strength of regularisation; 1 (scikit-learn's default) without validation.
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
RARE = 1e-6  # stands for a frequency of 0 or 1 where a logarithm is taken

Answer = Callable[[np.ndarray], np.ndarray]  # TF-IDF rows to logits `(rows, labels)`


def text_baselines(
    splits: Mapping[str, Dataset], names: list[str], problem_type: str, seed: int = 42
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Fit the baselines on train, choose on validation, predict test.

    Args:
        splits: Parts with the columns `text` (cleaned, never null) and `label` (class indices or vectors).
        names: Label names in index order.
        problem_type: As in transformers.
        seed: Seed of the solver.

    Returns:
        Logits on test, `(utterances, labels)`, by name: `majority` (classes), `frequency` (several labels) or `mean`
        (values), which do not read the text, and `tfidf`, which is left out where train has no word or only one class.
        For several labels, `tfidf`'s logits are moved so that 0.5 is the threshold that is best on validation, as the
        model's thresholds are. And a line for people on each.
    """
    labels, test, baseline = np.array(splits["train"]["label"]), splits["test"], BASELINES[problem_type]
    logits = {baseline.name: np.tile(baseline.constant(labels, len(names)), (len(test), 1))}
    lines = [f"{baseline.name}: {baseline.about}"]
    if tfidf := _tfidf(splits, names, problem_type, seed):
        logits["tfidf"], about = tfidf
        lines.append(f"tfidf: TF-IDF of words and pairs of words, {baseline.model}, {about}")
    return logits, lines


def _tfidf(splits: Mapping[str, Dataset], names: list[str], problem_type: str, seed: int):
    """TF-IDF under a linear model: its logits on test and its strength; None where there is nothing to fit."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    train, validation = splits["train"], splits["validation"]
    task, vectorizer = TASKS[problem_type], TfidfVectorizer(ngram_range=(1, 2))
    labels, fit = np.array(train["label"]), BASELINES[problem_type].fit
    try:
        features = vectorizer.fit_transform(train["text"])
    except ValueError:  # no text has a word
        return None
    if problem_type == CLASSES and len(set(labels.tolist())) < 2:
        return None
    strengths = STRENGTHS if len(validation) else (1.0,)
    fitted = {strength: fit(features, labels, len(names), strength, seed) for strength in strengths}
    best, shift, about = 1.0, 0.0, "C = 1"
    if len(validation):
        truth, rows = np.array(validation["label"]), vectorizer.transform(validation["text"])
        scores = {strength: task.scores(answer(rows)) for strength, answer in fitted.items()}
        quality = {s: task.metrics(truth, scores[s], names)[task.selected_by] or 0.0 for s in strengths}
        best = max(strengths, key=lambda strength: (quality[strength], -abs(np.log10(strength))))  # ties: nearest to 1
        about = f"C = {best:g}, chosen on validation"
        if task.has_thresholds:
            shift = task.logits(np.clip(tune_thresholds(truth, scores[best], names), RARE, 1 - RARE))
    return fitted[best](vectorizer.transform(splits["test"]["text"])) - shift, about


def _logistic(features, target: np.ndarray, strength: float, seed: int):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, random_state=seed).fit(
        features, target
    )


def _class_constant(labels: np.ndarray, num_labels: int) -> np.ndarray:
    return np.log(np.maximum(np.bincount(labels, minlength=num_labels) / len(labels), RARE))


def _label_constant(labels: np.ndarray, num_labels: int) -> np.ndarray:
    return TASKS[LABELS].logits(np.clip(labels.mean(axis=0), RARE, 1 - RARE))


def _fit_classes(features, labels: np.ndarray, num_labels: int, strength: float, seed: int) -> Answer:
    model = _logistic(features, labels, strength, seed)

    def answer(rows) -> np.ndarray:
        logits = np.full((rows.shape[0], num_labels), np.log(RARE))  # stays for a class that train does not have
        logits[:, model.classes_] = model.predict_log_proba(rows)
        return logits

    return answer


def _fit_labels(features, labels: np.ndarray, num_labels: int, strength: float, seed: int) -> Answer:
    constants, targets = _label_constant(labels, num_labels), (labels > 0.5).T
    models = [_logistic(features, t, strength, seed) if 0 < t.sum() < len(t) else None for t in targets]

    def answer(rows) -> np.ndarray:
        logits = np.tile(constants, (rows.shape[0], 1))
        for column, model in enumerate(models):
            if model is not None:
                logits[:, column] = model.decision_function(rows)
        return logits

    return answer


def _fit_values(features, labels: np.ndarray, num_labels: int, strength: float, seed: int) -> Answer:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(features, labels)
    return lambda rows: model.predict(rows).reshape(rows.shape[0], num_labels)


class Baseline(NamedTuple):
    """The baselines of one task."""

    name: str  # of the constant answer
    about: str
    constant: Callable[[np.ndarray, int], np.ndarray]  # training labels and their number to logits `(labels,)`
    model: str  # the linear model
    fit: Callable[..., Answer]


BALANCED = "logistic regression with balanced classes"
BASELINES = {
    CLASSES: Baseline("majority", "the most frequent training class", _class_constant, BALANCED, _fit_classes),
    LABELS: Baseline("frequency", "each label with its frequency in train", _label_constant, BALANCED, _fit_labels),
    VALUES: Baseline("mean", "each value's mean in train", lambda y, _: y.mean(axis=0), "ridge", _fit_values),
}
