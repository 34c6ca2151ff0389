"""Paired comparison of systems: figures by hand, and intervals that are paired."""

import numpy as np
import pytest

from ser_hf.evaluation.bootstrap import class_draws, intervals, metric_draws
from ser_hf.evaluation.metrics import classification_metrics, value_metrics
from ser_hf.evaluation.scoring import compare, score

MULTI, VALUES = "multi_label_classification", "regression"


def logits_of(predictions, num_labels: int) -> np.ndarray:
    return np.eye(num_labels)[predictions]


def test_classes_by_hand():
    """Main: recalls 1 and 1/2. Other: 1 and 0. UAR 0.75 - 0.5, WA 3/4 - 2/4; macro F1 (0.8 + 2/3)/2 - (2/3 + 0)/2."""
    part = {"label": [0, 0, 1, 1], "speaker": ["a", "a", "b", "b"]}
    main = logits_of([0, 0, 1, 0], 2)
    found = compare(part, main, {"majority": np.zeros(4, dtype=int), "same": main}, ["x", "y"])
    assert list(found) == ["majority", "same"]
    other = found["majority"]
    assert other["metrics"]["uar"] == 0.5 and other["metrics"]["wa"] == 0.5
    assert other["difference"]["uar"] == pytest.approx(0.25) and other["difference"]["wa"] == pytest.approx(0.25)
    assert other["difference"]["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2 - 1 / 3)
    # draws of two speakers: both a (difference 0), a and b, both b; with b's utterances drawn too, main is right on
    # 0 to 4 of 4 where the other is on none: 1 has the probability 1/4 * (1/2)^4 = 1/64, 3/4 and more 5/64
    assert other["difference_intervals"]["wa"] == pytest.approx([0.0, 0.75])
    # a system compared with itself never differs: the draws are the same
    assert set(found["same"]["difference"].values()) == {0.0}
    assert all(interval == [0.0, 0.0] for interval in found["same"]["difference_intervals"].values())


def test_classes_agree_with_the_report_and_with_drawing_one_by_one():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=120)
    first = np.where(rng.random(120) < 0.7, truth, rng.integers(3, size=120))
    second = np.where(rng.random(120) < 0.9, first, rng.integers(3, size=120))
    part = {"label": truth.tolist(), "speaker": [f"s{i // 15}" for i in range(120)]}
    found = compare(part, logits_of(first, 3), {"second": second}, list("xyz"))["second"]
    alone = score(part, logits_of(second, 3), list("xyz"))
    assert found["metrics"] == alone["metrics"] and found["intervals"] == alone["intervals"]
    assert found["intervals"] == intervals(class_draws(truth, second, part["speaker"], 3))

    def difference(rows):
        one, two = (classification_metrics(truth[rows], p[rows], 3) for p in (first, second))
        return {name: one[name] - two[name] for name in one}

    slow = intervals(metric_draws(difference, part["speaker"], samples=1000))
    for metric, (low, high) in found["difference_intervals"].items():
        assert [low, high] == pytest.approx(slow[metric], abs=1e-12), metric
        # paired: narrower than if the two were tested on different speakers
        width = [
            np.ptp(alone["intervals"][metric]),
            np.ptp(score(part, logits_of(first, 3), "xyz")["intervals"][metric]),
        ]
        assert high - low < np.hypot(*width), metric


def test_no_speakers_resamples_utterances():
    part = {"label": [0, 1] * 20, "speaker": [None] * 40}
    main = np.array([0, 1] * 20)
    main[:4] = 1 - main[:4]  # WA 0.9, the other 1.0
    low, high = compare(part, logits_of(main, 2), {"all right": np.array([0, 1] * 20)}, ["x", "y"])["all right"][
        "difference_intervals"
    ]["wa"]
    assert -0.25 < low < -0.1 < high <= 0.0


def test_values_by_hand():
    """Errors 1, 1 against 0, 2: MAE 1 - 1, MSE 1 - 2. A constant has no CCC, so there is no difference of it."""
    part = {"label": [[0.0], [2.0]], "speaker": ["a", "b"]}
    main, other = np.array([[1.0], [3.0]]), np.array([[0.0], [0.0]])
    found = compare(part, main, {"mean": other, "same": main}, ["arousal"], VALUES)
    assert found["mean"]["difference"]["mae"] == 0.0 and found["mean"]["difference"]["mse"] == -1.0
    assert found["mean"]["metrics"]["ccc"] is None and found["mean"]["difference"]["ccc"] is None
    assert found["mean"]["difference_intervals"]["ccc"] is None
    # draws: a a (1 - 0), a b (1 - 2), b b (1 - 4)
    assert found["mean"]["difference_intervals"]["mse"] == pytest.approx([-3.0, 1.0])
    assert found["same"]["difference_intervals"]["mse"] == [0.0, 0.0]
    assert found["same"]["metrics"] == value_metrics(np.array(part["label"]), main, ["arousal"])
    sentiment = compare(part, main, {"same": main}, ["sentiment"], VALUES)["same"]
    assert "acc7" in sentiment["metrics"] and sentiment["difference"]["acc7"] == 0.0


def test_several_labels_by_hand():
    """Label x: main right on both, other on one (F1 1 and 2/3)."""
    part = {"label": [[1.0, 0.0], [0.0, 1.0]], "speaker": ["a", "b"]}
    main = np.array([[2.0, -2.0], [-2.0, 2.0]])
    other = np.array([[2.0, -2.0], [1.0, 2.0]])
    found = compare(part, main, {"other": other}, ["x", "y"], MULTI)["other"]
    assert found["metrics"]["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["difference"]["macro_f1"] == pytest.approx(1 / 6)
    strict = compare(part, main, {"other": other}, ["x", "y"], MULTI, [0.95, 0.5])["other"]
    assert strict["difference"]["macro_f1"] == pytest.approx(0.5 - 5 / 6)


def test_nothing_to_compare_and_wrong_lengths():
    part = {"label": [0, 1], "speaker": ["a", "b"]}
    assert compare(part, np.eye(2), {}, ["x", "y"]) == {}
    assert compare({**part, "label": [[0.0], [1.0]]}, np.ones((2, 1)), {}, ["x"], VALUES) == {}
    with pytest.raises(ValueError, match="tfidf has 3 rows, the part 2 utterances"):
        compare(part, np.eye(2), {"tfidf": np.zeros(3, dtype=int)}, ["x", "y"])


def test_a_thousand_draws_are_quick():
    import time

    rng = np.random.default_rng(0)
    part = {"label": rng.integers(6, size=1481), "speaker": [None] * 1481}
    others = {name: rng.integers(6, size=1481) for name in ("majority", "tfidf")}
    begin = time.perf_counter()
    compare(part, rng.normal(size=(1481, 6)), others, list("abcdef"))
    assert time.perf_counter() - begin < 5
