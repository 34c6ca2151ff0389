"""Results as data: what is recorded, what is refused, and the tables that are written from it.

python -m pytest tests/test_results.py
"""

import copy
import json
import re

import pandas as pd
import pytest

from benchmarks import results
from conftest import REPO
from ser_hf.errors import SerError
from ser_hf.experiments import record as records
from ser_hf.experiments.cv_report import summarise
from ser_hf.files import local_path
from ser_hf.training import record as training_record

WORDS = ["angry", "sad"]


def fold(truth: str, guess: str, uar: float, speaker: str):
    """A finished fold; `truth` and `guess` have one letter per utterance."""
    words = {word[0]: word for word in WORDS}
    table = pd.DataFrame({"id": [f"{speaker}{i}" for i in range(len(truth))], "speaker": speaker})
    table["label"], table["prediction"] = [words[c] for c in truth], [words[c] for c in guess]
    test = {
        "chance": {"metric": "uar", "value": 0.5},
        "utterances": len(truth),
        "speakers": 1,
        "metrics": {"uar": uar, "wa": uar, "macro_f1": uar / 3, "weighted_f1": uar / 3},
        "per_class": {word: {"support": truth.count(word[0])} for word in WORDS},
    }
    training = {"selected_step": 7, "seconds": 90.0}
    return {"protocol": {"speaker_independent": True}, "training": training, "test": test}, table


@pytest.fixture
def cv():
    """`cv.json` of two folds and one seed: three of four right, then one of two."""
    runs = {(1, 0): fold("aass", "aasa", 0.75, "A"), (1, 1): fold("as", "ss", 0.5, "B")}
    counts = {"utterances": 6, "official": 8, "missing": 1, "speakers": 2, "hours": 0.1}
    return summarise(runs, WORDS) | {
        "recipe": "text_cls",
        "command": "ser-hf cv recipes/text_cls.py --dataset emo --learning_rate 3e-05",
        "commit": "abc1234",
        "versions": {"torch": "2.13"},
        "date": "2026-11-25",
        "machine": {"processor": "CPU", "cores": 2, "threads": 1, "accelerator": None},
        "settings": {"learning_rate": 3e-05, "encoder": "x|y"},
        "corpus": {"corpus": "emo", "labels": "2class", "label_names": WORDS, "per_label": {"angry": 3, "sad": 3}}
        | counts
        | {"problems": ["/data/alice/broken.wav: cannot be read"], "title": "T"},
        "protocol": {"name": "two", "source": "two folds", "folds": 2, "speaker_independent": True, "warning": ""}
        | {"fold": None},
        "model": {"class": "C", "encoder": "E", "details": "mean pooling", "parameters": 5},
        "folds": [0, 1],
        "partial": False,
        "seeds": [1],
        "coverage": {"exactly_once": True},
    }


# ---- recording


def test_a_record_holds_what_was_measured_to_four_digits(cv, tmp_path):
    place = records.record(cv, "emo_text", tmp_path)
    assert place == tmp_path / "emo" / "two" / "emo_text.json"
    content = json.loads(place.read_text())
    # (0.75 + 0.5) / 2; deviations 0.125 each: 0.125 * sqrt(2) = 0.17678
    uar = {"mean": 0.625, "sd_over_folds": 0.1768, "sd_over_seeds": None}
    assert content["mean"]["over_seeds"]["uar"] == uar
    # pooled: angry 2 of 3, sad 2 of 3
    assert content["pooled"]["per_seed"][0]["metrics"]["uar"] == 0.6667
    assert content["pooled"]["per_seed"][0]["confusion"] == [[2, 1], [1, 2]]
    assert content["settings"]["learning_rate"] == 3e-05  # a setting is not rounded
    assert content["minutes"] == 3.0 and content["runs"][1]["minutes"] == 1.5
    assert content["corpus"]["missing"] == 1 and content["corpus"]["unusable"] == 1
    assert content["marks"] == [] and content["system"] == "emo_text" and content["date"] == "2026-11-25"


def test_equal_results_are_equal_bytes_and_the_argument_is_left_alone(cv, tmp_path):
    before = copy.deepcopy(cv)
    first = records.record(cv, "one", tmp_path).read_bytes()
    assert cv == before
    turned = dict(reversed(json.loads(json.dumps(cv)).items()))
    assert records.record(turned, "one", tmp_path).read_bytes() == first
    assert first.endswith(b"}\n") and b"\r" not in first


def test_no_path_of_this_machine_is_recorded(cv, tmp_path):
    assert "alice" not in records.record(cv, "one", tmp_path).read_text()
    for text in ("/home/alice/model", "~/corpora/x", "C:\\data\\x"):
        with pytest.raises(SerError, match="path of this machine"):
            records.record(cv | {"settings": {"text_model": text}}, "two", tmp_path)
        with pytest.raises(SerError, match="path of this machine"):
            records.record(cv | {"command": f"ser-hf cv --text_model {text}"}, "two", tmp_path)
    assert not (tmp_path / "emo" / "two" / "two.json").exists()
    public = {"model_name_or_path": "facebook/wav2vec2-base", "text_model": "runs/x_cv/fold{fold}", "rate": "and/or"}
    protocol = cv["protocol"] | {"source": "as in https://example.org/a/b/c (folds 1/2)"}
    records.record(cv | {"settings": public, "protocol": protocol}, "two", tmp_path)


def test_settings_for_others_have_no_folder_of_this_machine(tmp_path):
    settings = {"learning_rate": 3e-5, "do_train": True, "text_model": str(tmp_path), "data_dir": "/a", "config": "x"}
    settings |= {"hub_token": "secret", "layers": [1, 2], "labels": "4class", "bf16": True, "unset": None}
    want = {"learning_rate": 3e-5, "do_train": True, "text_model": tmp_path.name, "layers": [1, 2], "labels": "4class"}
    assert training_record.portable(settings) == want | {"bf16": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"partial": True, "folds": [0]}, "PARTIAL, 1 of 2 folds"),
        ({"commit": "abc1234+"}, "UNCOMMITTED CHANGES"),
        ({"commit": "abc1234, abc1234+"}, "UNCOMMITTED CHANGES"),
        ({"coverage": {"exactly_once": False}}, "NOT every utterance"),
    ],
)
def test_incomplete_results_are_refused(change, words, cv, tmp_path):
    with pytest.raises(SerError, match=words) as error:
        records.record(cv | change, "one", tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_results_of_other_labels_are_not_replaced(cv, tmp_path):
    place = records.record(cv, "one", tmp_path)
    assert records.record(cv | {"date": "2027-01-01"}, "one", tmp_path) == place
    with pytest.raises(SerError, match="one.json holds the results of labels '2class'"):
        records.record(cv | {"corpus": cv["corpus"] | {"labels": "3class"}}, "one", tmp_path)


def test_a_request_is_checked_before_the_folds_are_run(monkeypatch):
    monkeypatch.setattr(training_record, "commit", lambda: "abc1234")
    records.check_request("emo_text", partial=False)
    for name, partial, words in (("../x", False, "must be a name"), ("x", True, "leaves folds out")):
        with pytest.raises(SerError, match=words):
            records.check_request(name, partial)
    monkeypatch.setattr(training_record, "commit", lambda: "abc1234+")
    with pytest.raises(SerError, match="uncommitted"):
        records.check_request("x", partial=False)


# ---- tables

PAGE = """\
By hand.

<!-- results of emo -->
anything
<!-- end -->

<!-- summary of emo/two/b -->
<!-- end -->

<!-- reference work -->
<!-- end -->
"""
REFERENCE = {"corpus": "emo", "labels": "2class", "system": "BERT", "wa": 0.7, "macro_f1": None, "note": None}
EXPECTED = """\
By hand.

<!-- results of emo -->

emo, 2class, protocol **two** (2 folds; two folds): 6 utterances (1 of 8 missing), 2 speakers; chance UAR 0.500; \
intervals over speakers and the utterances of each (fewer than five say little about other speakers); \
minutes of training on CPU.

| system                 | UAR           | WA            | macro F1      | pooled UAR           | seeds | minutes \
| commit  | reference work's UAR |
| ---------------------- | ------------- | ------------- | ------------- | -------------------- | ----- | ------- \
| ------- | -------------------- |
| a                      | 0.625 ± 0.177 | 0.625 ± 0.177 | 0.208 ± 0.059 | 0.667 [0.167, 1.000] | 1     | 3.0     \
| abc1234 | .61 .70              |
| b (SPEAKER-NORMALISED) | 0.625 ± 0.177 | 0.625 ± 0.177 | 0.208 ± 0.059 | 0.667 [0.167, 1.000] | 1     | -       \
| abc1234 | .61 .70              |

<!-- end -->

<!-- summary of emo/two/b -->

| corpus, labels | protocol | system                 | UAR           | pooled UAR           | WA            \
| chance UAR |
| -------------- | -------- | ---------------------- | ------------- | -------------------- | ------------- \
| ---------- |
| emo, 2class    | two      | b (SPEAKER-NORMALISED) | 0.625 ± 0.177 | 0.667 [0.167, 1.000] | 0.625 ± 0.177 \
| 0.500      |

<!-- end -->

<!-- reference work -->

| corpus, labels | system | test set     | n   | WA      | UAR     | macro F1 | here             | note |
| -------------- | ------ | ------------ | --- | ------- | ------- | -------- | ---------------- | ---- |
| emo, 2class    | BERT   | set 1, set 2 | 99  | .70 .70 | .61 .70 | -        | text --arch bert |      |
| emo, 2class    | other  |              | -   | .70     | -       | -        |                  |      |

<!-- end -->
"""


@pytest.fixture
def folder(cv, tmp_path):
    """Two systems, the second speaker-normalised and resumed, and the reference work on the same labels."""
    records.record(cv, "a", tmp_path)
    normalised = copy.deepcopy(cv)
    normalised["model"]["speaker_norm"] = True
    normalised["runs"][0]["seconds"] = None
    records.record(normalised, "b", tmp_path)
    here = {"yaml": "text", "flags": "--arch bert", "here": {"recipe": "text_cls", "encoder": "x|y"}, "n": 99}
    rows = [REFERENCE | here | {"test_set": f"set {i}", "uar": uar} for i, uar in ((1, 0.61), (2, 0.7))]
    nothing = {"test_set": None, "n": None, "uar": None, "yaml": None, "flags": None, "here": None}
    rows.append(REFERENCE | nothing | {"system": "other"})
    (tmp_path / "reference.json").write_text(json.dumps(rows))
    return tmp_path


def test_tables_are_written_between_the_comments(folder):
    text = results.render(PAGE, folder)
    assert text == EXPECTED
    assert results.render(text, folder) == text


def test_several_seeds_show_the_spread_over_seeds(cv, tmp_path):
    runs = {(1, 0): fold("aass", "aass", 1.0, "A"), (1, 1): fold("as", "as", 1.0, "B")}
    runs |= {(2, 0): fold("aass", "aass", 1.0, "A"), (2, 1): fold("as", "ss", 0.5, "B")}
    records.record(cv | summarise(runs, WORDS) | {"seeds": [1, 2]}, "a", tmp_path)
    text = results.render("<!-- summary of emo/*/a -->\n<!-- end -->", tmp_path)
    # seed 2: mean 0.75, sd over folds 0.3536; over seeds: 0.875, mean of sds 0.1768, sd of means 0.1768
    assert "0.875 ± 0.177 (seeds ± 0.177)" in text
    # pooled: 1 and (2/3 + 1) / 2; the lowest bound is seed 2's with speaker B twice, the highest is seed 1's
    assert "0.917 [0.500, 1.000]" in text


def test_stress_reports_stand_side_by_side(tmp_path):
    about = {"corpus": "emo", "labels": "2class", "protocol": "two", "fold": 0, "clips": 6, "speakers": 2}
    gain = {"name": "gain", "strength": 2, "unit": "dB", "kept": 0.9, "metrics": {"uar": 0.7}}
    wide = {"group": "female", "gap": -0.2, "limit": 0.1, "biased": True, "classes": []}
    groups = {"gender": {"not_judged": None, "groups": [{**wide, "group": "male", "gap": 0.1, "biased": False}, wide]}}
    scored = {"metric": "uar", "clean": {"metrics": {"uar": 0.75}}}
    (tmp_path / "stress").mkdir()
    for name, change in (("a", gain), ("b", gain | {"strength": -2})):
        report = about | scored | {"changes": [change], "groups": groups if name == "a" else {}}
        (tmp_path / "stress" / f"{name}.json").write_text(json.dumps(report))
    text = results.render("<!-- stress of a b -->\n<!-- end -->", tmp_path)
    lines = [re.sub(" +", " ", line) for line in text.splitlines()]
    assert "| change | a: kept | UAR | b: kept | UAR |" in lines
    assert "| as recorded | - | 0.750 | - | 0.750 |" in lines
    assert "| gain 2 dB | 0.900 | 0.700 | - | - |" in lines and "| gain -2 dB | - | - | 0.900 | 0.700 |" in lines
    assert "| a | gender | 2 | -0.200 | 0.100 | female: UAR -0.20 |" in lines
    assert "a: emo (2class), two fold 0, 6 clips of 2 unseen speakers." in text


def test_a_table_of_nothing(folder):
    with pytest.raises(SerError, match=r"emo/two/c\.json: no such results"):
        results.render("<!-- summary of emo/two/c -->\n<!-- end -->", folder)
    assert "Nothing is recorded yet." in results.render("<!-- results of other -->\n<!-- end -->", folder)
    assert results.missing_corpora(PAGE, folder) == []
    assert results.missing_corpora("", folder) == ["emo"]


# ---- the repository's own


def test_the_readmes_show_the_recorded_results(capsys):
    assert results.main(["--check"]) == 0, capsys.readouterr().out
    assert "up to date" in capsys.readouterr().out


def test_check_finds_a_table_that_was_changed_by_hand(tmp_path, monkeypatch, capsys):
    recipes = tmp_path / "recipes"
    (recipes / "configs").mkdir(parents=True)
    (recipes / "results").symlink_to(REPO / "recipes" / "results")
    (tmp_path / "benchmarks").mkdir()
    for page in ("README.md", "benchmarks/README.md"):
        (tmp_path / page).write_text((REPO / page).read_text())
    text = (REPO / "recipes" / "README.md").read_text()
    (recipes / "README.md").write_text(text.replace("| .89 ", "| .99 ", 1))
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.main(["--check"]) == 1 and "recipes/README.md" in capsys.readouterr().out
    assert results.main([]) == 0 and (recipes / "README.md").read_text() == text
    assert results.main(["--check"]) == 0


def test_recorded_results_are_where_their_content_says():
    files = list((REPO / "recipes" / "results").glob("*/*/*.json"))
    for file in files:
        content = json.loads(file.read_text())
        assert [content["corpus"]["corpus"], content["protocol"]["name"], content["system"]] == [
            *file.parts[-3:-1],
            file.stem,
        ]
        assert not local_path(file.read_text()), file


def test_yaml_files_of_the_reference_work_exist():
    rows = json.loads((REPO / "recipes" / "results" / "reference.json").read_text())
    assert len(rows) == 44
    for row in rows:
        assert row["yaml"] is None or (REPO / "recipes" / "configs" / f"{row['yaml']}.yaml").is_file(), row
