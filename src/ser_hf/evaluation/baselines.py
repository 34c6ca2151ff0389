"""Baselines of a text system: the most frequent answer, and TF-IDF under a linear model.

Both use what the fine-tuned model uses: the same training texts, cleaned the same way, and validation for the one
choice that is made (the strength of regularisation).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from .metrics import tune_thresholds
from .tasks import CLASSES, LABELS, TASKS, VALUES

# Candidates for the inverse strength of regularisation; 1 (scikit-learn's default) without validation.
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
RARE = 1e-6  # stands for a frequency of 0 or 1 where a logarithm is taken


def text_baselines(
    splits: Mapping[str, Dataset], names: list[str], problem_type: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Fit the baselines on train, choose on validation, predict test. The parts have the columns `text` (cleaned, never
    null) and `label` (class indices or vectors), `names` are in index order. Returns logits on test `(utterances,
    labels)` by name, and a line for people on each: `majority` (classes), `frequency` (several labels) or `mean`
    (values), which do not read the text, and `tfidf`, unless train has no word or only one class. For several labels
    its logits are moved so that 0.5 is the threshold that is best on validation, as the model's thresholds are."""
    labels, test, baseline = np.array(splits["train"]["label"][:]), splits["test"], BASELINES[problem_type]
    logits = {baseline.name: np.tile(baseline.constant(labels, len(names)), (len(test), 1))}
    lines = [f"{baseline.name}: {baseline.about}"]
    if tfidf := _tfidf(splits, names, problem_type):
        logits["tfidf"], about = tfidf
        lines.append(f"tfidf: TF-IDF of words and pairs of words, {baseline.model}, {about}")
    return logits, lines


def _tfidf(splits: Mapping[str, Dataset], names: list[str], problem_type: str) -> tuple[np.ndarray, str] | None:
    """TF-IDF under a linear model: its logits on test and its strength; None where there is nothing to fit."""
    train, validation = splits["train"], splits["validation"]
    task, vectorizer = TASKS[problem_type], TfidfVectorizer(ngram_range=(1, 2))
    labels, fit = np.array(train["label"][:]), BASELINES[problem_type].fit
    try:
        features = vectorizer.fit_transform(train["text"][:])
    except ValueError:  # no text has a word
        return None
    if problem_type == CLASSES and len(set(labels.tolist())) < 2:
        return None
    strengths = STRENGTHS if len(validation) else (1.0,)
    rows, count = vectorizer.transform([*validation["text"][:], *splits["test"]["text"][:]]), len(validation)
    logits = {strength: fit(features, labels, len(names), rows, strength) for strength in strengths}
    best, shift, about = 1.0, 0.0, "C = 1"
    if count:
        truth, scores = np.array(validation["label"][:]), {s: task.scores(logits[s][:count]) for s in strengths}
        quality = {s: task.metrics(truth, scores[s], names)[task.selected_by] or 0.0 for s in strengths}
        best = max(strengths, key=lambda strength: (quality[strength], -abs(np.log10(strength))))  # ties: nearest to 1
        about = f"C = {best:g}, chosen on validation"
        if task.has_thresholds:
            shift = task.logits(np.clip(tune_thresholds(truth, scores[best], names), RARE, 1 - RARE))
    return logits[best][count:] - shift, about


def _logistic(features: csr_matrix, target: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(features, target)


def _class_constant(labels: np.ndarray, num_labels: int) -> np.ndarray:
    return np.log(np.maximum(np.bincount(labels, minlength=num_labels) / len(labels), RARE))


def _label_constant(labels: np.ndarray, num_labels: int) -> np.ndarray:
    return TASKS[LABELS].logits(np.clip(labels.mean(axis=0), RARE, 1 - RARE))


def _class_logits(
    features: csr_matrix, labels: np.ndarray, num_labels: int, rows: csr_matrix, strength: float
) -> np.ndarray:
    model = _logistic(features, labels, strength)
    logits = np.full((rows.shape[0], num_labels), np.log(RARE))  # stays for a class that train does not have
    logits[:, model.classes_] = model.predict_log_proba(rows)
    return logits


def _label_logits(
    features: csr_matrix, labels: np.ndarray, num_labels: int, rows: csr_matrix, strength: float
) -> np.ndarray:
    logits = np.tile(_label_constant(labels, num_labels), (rows.shape[0], 1))
    for column, target in enumerate((labels > 0.5).T):
        if 0 < target.sum() < len(target):
            logits[:, column] = _logistic(features, target, strength).decision_function(rows)
    return logits


def _value_logits(
    features: csr_matrix, labels: np.ndarray, num_labels: int, rows: csr_matrix, strength: float
) -> np.ndarray:
    return Ridge(alpha=1 / strength).fit(features, labels).predict(rows).reshape(rows.shape[0], num_labels)


class Baseline(NamedTuple):
    """The baselines of one task."""

    name: str  # of the constant answer
    about: str
    constant: Callable[[np.ndarray, int], np.ndarray]  # training labels and their number to logits `(labels,)`
    model: str  # the linear model
    fit: Callable[..., np.ndarray]  # TF-IDF and labels of train, number of labels, TF-IDF rows to logits of those rows


BALANCED = "logistic regression with balanced classes"
BASELINES = {
    CLASSES: Baseline("majority", "the most frequent training class", _class_constant, BALANCED, _class_logits),
    LABELS: Baseline("frequency", "each label with its frequency in train", _label_constant, BALANCED, _label_logits),
    VALUES: Baseline("mean", "each value's mean in train", lambda y, _: y.mean(axis=0), "ridge", _value_logits),
}
