"""Metrics and losses against hand-computed values and scikit-learn, also where a class is absent."""

import itertools
import math
from collections import Counter

import evaluate
import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from ser_hf.evaluation.bootstrap import class_draws, draw, intervals, resampled
from ser_hf.evaluation.metrics import (
    classification_metrics,
    confusion,
    from_counts,
    load_metric,
    per_class,
)
from ser_hf.training.losses import Loss, ccc, class_weights, positive_weights


def test_by_hand():
    # angry: 2 of 4 right, happy: 3 of 3, sad: 0 of 1
    references, predictions = [0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 2, 1, 1, 1, 0]
    scores = classification_metrics(references, predictions, 3)
    assert scores["uar"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert scores["wa"] == pytest.approx(5 / 8)
    # F1: angry 2*2/(4+3), happy 2*3/(3+4), sad 0
    assert scores["macro_f1"] == pytest.approx((4 / 7 + 6 / 7 + 0) / 3)
    assert scores["weighted_f1"] == pytest.approx((4 * 4 / 7 + 3 * 6 / 7 + 0) / 8)
    table = per_class(references, predictions, ["angry", "happy", "sad"])
    assert table["angry"] == {"precision": 2 / 3, "recall": 0.5, "f1": pytest.approx(4 / 7), "support": 4}
    assert table["sad"]["precision"] == 0.0 and table["sad"]["support"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    references, predictions = rng.integers(0, 5, 80), rng.integers(0, 5, 80)
    scores = classification_metrics(references, predictions, 5)
    assert scores["uar"] == pytest.approx(sk.balanced_accuracy_score(references, predictions))
    assert scores["wa"] == pytest.approx(sk.accuracy_score(references, predictions))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(references, predictions, average="macro"))
    assert scores["weighted_f1"] == pytest.approx(sk.f1_score(references, predictions, average="weighted"))
    assert np.array_equal(confusion(references, predictions, 5), sk.confusion_matrix(references, predictions))


def test_absent_classes_take_no_part_and_say_so():
    scores = classification_metrics([0, 0, 1], [0, 2, 1], 4)  # 2 is predicted but never true, 3 is neither
    assert scores["uar"] == pytest.approx((0.5 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    table = per_class([0, 0, 1], [0, 2, 1], list("abcd"))
    assert table["c"]["recall"] is None and table["d"] == {"precision": 0.0, "recall": None, "f1": 0.0, "support": 0}


def test_one_row():
    assert classification_metrics([1], [1], 3) == {"uar": 1.0, "wa": 1.0, "macro_f1": 1.0, "weighted_f1": 1.0}


def test_many_matrices_at_once():
    def scores(matrix: np.ndarray) -> dict:
        return from_counts(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1), matrix.sum(axis=-2))

    matrices = np.array([[[2, 0], [1, 1]], [[0, 2], [0, 2]]])
    many = scores(matrices)
    for i, matrix in enumerate(matrices):
        for name, value in scores(matrix).items():
            assert many[name][i] == pytest.approx(value)


def test_intervals_resample_speakers():
    # Five speakers, two all right and three all wrong: resampled speakers give accuracies of 0, 1/5 ... 1.
    references = np.array([0, 1] * 50)
    predictions = np.where(np.arange(100) < 40, references, 1 - references)
    speakers = [f"s{i // 20}" for i in range(100)]
    draws = class_draws(references, predictions, speakers, 2, samples=20000)["wa"]
    assert sorted(set(draws)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    binomial = [math.comb(5, k) * 0.4**k * 0.6 ** (5 - k) for k in range(6)]
    assert [(draws.round(2) == k / 5).mean() for k in range(6)] == pytest.approx(binomial, abs=0.01)
    # The same figures over a hundred speakers are a narrow interval around 0.4.
    low, high = intervals(class_draws(references, predictions, [f"s{i}" for i in range(100)], 2))["wa"]
    assert 0.28 < low < 0.34 and 0.46 < high < 0.52
    # Two standard errors of the mean of n coin flips with one speaker: utterances are resampled.
    low, high = intervals(class_draws(references, predictions, ["a"] * 100, 2))["wa"]
    assert high - low == pytest.approx(4 * 0.049, abs=0.04)


def test_few_speakers_resample_their_utterances_too():
    """Every outcome of two speakers with two utterances each, a one of them right, b both: two of the speakers are
    drawn, then two utterances of each drawn one."""
    right = {"a": (1, 0), "b": (1, 1)}
    outcomes = Counter()
    for first, second in itertools.product(right, repeat=2):
        for drawn in itertools.product(right[first], right[first], right[second], right[second]):
            outcomes[sum(drawn) / 4] += 1 / 64
    draws = class_draws([0, 0, 0, 0], [0, 1, 0, 0], list("aabb"), 2, samples=40000)["wa"]
    assert {wa: (draws == wa).mean() for wa in outcomes} == pytest.approx(dict(outcomes), abs=0.01)
    # IEMOCAP's folds: two speakers of 90 % each; whole speakers alone would give [0.9, 0.9]
    truth = np.zeros(400, dtype=int)
    low, high = intervals(class_draws(truth, np.arange(400) // 2 % 10 == 0, ["m", "f"] * 200, 2))["wa"]
    assert low == pytest.approx(0.9 - 2 * 0.015, abs=0.01) and high == pytest.approx(0.9 + 2 * 0.015, abs=0.01)


def test_an_utterance_of_an_unknown_speaker_is_a_cluster():
    """Two speakers with half of the utterances and 50 unknown ones: 52 clusters, not three."""
    speakers = ["a"] * 25 + ["b"] * 25 + [None] * 50
    assert resampled(speakers) == "speakers and utterances of unknown speakers"
    assert draw(speakers, 7)[1].shape == (7, 52)
    assert draw([None] * 50, 7)[1].tolist() == draw([float("nan")] * 50, 7)[1].tolist()  # as pandas reads a table
    assert resampled([None] * 3) == "utterances of unknown speakers" and resampled(["a"] * 3).endswith("one speaker")
    assert "fewer than five" in resampled(["a", None, None, None]) and resampled(list("abcde")) == "speakers"


def test_evaluate_modules_work_offline_in_batches_and_combined():
    references, predictions = [0, 1, 2, 2], [0, 1, 1, 2]
    assert load_metric("all").compute(predictions=predictions, references=references)["uar"] == pytest.approx(5 / 6)
    metric = load_metric("uar")
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    metric.add_batch(predictions=predictions[2:], references=references[2:])
    assert metric.compute() == {"uar": pytest.approx(5 / 6)}
    both = evaluate.combine([load_metric("uar"), load_metric("wa")])
    assert both.compute(predictions=predictions, references=references) == {"uar": pytest.approx(5 / 6), "wa": 0.75}
    with pytest.raises(ValueError, match="choose one of uar, wa"):
        load_metric("accuracy")


def test_class_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0, 0, 0, 1, 1, 3]
    ours = class_weights(labels, 5)
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert ours[[0, 1, 3]].tolist() == pytest.approx(theirs.tolist())
    assert ours[[2, 4]].tolist() == [0.0, 0.0]


def test_loss_sum_over_weight_is_torchs_mean():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 0]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    vectors = torch.rand(6, 4)
    soft = vectors / vectors.sum(dim=1, keepdim=True)
    for loss, torchs, truth in (
        (Loss(), torch.nn.CrossEntropyLoss(), labels),
        (Loss(weights=weights), torch.nn.CrossEntropyLoss(weights), labels),
        (Loss(weights=weights, label_smoothing=0.1), torch.nn.CrossEntropyLoss(weights, label_smoothing=0.1), labels),
        (Loss(), torch.nn.CrossEntropyLoss(), soft),
        (Loss("regression"), torch.nn.MSELoss(), vectors),
        (Loss("regression", "l1"), torch.nn.L1Loss(), vectors),
        (Loss("multi_label_classification"), torch.nn.BCEWithLogitsLoss(), vectors.round()),
        (
            Loss("multi_label_classification", weights=weights),
            torch.nn.BCEWithLogitsLoss(pos_weight=weights),
            vectors.round(),
        ),
        (Loss(kind="focal", focal_gamma=0.0, weights=weights), torch.nn.CrossEntropyLoss(weights), labels),
    ):
        assert float(loss.value(logits, truth)) == pytest.approx(float(torchs(logits, truth)), abs=1e-6), loss
        parts = [loss.sum(logits[i : i + 2], truth[i : i + 2]) for i in (0, 2, 4)]
        shares = [loss.weight(truth[i : i + 2]) for i in (0, 2, 4)]
        assert float(sum(parts) / sum(shares)) == pytest.approx(float(loss.value(logits, truth)), abs=1e-6)


def test_focal_loss_by_hand():
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.3, 0.7]]))
    expected = -(0.2**2 * np.log(0.8) + 0.7**2 * np.log(0.3)) / 2
    assert float(Loss(kind="focal").value(logits, torch.tensor([0, 0]))) == pytest.approx(expected, abs=1e-6)


def test_ccc_by_hand_and_degenerate():
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [4.0], [6.0]])
    # cov 4/3, var 2/3 and 8/3, means 2 and 4: 2 * 4/3 / (2/3 + 8/3 + 4) = 4/11
    assert float(ccc(x, y)) == pytest.approx(4 / 11)
    assert float(ccc(y, y)) == pytest.approx(1.0) and float(ccc(-y, y)) < 0
    constant = torch.ones(3, 1)
    assert float(ccc(constant, y)) == 0.0 and float(ccc(constant, constant)) == 0.0
    assert float(Loss("regression", "ccc").value(x, y)) == pytest.approx(7 / 11)
    mixed = Loss("regression", "ccc_mse", ccc_weight=0.25).value(x, y)
    assert float(mixed) == pytest.approx(0.25 * 7 / 11 + 0.75 * 14 / 3)


def test_positive_weights_and_wrong_kind():
    assert positive_weights([[1, 0], [0, 0], [0, 0], [0, 0]]).tolist() == [3.0, 1.0]
    with pytest.raises(ValueError, match="not for regression; choose mse, l1, ccc, ccc_mse"):
        Loss("regression", "focal")


def test_losses_are_one_table_that_can_be_read_without_torch():
    import ast
    import inspect

    from ser_hf.evaluation.tasks import TASKS
    from ser_hf.training import losses

    tree = ast.parse(inspect.getsource(losses))
    table = next(n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "LOSSES")
    assert [key.value for key in table.value.keys] == list(losses.LOSSES)
    assert {entry.problem_type for entry in losses.LOSSES.values()} == set(TASKS)
    assert [Loss(kind).kind for kind in TASKS] == ["cross_entropy", "bce", "mse"]
