"""Majority and TF-IDF baselines: answers that can be seen by eye, for classes, several labels and values."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from ser_hf.text_baselines import STRENGTHS, text_baselines

MULTI, VALUES = "multi_label_classification", "regression"
WORDS = {0: "furious about the exam", 1: "delighted with the concert", 2: "the meeting is on Monday"}


def parts(train, validation, test, kind=None) -> DatasetDict:
    """Parts of `(text, label)` pairs."""
    kind = kind or ClassLabel(names=["angry", "happy", "neutral"])
    features = Features({"text": Value("string"), "label": kind})

    def rows(pairs) -> Dataset:
        return Dataset.from_dict({"text": [t for t, _ in pairs], "label": [y for _, y in pairs]}, features=features)

    return DatasetDict(train=rows(train), validation=rows(validation), test=rows(test))


def pairs(count: int, labels=(0, 1, 2)) -> list[tuple]:
    return [(f"{WORDS[k]} {i}", k) for i in range(count) for k in labels]


def test_classes():
    train = [*pairs(4), ("the meeting is late", 2)]
    found = text_baselines(
        parts(train, pairs(2), pairs(2)), ["angry", "happy", "neutral"], "single_label_classification"
    )
    assert list(found) == ["majority", "tfidf"]
    majority = found["majority"].logits
    assert majority.shape == (6, 3) and (majority.argmax(axis=1) == 2).all()
    assert np.exp(majority[0]) == pytest.approx([4 / 13, 4 / 13, 5 / 13])
    assert found["tfidf"].logits.argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]
    assert np.exp(found["tfidf"].logits).sum(axis=1) == pytest.approx(1.0)
    assert "chosen on validation" in found["tfidf"].about and found["tfidf"].thresholds is None


def test_it_is_fitted_on_train_alone():
    """Neither words nor labels of validation and test reach it: other test labels, the same answers."""
    names, train = ["angry", "happy", "neutral"], pairs(4)
    one = text_baselines(parts(train, [], pairs(2)), names, "single_label_classification")
    swapped = [(text, (label + 1) % 3) for text, label in pairs(2)]
    two = text_baselines(parts(train, [], swapped), names, "single_label_classification")
    assert (one["tfidf"].logits == two["tfidf"].logits).all()
    assert "C = 1" in one["tfidf"].about and "chosen" not in one["tfidf"].about
    unseen = text_baselines(parts(train, [], [("zebra", 0)]), names, "single_label_classification")["tfidf"].logits
    assert np.exp(unseen[0]) == pytest.approx([1 / 3] * 3, abs=0.1)  # no known word: only the intercept, balanced


def test_strength_is_chosen_on_validation():
    """Noise labels. Where validation repeats train, the weakest regularisation fits it best; where validation knows
    one word alone and train mostly agrees, the answer of every strength is right and the one nearest to 1 is taken."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(8)]
    noise = [(" ".join(rng.choice(words, 12)), int(rng.integers(2))) for _ in range(60)]
    names = ["angry", "happy", "neutral"]
    fitted = text_baselines(parts(noise, noise, noise[:5]), names, "single_label_classification")["tfidf"].about
    assert f"C = {STRENGTHS[-1]:g} chosen" in fitted
    easy = text_baselines(parts(pairs(4), pairs(2), pairs(1)), names, "single_label_classification")["tfidf"].about
    assert "C = 1 chosen" in easy


def test_a_class_that_train_lacks_is_never_answered():
    names = ["angry", "happy", "neutral"]
    found = text_baselines(parts(pairs(4, (0, 2)), [], pairs(1)), names, "single_label_classification")
    assert 1 not in found["tfidf"].logits.argmax(axis=1) and np.isfinite(found["tfidf"].logits).all()
    single = text_baselines(parts(pairs(3, (2,)), [], pairs(1)), names, "single_label_classification")
    assert list(single) == ["majority"]
    wordless = text_baselines(parts([("!", 0), ("?", 1)], [], [("!", 0)]), names, "single_label_classification")
    assert list(wordless) == ["majority"]


def test_several_labels():
    kind = List(Value("float32"), length=3)

    def rows(count):
        single = [(text, [float(k == label) for k in range(3)]) for text, label in pairs(count, (0, 1))]
        both = [(f"{WORDS[0]} {WORDS[1]}", [1.0, 1.0, 0.0])] * count
        return single + both

    found = text_baselines(parts(rows(5), rows(2), rows(2), kind), ["angry", "happy", "neutral"], MULTI)
    assert list(found) == ["frequency", "tfidf"]
    probabilities = 1 / (1 + np.exp(-found["frequency"].logits))
    assert probabilities[0] == pytest.approx([2 / 3, 2 / 3, 0.0], abs=1e-4)
    scores = 1 / (1 + np.exp(-found["tfidf"].logits))
    decided = scores >= np.array(found["tfidf"].thresholds)
    assert decided.tolist() == [[True, False, False], [False, True, False]] * 2 + [[True, True, False]] * 2


def test_values():
    kind = List(Value("float32"), length=2)
    train = [(f"{WORDS[k]} {i}", [float(k), 1.0 - k]) for i in range(6) for k in (0, 1)]
    found = text_baselines(parts(train, train[:4], train[:2], kind), ["valence", "arousal"], VALUES)
    assert list(found) == ["mean", "tfidf"]
    assert found["mean"].logits.tolist() == [[0.5, 0.5]] * 2
    assert found["tfidf"].logits[0] == pytest.approx([0.0, 1.0], abs=0.2)
    assert found["tfidf"].logits[1] == pytest.approx([1.0, 0.0], abs=0.2)
    one = text_baselines(
        parts(*[[(t, [v]) for t, (v, _) in train]] * 3, List(Value("float32"), length=1)), ["v"], VALUES
    )
    assert one["tfidf"].logits.shape == (12, 1)
