"""Paired comparison of systems: figures by hand, and intervals that are paired."""

import tracemalloc

import numpy as np
import pytest

from ser_hf.evaluation import calibration
from ser_hf.evaluation.bootstrap import class_draws, draw, intervals
from ser_hf.evaluation.metrics import classification_metrics, value_metrics
from ser_hf.evaluation.scoring import compare, score
from ser_hf.evaluation.tasks import TASKS, softmax

MULTI, VALUES = "multi_label_classification", "regression"


def logits_of(predictions, num_labels: int) -> np.ndarray:
    return np.eye(num_labels)[predictions]


def metric_draws(compute, speakers, samples: int) -> dict[str, np.ndarray]:
    """Any metrics of every draw, from its rows, one draw after another: what the fast draws must equal."""
    unit, times = draw(speakers, samples)
    tables = [compute(np.repeat(np.arange(len(unit)), of_draw[unit])) for of_draw in times]
    return {name: np.array([table[name] for table in tables], dtype=float) for name in tables[0]}


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


PEOPLE = {
    "speakers": [f"s{i % 7}" for i in range(83)],
    "few": list("abc") * 27 + ["a", "a"],
    "one": ["a"] * 83,
    "unknown": [None] * 83,
    "some unknown": ["a"] * 60 + [None] * 23,
}


@pytest.mark.parametrize("speakers", PEOPLE.values(), ids=PEOPLE)
def test_the_draws_are_those_of_drawing_all_clusters_at_once(speakers):
    """One call for all draws, as it was when the recorded intervals were made; also of odd numbers of clusters."""
    unit, times = draw(speakers, 40, seed=3)
    cluster = {name: i for i, name in enumerate(sorted({s for s in speakers if s}))}
    numbers = [cluster.setdefault(s or f"row {i}", len(cluster)) for i, s in enumerate(speakers)]
    rng = np.random.default_rng(3)
    if len(cluster) > 1:
        once = np.stack(
            [np.bincount(of, minlength=len(cluster)) for of in rng.integers(len(cluster), size=(40, len(cluster)))]
        )
    else:
        once = np.stack([np.bincount(of, minlength=83) for of in rng.integers(83, size=(40, 83))])
    if 1 < len(cluster) < 5:
        rows = [np.flatnonzero(np.array(numbers) == i) for i in range(len(cluster))]
        within = [rng.multinomial(once[:, i] * len(of), np.full(len(of), 1 / len(of))) for i, of in enumerate(rows)]
        once = np.concatenate(within, axis=1)[:, np.argsort(np.concatenate(rows))]
    assert times.tolist() == once.tolist()
    assert unit.tolist() == (numbers if len(cluster) >= 5 else list(range(83)))


@pytest.mark.parametrize("speakers", PEOPLE.values(), ids=PEOPLE)
@pytest.mark.parametrize("case", ["classes", "labels", "tuned labels", "values", "sentiment"])
def test_every_figure_of_every_draw_is_that_of_its_rows(case, speakers):
    """Ties, a rare label, a constant column, and one that is constant in some draws."""
    rng, limits = np.random.default_rng(1), [0.3, 0.4, 0.5] if case == "tuned labels" else None
    task = TASKS[{"classes": "single_label_classification", "values": VALUES, "sentiment": VALUES}.get(case, MULTI)]
    names = ["sentiment"] if case == "sentiment" else list("abc")
    labels = rng.normal(size=(83, len(names))) * 2
    scores = labels + rng.normal(size=labels.shape)
    if case == "classes":
        labels, scores = rng.integers(3, size=83), rng.random((83, 3))
    elif case == "values":
        scores[:, 1], scores[:, 2] = 0.1, np.where(np.arange(83) < 3, 1.7, 0.3)
    elif case == "sentiment":
        labels = labels.round()
    else:
        labels = (rng.random((83, 3)) < [0.3, 0.1, 0.02]) + 0.0
        scores = rng.random((83, 3)).round(1) + 0.2 * labels
    fast = task.draw(labels, scores, names, limits, speakers)
    slow = metric_draws(
        lambda rows: task.metrics(labels[rows], scores[rows], names, limits), speakers, len(fast[task.selected_by])
    )
    assert list(fast) == list(slow)
    for name, values in slow.items():
        assert np.array_equal(np.isnan(fast[name]), np.isnan(values)), name
        np.testing.assert_allclose(fast[name], values, rtol=0, atol=5e-15, err_msg=name)
        if "f1" in name or name in ("uar", "wa", "acc7", "acc2_non0"):
            np.testing.assert_allclose(fast[name], values, rtol=0, atol=3e-16, err_msg=name)  # of whole numbers


@pytest.mark.parametrize("speakers", PEOPLE.values(), ids=PEOPLE)
def test_draws_of_calibration_are_those_of_their_rows(speakers):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(3, size=83), rng.normal(size=(83, 3)).round(1)  # equal confidences
    systems = {"before": softmax(logits), "after": softmax(0.5 * logits)}

    def figures(rows):
        errors = {name: calibration.ece(values[rows], labels[rows]) for name, values in systems.items()}
        sure, all_ = (calibration.answered(systems["after"][rows], labels[rows], share)["uar"] for share in (0.8, 1.0))
        return errors | {"difference": sure - all_}

    fast, slow = calibration.draws(systems, labels, speakers), metric_draws(figures, speakers, calibration.DRAWS)
    assert list(fast) == list(slow)
    for name, values in slow.items():
        np.testing.assert_allclose(fast[name], values, rtol=0, atol=1e-15, err_msg=name)


def test_fifty_thousand_rows_fit_into_memory():
    """Draws of unknown speakers are 500 times 50,000 counts: 200 MB as whole numbers, twice that as floats."""
    rng, speakers = np.random.default_rng(0), [None] * 50_000
    labels = rng.normal(size=(50_000, 1))
    tracemalloc.start()
    TASKS[VALUES].draw(labels, labels + rng.normal(size=labels.shape), ["arousal"], None, speakers)
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()


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
