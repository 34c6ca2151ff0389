"""The three tasks: what selects, in which direction, and figures that do not change with the code."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ser_hf import SerError
from ser_hf.evaluation.metrics import SMALLER_IS_BETTER
from ser_hf.evaluation.scoring import compare, decision_thresholds, score
from ser_hf.evaluation.tasks import CLASSES, LABELS, TASKS, VALUES

ARGS = {
    CLASSES: (np.array([0, 1, 1]), ["x", "y"]),
    LABELS: (np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), ["x", "y"]),
    VALUES: (np.array([[1.0], [-2.0], [0.0]]), ["sentiment"]),
}


@pytest.mark.parametrize("problem_type", TASKS)
def test_every_metric_has_a_direction(problem_type):
    """A perfect answer is no worse than another one, in the direction that selection names."""
    task, (labels, names) = TASKS[problem_type], ARGS[problem_type]
    right = np.eye(2)[labels] if problem_type == CLASSES else labels
    perfect, other = (task.metrics(labels, scores, names) for scores in (right, right[::-1] * 0.5))
    assert set(perfect) == set(task.metric_names(names))
    for name in perfect:
        chosen, greater = task.selection(name, names)
        assert chosen == name and task.selection(f"eval_{name}", names) == (name, greater)
        sign = 1 if greater else -1
        assert other[name] is None or sign * perfect[name] >= sign * other[name], name
    assert set(task.compared_by) <= set(perfect)


def test_what_selects():
    assert [TASKS[kind].selection(None, ["a"]) for kind in TASKS] == [("uar", True), ("map", True), ("ccc", True)]
    assert TASKS[VALUES].selection("mae", ["a"]) == ("mae", False)
    assert TASKS[VALUES].selection("ccc_a", ["a"]) == ("ccc_a", True)
    assert TASKS[CLASSES].selection("loss", ["a"]) == ("loss", False)
    with pytest.raises(SerError, match="--metric_for_best_model f1: classes have no such metric; choose uar, wa, "):
        TASKS[CLASSES].selection("f1", ["a"])
    with pytest.raises(SerError, match="values have no such metric"):
        TASKS[VALUES].selection("acc7", ["a"])
    assert TASKS[VALUES].selection("acc7", ["sentiment"]) == ("acc7", True)
    assert {"loss", "mae", "mse", "rmse"} == SMALLER_IS_BETTER


def test_the_trainers_metrics():
    soft = np.array([[0.4, 0.6], [0.9, 0.1]])
    prediction = SimpleNamespace(predictions=np.array([[0.0, 1.0], [0.0, 1.0]]), label_ids=soft)
    assert TASKS[CLASSES].compute_metrics(["x", "y"])(prediction)["uar"] == 0.5
    constant = SimpleNamespace(predictions=np.ones((3, 1)), label_ids=np.array([[1.0], [2.0], [3.0]]))
    values = TASKS[VALUES].compute_metrics(["x"])(constant)
    assert values["ccc"] == 0.0 and values["mae"] == 1.0  # undefined counts as nothing


@pytest.mark.parametrize("problem_type", TASKS)
def test_logits_are_the_inverse_of_scores(problem_type):
    task, logits = TASKS[problem_type], np.array([[0.5, -1.0, 2.0], [0.0, 0.0, -3.0]])
    assert np.allclose(task.scores(task.logits(task.scores(logits))), task.scores(logits))


def test_no_label_at_all_is_undefined_not_nan():
    part = {"label": [[0.0, 0.0], [0.0, 0.0]], "speaker": ["a", "b"]}
    scored = score(part, np.zeros((2, 2)), ["x", "y"], LABELS)
    assert scored["chance"] == {"metric": "map", "value": None} and scored["metrics"]["map"] is None
    json.dumps(scored, allow_nan=False)


def seeded(problem_type: str, names: list[str], rows: int, clusters: int):
    """Random labels, logits that know something of them, and speakers."""
    rng = np.random.default_rng(7)
    speakers = [f"s{i}" for i in rng.integers(clusters, size=rows)]
    if problem_type == CLASSES:
        labels = rng.integers(len(names), size=rows)
        truth = np.eye(len(names))[labels]
    else:
        truth = labels = (rng.random((rows, len(names))) < 0.3) + 0.0 if problem_type == LABELS else rng.uniform(
            -3, 3, size=(rows, len(names))
        )  # fmt: skip
    one, two = (share * truth + rng.normal(size=truth.shape) for share in (1.0, 0.5))
    return {"label": labels, "speaker": speakers}, one, two


FIGURES = json.loads((Path(__file__).parent / "figures_before.json").read_text())


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_before(name):
    """Metrics, intervals, thresholds and paired differences as version 0.1's first code computed them (b9bd723, two
    bootstraps): to twelve decimals, because the order of summing has changed."""
    problem_type, names, rows, clusters = FIGURES[name]["of"]
    part, logits, other = seeded(problem_type, names, rows, clusters)
    limits = decision_thresholds(part, logits, names, problem_type)
    scored = score(part, logits, names, problem_type, limits)
    compared = compare(part, logits, {"other": other}, names, problem_type, limits)["other"]
    found = {key: scored[key] for key in ("metrics", "intervals", "chance")} | {
        "limits": limits,
        **compared_of(compared),
    }
    before = FIGURES[name]["figures"]
    rounded = [
        json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 12))
        for figures in (kept(found, before), before)
    ]
    assert rounded[0] == rounded[1]


def kept(found, before):
    """What there was before, at any depth: figures of each label have been added since."""
    return {key: kept(found[key], before[key]) for key in before} if isinstance(before, dict) else found


def compared_of(compared: dict) -> dict:
    return {key: compared[key] for key in ("difference", "difference_intervals")}
