"""What a text system is held against: the most frequent answer, and TF-IDF under a linear model.

Both see what the fine-tuned model sees: the same training texts, cleaned the same way, and validation for the one
choice that is made (the strength of regularisation).
"""

import numpy as np
from datasets import Dataset

from .scoring import to_scores
from .vector_metrics import label_metrics, tune_thresholds, value_metrics

CLASSES, LABELS = "single_label_classification", "multi_label_classification"
# Inverse strength of regularisation, of which validation chooses; 1 (scikit-learn's default) without validation.
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
RARE = 1e-6  # stands for a frequency of 0 or 1 where a logarithm is taken


def text_baselines(splits, names: list[str], problem_type: str, seed: int = 42) -> tuple[dict, list[str]]:
    """Fit the baselines on train, choose on validation, answer on test.

    Args:
        splits: Parts with the columns `text` (cleaned, never null) and `label` (class indices or vectors).
        names: Label names in index order.
        problem_type: As in transformers.
        seed: Of the solver.

    Returns:
        Logits on test, `(utterances, labels)`, by name: `majority` (classes), `frequency` (multi-label) or `mean`
        (values), which do not read the text, and `tfidf`, which is left out where train has no word or only one class.
        Of several labels, `tfidf`'s logits are moved so that 0.5 is the threshold that is best on validation, as the
        model's thresholds are. And a line for people on each.
    """
    train, validation, test = (splits[part] for part in ("train", "validation", "test"))
    labels = np.array(train["label"])
    name, about = {
        CLASSES: ("majority", "the most frequent training class"),
        LABELS: ("frequency", "each label with its frequency in train"),
    }.get(problem_type, ("mean", "each value's mean in train"))
    logits = {name: np.tile(_constant(labels, len(names), problem_type), (len(test), 1))}
    lines = [f"{name}: {about}"]
    if tfidf := _tfidf(train["text"], labels, validation, test["text"], names, problem_type, seed):
        logits["tfidf"], about = tfidf
        lines.append(f"tfidf: {about}")
    return logits, lines


def _constant(labels: np.ndarray, num_labels: int, problem_type: str) -> np.ndarray:
    """The best answer without a look at the input, as one row of logits `(labels,)`."""
    if problem_type == CLASSES:
        return np.log(np.maximum(np.bincount(labels, minlength=num_labels) / len(labels), RARE))
    mean = labels.mean(axis=0)
    if problem_type == LABELS:
        mean = np.clip(mean, RARE, 1 - RARE)
        return np.log(mean / (1 - mean))
    return mean


def _tfidf(texts, labels, validation: Dataset, test_texts, names, problem_type: str, seed: int):
    """TF-IDF of words and pairs of words under a linear model: its logits on test and what it is; None where there is
    nothing to fit."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word
        return None
    if problem_type == CLASSES and len(set(labels.tolist())) < 2:
        return None
    strengths = STRENGTHS if len(validation) else (1.0,)
    fitted = {strength: _fit(features, labels, len(names), problem_type, strength, seed) for strength in strengths}
    chosen, moved = 1.0, 0.0
    if len(validation):
        truth, seen = np.array(validation["label"]), vectorizer.transform(validation["text"])
        quality = {strength: _quality(truth, answer(seen), names, problem_type) for strength, answer in fitted.items()}
        chosen = max(quality, key=lambda strength: (quality[strength], -abs(np.log10(strength))))  # ties: nearest to 1
        if problem_type == LABELS:
            scores = to_scores(fitted[chosen](seen), problem_type)
            limits = np.clip(tune_thresholds(truth, scores, names), RARE, 1 - RARE)
            moved = np.log(limits / (1 - limits))
    kind = "ridge" if problem_type not in (CLASSES, LABELS) else "logistic regression with balanced classes"
    how = f"C = {chosen:g}, chosen on validation" if len(validation) else "C = 1"
    logits = fitted[chosen](vectorizer.transform(test_texts)) - moved
    return logits, f"TF-IDF of words and pairs of words, {kind}, {how}"


def _fit(features, labels, num_labels: int, problem_type: str, strength: float, seed: int):
    """A function from TF-IDF rows to logits `(rows, labels)`."""
    from sklearn.linear_model import LogisticRegression, Ridge

    def logistic(target):
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, random_state=seed).fit(
            features, target
        )

    if problem_type == CLASSES:
        model = logistic(labels)
        missing = np.log(RARE)  # a class that train does not have

        def classes(rows) -> np.ndarray:
            logits = np.full((rows.shape[0], num_labels), missing)
            logits[:, model.classes_] = model.predict_log_proba(rows)
            return logits

        return classes
    if problem_type == LABELS:
        models = [logistic(target) if 0 < target.sum() < len(target) else None for target in (labels > 0.5).T]
        constant = _constant(labels, num_labels, problem_type)
        return lambda rows: np.stack(
            [
                np.full(rows.shape[0], constant[i]) if model is None else model.decision_function(rows)
                for i, model in enumerate(models)
            ],
            axis=1,
        )
    model = Ridge(alpha=1 / strength).fit(features, labels)
    return lambda rows: model.predict(rows).reshape(rows.shape[0], num_labels)


def _quality(truth: np.ndarray, logits: np.ndarray, names: list[str], problem_type: str) -> float:
    """What the fine-tuned model is selected by too: UAR, mean average precision, or mean CCC; 0 where undefined."""
    from .metrics import classification_metrics

    if problem_type == CLASSES:
        return classification_metrics(truth, logits.argmax(axis=1), len(names))["uar"]
    if problem_type == LABELS:
        return label_metrics(truth, to_scores(logits, problem_type), names, 0.5)["map"] or 0.0
    return value_metrics(truth, logits, names)["ccc"] or 0.0
