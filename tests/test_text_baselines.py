"""Majority and TF-IDF baselines: answers that can be seen by eye, for classes, several labels and values."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from ser_hf.evaluation.baselines import STRENGTHS, text_baselines
from ser_hf.evaluation.metrics import tune_thresholds

MULTI, VALUES = "multi_label_classification", "regression"
NAMES = ["angry", "happy", "neutral"]
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
    found, lines = text_baselines(parts(train, pairs(2), pairs(2)), NAMES, "single_label_classification")
    assert list(found) == ["majority", "tfidf"]
    majority = found["majority"]
    assert majority.shape == (6, 3) and (majority.argmax(axis=1) == 2).all()
    assert np.exp(majority[0]) == pytest.approx([4 / 13, 4 / 13, 5 / 13])
    assert found["tfidf"].argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]
    assert np.exp(found["tfidf"]).sum(axis=1) == pytest.approx(1.0)
    assert lines[0] == "majority: the most frequent training class" and "C = 1, chosen on validation" in lines[1]


def test_it_is_fitted_on_train_alone():
    """Neither words nor labels of validation and test reach it: other test labels, the same answers."""
    train = pairs(4)
    one, lines = text_baselines(parts(train, [], pairs(2)), NAMES, "single_label_classification")
    swapped = [(text, (label + 1) % 3) for text, label in pairs(2)]
    two, _ = text_baselines(parts(train, [], swapped), NAMES, "single_label_classification")
    assert (one["tfidf"] == two["tfidf"]).all()
    assert lines[1].endswith("C = 1")
    unseen, _ = text_baselines(parts(train, [], [("zebra", 0)]), NAMES, "single_label_classification")
    assert np.exp(unseen["tfidf"][0]) == pytest.approx([1 / 3] * 3, abs=0.1)  # no known word: the intercept, balanced


def test_strength_is_chosen_on_validation():
    """Noise labels: where validation repeats train, the weakest regularisation fits it best."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(8)]
    noise = [(" ".join(rng.choice(words, 12)), int(rng.integers(2))) for _ in range(60)]
    _, lines = text_baselines(parts(noise, noise, noise[:5]), NAMES, "single_label_classification")
    assert f"C = {STRENGTHS[-1]:g}, chosen" in lines[1]


def test_a_class_that_train_lacks_is_never_answered():
    found, _ = text_baselines(parts(pairs(4, (0, 2)), [], pairs(1)), NAMES, "single_label_classification")
    assert 1 not in found["tfidf"].argmax(axis=1) and np.isfinite(found["tfidf"]).all()
    single, _ = text_baselines(parts(pairs(3, (2,)), [], pairs(1)), NAMES, "single_label_classification")
    assert list(single) == ["majority"]
    wordless, _ = text_baselines(parts([("!", 0), ("?", 1)], [], [("!", 0)]), NAMES, "single_label_classification")
    assert list(wordless) == ["majority"]


def test_several_labels():
    kind = List(Value("float32"), length=3)

    def rows(count):
        single = [(text, [float(k == label) for k in range(3)]) for text, label in pairs(count, (0, 1))]
        both = [(f"{WORDS[0]} {WORDS[1]}", [1.0, 1.0, 0.0])] * count
        return single + both

    found, _ = text_baselines(parts(rows(5), rows(2), rows(2), kind), NAMES, MULTI)
    assert list(found) == ["frequency", "tfidf"]
    probabilities = 1 / (1 + np.exp(-found["frequency"]))
    assert probabilities[0] == pytest.approx([2 / 3, 2 / 3, 0.0], abs=1e-4)
    decided = found["tfidf"] >= 0
    assert decided.tolist() == [[True, False, False], [False, True, False]] * 2 + [[True, True, False]] * 2


def test_thresholds_of_several_labels_come_from_validation(monkeypatch):
    """The logits are moved so that 0 is where validation's F1 is best."""
    monkeypatch.setattr("ser_hf.evaluation.baselines.STRENGTHS", (1.0,))
    kind = List(Value("float32"), length=2)
    train = [(f"{WORDS[k]} {i}", [float(k), 1.0 - k]) for i in range(8) for k in (0, 1)]
    mixed = [(f"{WORDS[0]} exam", [0.0, 1.0]), (f"{WORDS[0]} concert", [1.0, 1.0]), (WORDS[1], [1.0, 0.0])]
    own, _ = text_baselines(parts(train, [], mixed, kind), NAMES[:2], MULTI)
    moved, _ = text_baselines(parts(train, mixed, mixed, kind), NAMES[:2], MULTI)
    assert (own["tfidf"] >= 0).tolist() == [[False, True], [False, True], [True, False]]  # half of each: not happy
    assert (moved["tfidf"] >= 0).tolist() == [[False, True], [True, True], [True, False]]
    scores = 1 / (1 + np.exp(-own["tfidf"]))
    limits = tune_thresholds(np.array([labels for _, labels in mixed]), scores, NAMES[:2])
    shift = np.log(np.array(limits) / (1 - np.array(limits)))
    assert own["tfidf"] - moved["tfidf"] == pytest.approx(np.tile(shift, (3, 1)))


def test_values():
    kind = List(Value("float32"), length=2)
    train = [(f"{WORDS[k]} {i}", [float(k), 1.0 - k]) for i in range(6) for k in (0, 1)]
    found, _ = text_baselines(parts(train, train[:4], train[:2], kind), ["valence", "arousal"], VALUES)
    assert list(found) == ["mean", "tfidf"]
    assert found["mean"].tolist() == [[0.5, 0.5]] * 2
    assert found["tfidf"][0] == pytest.approx([0.0, 1.0], abs=0.2)
    assert found["tfidf"][1] == pytest.approx([1.0, 0.0], abs=0.2)
    single = [(text, values[:1]) for text, values in train]
    one, _ = text_baselines(parts(single, single, single, List(Value("float32"), length=1)), ["valence"], VALUES)
    assert one["tfidf"].shape == (12, 1)
