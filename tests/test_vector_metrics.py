"""Metrics of values and of several labels: against scipy, scikit-learn and hand-computed values; undefined is None."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
from datasets import Dataset

from ser_hf.evaluation import bootstrap, scoring
from ser_hf.evaluation import metrics as vm


@pytest.mark.parametrize("seed", range(4))
def test_values_agree_with_scipy_and_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(50, 2))
    x = 0.6 * y + rng.normal(size=(50, 2)) + 0.3
    table = vm.per_value(y, x, ["a", "b"])
    for i, name in enumerate("ab"):
        assert table[name]["pearson"] == pytest.approx(scipy.stats.pearsonr(y[:, i], x[:, i])[0])
        assert table[name]["mae"] == pytest.approx(sk.mean_absolute_error(y[:, i], x[:, i]))
        assert table[name]["mse"] == pytest.approx(sk.mean_squared_error(y[:, i], x[:, i]))
        assert table[name]["rmse"] == pytest.approx(sk.root_mean_squared_error(y[:, i], x[:, i]))
        # Lin's coefficient from Pearson's: rho * 2 sx sy / (sx^2 + sy^2 + (mx - my)^2)
        sx, sy, gap = x[:, i].std(), y[:, i].std(), x[:, i].mean() - y[:, i].mean()
        by_pearson = table[name]["pearson"] * 2 * sx * sy / (sx**2 + sy**2 + gap**2)
        assert table[name]["ccc"] == pytest.approx(by_pearson)


def test_constant_target_is_undefined_not_nan():
    y, x = np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [2.0, 2.0]])
    metrics = vm.value_metrics(y, x, ["flat", "fine"])
    assert metrics["ccc_flat"] is None and metrics["ccc_fine"] == pytest.approx(1.0)
    assert metrics["ccc"] == pytest.approx(1.0)  # the mean is over what is defined
    one = vm.value_metrics(y[:1], x[:1], ["flat", "fine"])
    assert one["ccc"] is None and one["mae"] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(4))
def test_labels_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y, scores = (rng.random((60, 3)) < 0.4).astype(float), rng.random((60, 3))
    metrics = vm.label_metrics(y, scores, list("abc"), [0.5, 0.3, 0.7])
    decided = scores >= np.array([0.5, 0.3, 0.7])
    assert metrics["map"] == pytest.approx(sk.average_precision_score(y, scores, average="macro"))
    for average in ("micro", "macro", "weighted", "samples"):
        expected = sk.f1_score(y, decided, average=average, zero_division=0.0)
        assert metrics[f"{average}_f1"] == pytest.approx(expected)
    balanced = [sk.balanced_accuracy_score(y[:, i], decided[:, i]) for i in range(3)]
    assert metrics["weighted_accuracy"] == pytest.approx(np.mean(balanced))


def test_weighted_accuracy_is_moseis_formula():
    truth = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    decided = np.array([1, 0, 0, 0, 0, 0, 1, 1])
    positives, negatives, true_positives, true_negatives = 2, 6, 1, 4
    by_formula = (true_positives * negatives / positives + true_negatives) / (2 * negatives)
    assert vm.weighted_accuracy(truth, decided) == pytest.approx(by_formula)
    assert vm.weighted_accuracy(np.ones(3), np.ones(3)) is None


def test_a_label_without_a_positive_is_undefined():
    y, scores = np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([[0.9, 0.2], [0.1, 0.8], [0.8, 0.1]])
    table = vm.per_label(y, scores, ["a", "never"], 0.5)
    assert table["never"]["average_precision"] is None and table["never"]["support"] == 0
    assert vm.label_metrics(y, scores, ["a", "never"], 0.5)["map"] == 1.0


def test_f1_is_of_the_labels_also_where_only_one_occurs():
    """scikit-learn takes a single column for two classes, present and absent, and averages over both."""
    y, decided = np.array([[1, 0], [1, 0], [0, 0], [0, 0]]), np.array([[1, 0], [0, 1], [1, 0], [0, 0]])
    f1 = vm.averaged_f1(y, decided)
    assert f1 == {"micro": pytest.approx(2 / 5), "macro": 0.5, "weighted": 0.5, "samples": 0.25}
    assert vm.averaged_f1(y[:, :1], decided[:, :1]) == {"micro": 0.5, "macro": 0.5, "weighted": 0.5, "samples": 0.25}
    rng = np.random.default_rng(0)
    y, decided = rng.random((50, 4)) < 0.3, rng.random((50, 4)) < 0.5
    for average, value in vm.averaged_f1(y, decided).items():
        assert value == pytest.approx(sk.f1_score(y, decided, average=average, zero_division=0)), average


def test_thresholds_are_tuned_between_scores():
    y = np.array([[1.0, 0], [1, 0], [0, 0], [0, 0]])
    scores = np.array([[0.4, 0.1], [0.3, 0.2], [0.2, 0.3], [0.1, 0.4]])
    assert vm.tune_thresholds(y, scores, ["a", "never"]) == [pytest.approx(0.25), 0.5]


def test_the_reference_works_report_at_a_threshold():
    y = np.array([[0.0, 1.0], [0.6, 0.0], [0.5, 0.33]])
    x = np.array([[0.7, 0.9], [0.5, 0.1], [0.2, 0.4]])
    report = vm.classification_report(y, x, ["a", "b"], 0.5)
    # a: present in rows 1, 2, said in 0, 1; b: present and said in row 0
    # weighted accuracy of a: 1 of 2 present and 0 of 1 absent are right
    figures = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert report["a"] == {"weighted_accuracy": 0.25, **figures}
    assert report["b"] == {"weighted_accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}
    assert report["macro avg"]["weighted_accuracy"] == 0.625 and report["micro avg"]["weighted_accuracy"] is None
    assert report["micro avg"]["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert report["macro avg"]["f1"] == pytest.approx(0.75)
    lower = vm.classification_report(y, x, ["a", "b"], 0.3)
    assert lower["b"]["support"] == 2 and lower["b"]["recall"] == 1.0


def test_sentiment_by_hand():
    y, x = [-2.0, 0.0, 1.0, 3.0], [-1.6, -0.2, 2.6, 2.0]
    metrics = vm.sentiment_metrics(y, x)
    assert metrics["acc2_has0"] == 0.75  # 0 counts as non-negative and was read as negative
    assert metrics["acc2_non0"] == 1.0
    assert metrics["acc7"] == 0.5  # -2 and -2; 0 and -0; 1 and 3; 3 and 2
    assert metrics["mae"] == pytest.approx((0.4 + 0.2 + 1.6 + 1.0) / 4)
    assert vm.sentiment_metrics([0.0, 0.0], [1.0, 1.0])["acc2_non0"] is None


def rows(labels, speakers):
    return Dataset.from_dict({"id": [str(i) for i in range(len(labels))], "label": labels, "speaker": speakers})


def test_score_says_where_a_metric_is_undefined():
    labels = [[1.0, 2.0], [1.0, 3.0], [1.0, 5.0], [1.0, 4.0]]
    scored = scoring.score(rows(labels, list("aabb")), np.array(labels) + 0.1, ["flat", "fine"], "regression")
    assert scored["metrics"]["ccc_flat"] is None and "flat: constant" in scored["remarks"][0]
    assert scored["intervals"]["ccc_flat"] is None and len(scored["intervals"]["ccc_fine"]) == 2
    labels = [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    logits = np.array([[3.0, -1], [-3, -1], [2, -1], [-2, -1]])
    scored = scoring.score(rows(labels, list("aabb")), logits, ["a", "never"], "multi_label_classification")
    assert scored["metrics"]["map"] == 1.0 and "no test utterance has never" in scored["remarks"][0]


def test_cluster_intervals_resample_speakers():
    values = np.array([0.0] * 5 + [1.0] * 5)[:, None]
    found = bootstrap.intervals(bootstrap.value_draws(0 * values, values, ["error"], ["a"] * 5 + ["b"] * 5))
    assert found["mae"] == [0.0, 1.0] and found["ccc"] is None  # the labels are constant


def slow_thresholds(references, scores) -> list[float]:
    """Every candidate tried by itself."""
    best = []
    for truth, score in zip(references.T > 0.5, scores.T, strict=True):
        levels = np.unique(score)
        candidates = (levels[:-1] + levels[1:]) / 2
        f1 = [2 * (truth & (score >= c)).sum() / ((score >= c).sum() + truth.sum()) for c in candidates]
        best.append(float(candidates[int(np.argmax(f1))]))
    return best


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_thresholds_are_the_best_of_all_candidates(kind):
    rng = np.random.default_rng(1)
    y = (rng.random((300, 4)) < [0.5, 0.3, 0.1, 0.9]).astype(float)
    scores = (0.3 * y + rng.random((300, 4))).astype(kind)
    scores[:, 1] = np.round(scores[:, 1], 1)  # ties
    scores[:, 2] = np.nextafter(kind(0.5), kind(1)) * (scores[:, 2] > 0.9) + kind(0.5) * (scores[:, 2] <= 0.9)
    assert vm.tune_thresholds(y, scores, list("abcd")) == slow_thresholds(y, scores)


def test_thresholds_of_many_rows_fit_into_memory():
    """A table of candidates by rows would be 40,000 squared bytes, 1.6 GB."""
    import tracemalloc

    rng = np.random.default_rng(0)
    y, scores = (rng.random((40_000, 1)) < 0.3) + 0.0, rng.random((40_000, 1))
    tracemalloc.start()
    vm.tune_thresholds(y, scores, ["a"])
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("columns", [2, 5])
def test_the_report_at_a_threshold_is_scikit_learns(columns):
    rng = np.random.default_rng(3)
    y, x = rng.random((40, columns)), rng.random((40, columns))
    y[:, 1] = 0.0  # never present: 0, and in the macro average, as in the reference work
    names = list("abcde")[:columns]
    report = vm.classification_report(y, x, names, 0.6)
    theirs = sk.classification_report(y >= 0.6, x >= 0.6, target_names=names, output_dict=True, zero_division=0.0)
    for name, row in theirs.items():
        assert report[name]["support"] == row["support"]
        for kind, other in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert report[name][kind] == pytest.approx(row[other]), (name, kind)


def test_the_report_at_a_threshold_of_one_value():
    """Present in 2 of 4, decided in 3, both 2: precision 2/3, recall 1, F1 0.8; rows 1, 1, 0, 0."""
    report = vm.classification_report(np.array([[1.0], [2], [0], [0]]), np.array([[1.0], [1], [1], [0]]), ["a"], 0.5)
    figures = {"weighted_accuracy": 0.75, "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2}
    assert report["a"] == report["macro avg"] == figures
    assert report["micro avg"] == report["weighted avg"] == {**figures, "weighted_accuracy": None}
    assert report["samples avg"]["f1"] == 0.5
