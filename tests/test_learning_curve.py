"""`ser-hf cv ... --learning_curve speakers` and `--train_speakers`: nested shares, the same tests, figures by hand.

python -m pytest tests/test_learning_curve.py
"""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from test_cv import error_of, flags, launcher  # noqa: F401  (fixtures)

from conftest import settings_of
from ser_hf.data.loading import load_corpus
from ser_hf.data.splits import find_protocol, some_speakers
from ser_hf.errors import SerError
from ser_hf.experiments import cv
from ser_hf.experiments.learning_curve import curve, figure, section
from ser_hf.training.run import make_fold

WORDS = ["angry", "sad"]


# ---- a share of the speakers


def test_shares_are_nested_and_leave_validation_and_test(fake_corpus):
    corpus = load_corpus("emodb", "4class", fake_corpus("emodb"))
    protocol, who = find_protocol("emodb", "speaker-folds"), dict(zip(corpus["id"], corpus["speaker"], strict=True))
    speakers = {}
    for share in (None, 1, 0.75, 0.5, 0.25, 0.01):
        words = ["--dataset", "emodb"] + ([] if share is None else ["--train_speakers", share])
        data = settings_of("wav2vec2_cls", *words).data
        folds = [make_fold(corpus, None, protocol, data, fold, "emodb") for fold in range(5)]
        speakers[share] = [set(parts["train"]["speaker"]) for parts in folds]
        rest = [(parts["validation"]["id"][:], parts["test"]["id"][:]) for parts in folds]
        if share is None:
            whole, train = rest, [parts["train"]["id"][:] for parts in folds]
        assert rest == whole  # the same rows in the same order
        for ids, parts in zip(train, folds, strict=True):
            given, kept = {*ids}, {*parts["train"]["speaker"]}
            # all utterances of the speakers
            assert parts["train"]["id"][:] == [name for name in who if name in given and who[name] in kept]
    for fold in range(5):
        count = len(speakers[None][fold])
        assert speakers[1][fold] == speakers[None][fold]
        for small, large in ((0.01, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)):
            assert speakers[small][fold] <= speakers[large][fold]
            assert len(speakers[small][fold]) == max(1, round(small * count))
    assert len({frozenset(of_fold) for of_fold in speakers[0.5]}) > 1


def test_a_share_that_cannot_be_is_an_error():
    features = Features({"speaker": Value("string"), "label": ClassLabel(names=WORDS)})
    train = Dataset.from_dict({"speaker": ["a", "a", "b"], "label": [0, 0, 1]}, features)
    with pytest.raises(SerError, match="--train_speakers 0.5: no training utterance is (angry|sad) then; give more"):
        some_speakers(train, 0.5, (42, 0))
    unknown = Dataset.from_dict({"speaker": ["a", None], "label": [0, 1]}, features)
    with pytest.raises(SerError, match="not every training utterance has a speaker"):
        some_speakers(unknown, 0.5, (42, 0))


# ---- figures


def part(right: float, speakers: int, seed: int = 1) -> dict:
    """One fold of ten test speakers of ten utterances, of which a share of `right` is right for every speaker."""
    rows = [(f"{s}-{u}", f"s{s}", WORDS[u % 2]) for s in range(10) for u in range(10)]
    table = pd.DataFrame(rows, columns=["id", "speaker", "label"])
    wrong = np.arange(100) % 10 >= 10 * right
    table["prediction"] = np.where(wrong, [WORDS[1 - WORDS.index(word)] for word in table["label"]], table["label"])
    results = {"splits": {"train": {"speakers": speakers, "utterances": 10 * speakers}}}
    return {(seed, 0): (results, table.sample(frac=1, random_state=speakers))}  # in another order


def test_points_and_the_paired_difference_by_hand():
    found = curve({1.0: part(0.8, 16), 0.25: part(0.4, 4), 0.75: part(0.6, 12), 0.5: part(0.5, 8)}, WORDS)
    assert [one["share"] for one in found["points"]] == [0.25, 0.5, 0.75, 1.0]
    assert [one["speakers"] for one in found["points"]] == [4, 8, 12, 16]
    assert [one["utterances"] for one in found["points"]] == [40, 80, 120, 160]
    # of ten utterances, five of each class, the first 4, 5, 6 and 8 are right: of either class 2 of 5, 3 and 2, ...
    assert [one["uar"] for one in found["points"]] == pytest.approx([0.4, 0.5, 0.6, 0.8])
    assert found["last_step"]["difference"] == pytest.approx(0.2)
    assert found["last_step"]["interval"] == pytest.approx([0.2, 0.2])  # the same for every speaker: nothing varies
    assert found["conclusion"].startswith("More speakers would probably help: from 12 to 16 training speakers")


def test_two_seeds_are_averaged():
    both = part(0.4, 4, 1) | part(0.8, 4, 2)
    found = curve({0.75: both, 1.0: both}, WORDS)
    assert found["points"][0]["uar"] == pytest.approx(0.6) and found["last_step"]["difference"] == 0
    assert found["conclusion"].startswith("More speakers would hardly help")


def test_what_varies_between_speakers_cannot_be_told():
    """The last step helps six speakers by 0.4 and harms four by 0.4: 0.08 in the mean, 0.39 the deviation of one."""
    small, large = part(0.5, 12), part(0.5, 16)
    for (_, table), better in ((small[1, 0], 6), (large[1, 0], 0)):
        number = table["speaker"].str[1:].astype(int)
        place = table["id"].str.split("-").str[1].astype(int)
        right = place < np.where((number < 6) == (better == 0), 9, 5)
        table["prediction"] = np.where(right, table["label"], table["label"].map({"angry": "sad", "sad": "angry"}))
    found = curve({0.75: small, 1.0: large}, WORDS)
    assert found["last_step"]["difference"] == pytest.approx(0.08)
    low, high = found["last_step"]["interval"]
    assert low < 0 < 0.02 < high and "cannot be told" in found["conclusion"]


def test_the_figure_is_drawn_also_without_intervals():
    found = curve({0.75: part(0.6, 12), 1.0: part(0.8, 16)}, WORDS)
    found["points"][0]["interval"] = None
    report = {
        "corpus": {"corpus": "emodb", "labels": "$x$"},
        "protocol": {"name": "p"},
        "pooled": {"chance_uar": 0.5},
        "learning_curve": found,
    }
    assert figure(report)[:8] == b"\x89PNG\r\n\x1a\n"
    assert "| 75%   | 12                | 120        | 0.600" in section(report)


# ---- the command


def test_the_folds_are_run_on_every_share(flags, launcher, tmp_path, capsys):  # noqa: F811
    assert cv.main([*flags, "--learning_curve", "speakers"]) == 0
    shares = [
        next((b for a, b in zip(c, c[1:], strict=False) if a == "--train_speakers"), None) for c in launcher.commands
    ]
    assert shares == [None] * 5 + ["0.25"] * 5 + ["0.5"] * 5 + ["0.75"] * 5
    assert not any("--learning_curve" in command for command in launcher.commands)
    launcher.commands = []
    out = tmp_path / "out"
    assert (out / "speakers25" / "fold4_seed42" / "results.json").is_file() and (out / "learning_curve.png").is_file()
    report = json.loads((out / "cv.json").read_text())
    points = report["learning_curve"]["points"]
    sizes = [one["speakers"] for one in points]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4 and points[-1]["speakers"] == sizes[-1]
    assert points[-1]["uar"] == pytest.approx(report["pooled"]["over_seeds"]["metrics"]["uar"])
    assert points[-1]["interval"] == pytest.approx(report["pooled"]["per_seed"][0]["intervals"]["uar"])
    assert report["command"].endswith("--learning_curve speakers") and "train_speakers" not in report["command"]
    said = capsys.readouterr().out
    text = (out / "cv.md").read_text()
    assert text in said and "## Learning curve" in text and report["learning_curve"]["conclusion"] in text
    cv.main([*flags, "--learning_curve", "speakers"])
    assert launcher.commands == [] and (out / "cv.md").read_text() == text  # all were finished
    anew = ["--learning_curve", "speakers", "--overwrite_output_dir", "true", "--launcher", "true"]
    assert cv.main([*flags, *anew]) == 0 and launcher.at_once[-1] == 20 and (out / "cv.md").read_text() == text


def test_mistakes_come_before_the_first_fold(flags, launcher):  # noqa: F811
    asked = [*flags, "--learning_curve", "speakers"]
    assert "--learning_curve sets it; leave it out" in error_of([*asked, "--train_speakers", "0.5"])
    leaking = [word if word != "speaker-folds" else "random" for word in asked]
    assert "random does not keep speakers apart" in error_of(leaking)
    assert "--train_speakers: 1.5: must be above 0 and at most 1" in error_of([*flags, "--train_speakers", "1.5"])
    assert launcher.commands == []
