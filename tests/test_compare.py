"""`ser-hf compare`: ranks and critical differences against the published example, differences by hand, refusals.

python -m pytest tests/test_compare.py
"""

import json

import numpy as np
import pandas as pd
import pytest
from test_cv import WORDS, finished_run

from ser_hf.cli import main
from ser_hf.evaluation import ranks
from ser_hf.experiments.cv_report import summarise

# Demsar (2006), table 6: AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets. Of the last but one (voting) the
# printed figures of C4.5+cf and C4.5+m+cf are both 0.975, but their ranks 2 and 3.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


# ---- ranks


def test_the_published_example():
    of_each = ranks.ranks(DEMSAR)
    assert of_each[5].tolist() == [1, 2.5, 4, 2.5] and of_each[9].tolist() == [2.5] * 4
    mean = of_each.mean(axis=0)
    assert mean == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.0005)
    # Demsar's formula knows no ties, and gives 9.28. Tied are three pairs and four: 3 * 6 + 60 = 78 of 14 * 60.
    by_formula = 12 * 14 / (4 * 5) * ((mean**2).sum() - 4 * 5**2 / 4)
    assert by_formula == pytest.approx(9.28, abs=0.01)
    statistic, p = ranks.friedman(DEMSAR)
    assert statistic == pytest.approx(by_formula / (1 - 78 / 840)) and 0.01 < p < 0.03
    assert ranks.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)  # "2.569 sqrt(4 * 5 / (6 * 14)) = 1.25"
    # "not even the difference between the best and the worst is larger": one bar over all
    assert [sorted(group) for group in ranks.groups(mean, ranks.critical_difference(4, 14))] == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("systems", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_table_of_critical_values(systems, q):
    """Demsar's table 5 at 0.05."""
    scale = (systems * (systems + 1) / (6 * 7)) ** 0.5
    assert ranks.critical_difference(systems, 7) / scale == pytest.approx(q, abs=0.001)


@pytest.mark.parametrize("systems", [2, 3, 4, 8])
def test_what_is_needed_is_the_least_that_can_show(systems):
    def shows(corpora: int) -> bool:
        alike = np.tile(np.arange(systems, dtype=float), (corpora, 1)) + 0.01 * np.arange(corpora)[:, None]
        if systems == 2:
            return ranks.signed_ranks(1 + 0.1 * np.arange(corpora)) < 0.05
        apart = np.ptp(ranks.ranks(alike).mean(axis=0)) > ranks.critical_difference(systems, corpora)
        return apart and ranks.friedman(alike)[1] < 0.05

    least = ranks.needed(systems)
    assert shows(least) and not shows(least - 1)


def test_equal_systems():
    assert ranks.friedman(np.ones((4, 3))) is None and ranks.signed_ranks(np.zeros(7)) is None
    assert ranks.ranks(np.array([[0.1, 0.2]])).tolist() == [[2, 1]]


# ---- the command


@pytest.fixture
def results(tmp_path):
    """Writes a finished cross-validation of two folds, of six utterances a speaker; a letter is an answer."""

    def write(name: str, answers: str, corpus: str = "emo", protocol: str = "p", truth: str = "asasasasasas", **change):
        folds = {}
        for fold in (0, 1):
            here = slice(6 * fold, 6 * fold + 6)
            right = sum(a == b for a, b in zip(truth[here], answers[here], strict=True)) / 6
            folds[1, fold] = finished_run(truth[here], answers[here], (right,) * 4, fold, speaker=f"S{fold}")
        folder = tmp_path / f"{corpus}_{name}_cv"
        for (seed, fold), (facts, table) in folds.items():
            place = folder / f"fold{fold}_seed{seed}"
            place.mkdir(parents=True)
            table.to_parquet(place / "predictions.parquet")
            (place / "results.json").write_text(json.dumps(facts))
        about = {
            "corpus": {"corpus": corpus, "labels": "2class", "label_names": WORDS},
            "protocol": {"name": protocol, "warning": ""},
            "model": {},
            "command": f"ser-hf cv {name}",
            "folds": [0, 1],
            "seeds": [1],
        }
        cv = summarise(folds, WORDS) | about
        for key, value in change.items():
            cv[key] = cv[key] | value if isinstance(value, dict) else value
        (folder / "cv.json").write_text(json.dumps(cv))
        return str(folder)

    return write


def said(argv: list, capsys, status: int = 0) -> str:
    assert main(["compare", *argv]) == status
    shown = capsys.readouterr()
    assert status == 0 or shown.err.count("\n") == 1
    return shown.err if status else shown.out


def test_two_systems_on_the_same_folds(results, tmp_path, capsys):
    good, bad = results("good", "asasasasasaa"), results("bad", "aaaaaaaaaaaa")  # 11 of 12, 6 of 12
    text = said([good, bad, "--out", str(tmp_path / "out")], capsys)
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    (place,) = found["corpora"]
    assert found["systems"] == ["good", "bad"] and found["ranks"] is None
    assert place["figures"]["good"]["pooled"] == pytest.approx(11 / 12) and place["figures"]["bad"]["pooled"] == 0.5
    (one,) = place["differences"]
    low, high = one["interval"]
    assert one["difference"] == pytest.approx(5 / 12) and 0 < low < 5 / 12 < high <= 0.5
    assert place["figures"]["good"]["folds"] == {"0": 1.0, "1": pytest.approx(5 / 6)}
    assert "good is better on speakers like these" in text and "One corpus: nothing is said of others" in text
    assert (tmp_path / "out" / "compare.md").read_text() in text
    assert not (tmp_path / "out" / "critical_difference.png").exists()
    # the same answers, one wrong in another place: nothing is shown
    other = results("other", "asasasasaaas")
    text = said([good, other, "--out", str(tmp_path / "out")], capsys)
    assert "no difference is shown, which does not say that they are equal" in text


def test_several_systems_over_corpora(results, tmp_path, capsys):
    answers = {"best": "asasasasasas", "middle": "asasasasasaa", "worst": "asasasaaaaaa"}
    places = [results(name, words, f"c{i}") for i in range(4) for name, words in answers.items()]
    text = said([*places, "--out", str(tmp_path / "out")], capsys)
    ranked = json.loads((tmp_path / "out" / "compare.json").read_text())["ranks"]
    assert ranked["mean"] == {"best": 1, "middle": 2, "worst": 3} and ranked["of_each"]["c3"]["worst"] == 3
    # all alike: N (k - 1); q sqrt(k (k + 1) / 6 N) = 2.343 sqrt(12 / 24)
    assert ranked["statistic"] == pytest.approx(8) and ranked["critical_difference"] == pytest.approx(1.657, abs=1e-3)
    assert ranked["alike"] == [["best", "middle"], ["middle", "worst"]]
    assert "Friedman over 4 corpora: p = 0.018: the systems differ" in text and "better are best than worst." in text
    assert "12 comparisons at 95 % each" in text
    assert (tmp_path / "out" / "critical_difference.png").read_bytes()[:4] == b"\x89PNG"
    text = said([*places[:6], "--out", str(tmp_path / "out")], capsys)
    assert "2 corpora are too few for any difference to show over corpora: 3 systems need at least 3" in text
    pairs = [place for place in places if "middle" not in place]
    text = said([*pairs, "--out", str(tmp_path / "out")], capsys)
    assert "4 corpora are too few for any difference to show over corpora: 2 systems need at least 6" in text


def test_recorded_results(tmp_path, capsys, monkeypatch):
    from conftest import REPO

    monkeypatch.chdir(REPO)
    files = [
        f"recipes/results/{corpus}_{name}.json"
        for corpus in ("emodb/speaker-folds/emodb", "ravdess/6fold/ravdess")
        for name in ("whisper_ridge", "egemaps_svm", "compare_svm")
    ]
    text = said([*files, "--out", str(tmp_path)], capsys)
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["ranks"]["mean"] == {"whisper_ridge": 1, "egemaps_svm": 3, "compare_svm": 2}
    assert "6 of 6 differences have no interval" in text and "2 corpora are too few" in text


def test_what_would_give_a_wrong_figure_is_refused(results, tmp_path, capsys):
    one, two, out = results("one", "asasasasasas"), results("two", "aaaaaaaaaaaa"), ["--out", str(tmp_path / "out")]
    fold = tmp_path / "emo_two_cv" / "fold0_seed1"
    table, facts = pd.read_parquet(fold / "predictions.parquet"), (fold / "results.json").read_text()
    others = {
        "twice": pd.concat([table, table[:1]]),
        "has scores that are no numbers": table.assign(score_angry=float("nan")),
        "has two labels or speakers": table.assign(label=table["label"][::-1].tolist()),
        "holds no predictions": table.drop(columns="id"),
    }
    for words, changed in others.items():
        changed.to_parquet(fold / "predictions.parquet")
        assert words in said([one, two, *out], capsys, status=2)
    (fold / "predictions.parquet").write_bytes(b"PAR1")
    assert "holds no finished run" in said([one, two, *out], capsys, status=2)
    table.iloc[::-1].to_parquet(fold / "predictions.parquet")  # in another order all is well
    (fold / "results.json").write_text("{")
    assert "holds no finished run" in said([one, two, *out], capsys, status=2)
    (fold / "results.json").write_text(facts)
    assert "is there twice" in said([f"a={one}", f"b={one}", *out], capsys, status=2)
    cv = json.loads((fold.parent / "cv.json").read_text())
    for part in ("pooled", "mean", "runs", "protocol"):
        (fold.parent / "cv.json").write_text(json.dumps({key: cv[key] for key in cv if key != part}))
        assert "results of another version of ser_hf, or damaged" in said([one, two, *out], capsys, status=2)
    (fold.parent / "cv.json").write_text(json.dumps(cv | {"partial": True}))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "compare.md").write_text("my notes")
    assert "compare.md is there" in said([one, two, "--out", str(tmp_path / "mine")], capsys, status=2)
    assert (tmp_path / "mine" / "compare.md").read_text() == "my notes" and not any((tmp_path / "out").glob("*.json"))
    assert "emo: PARTIAL, folds are left out" in said([one, two, *out], capsys)
    assert said([one, two, *out], capsys)  # its own files are written again


def test_unlike_things_are_refused(results, tmp_path, capsys):
    one, out = results("one", "asasasasasas"), ["--out", str(tmp_path / "out")]

    def refused(*words: str) -> str:
        return said([*words, *out], capsys, status=2)

    assert "no results; name a folder of ser-hf cv" in refused(str(tmp_path / "nothing"), one)
    assert "one system, one: give two or more" in refused(one)
    assert "both are one on emo; name them: a=" in refused(one, f"one={one}", f"two={one}")
    other = results("protocol", "asasasasasas", protocol="q")
    assert "not the same protocol of emo (p and q); leave one out" in refused(one, other)
    other = results("labels", "asasasasasas")
    cv = json.loads(open(f"{other}/cv.json").read())
    (tmp_path / "emo_labels_cv" / "cv.json").write_text(
        json.dumps(cv | {"corpus": cv["corpus"] | {"labels": "3class"}})
    )
    assert "not the same labels of emo (2class and 3class)" in refused(one, other)
    other = results("fold", "asasasasasas", folds=[0], runs=json.loads(open(f"{one}/cv.json").read())["runs"][:1])
    assert "not the same folds of emo;" in refused(one, other)
    kinds = results("kinds", "asasasasasas", problem_type="regression")
    assert "classes and values have no metric in common" in refused(one, kinds)
    elsewhere = results("two", "asasasasasas", "other")
    assert "one has no result on other" in refused(one, elsewhere)
    assert not (tmp_path / "out").exists()
