"""`ser-hf cv`: which folds are run, resumed, skipped or refused, and what is said of them, in hand-computed numbers.

python -m pytest tests/test_cv.py -m "not slow"
"""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import Dataset

from benchmarks import results
from conftest import REPO, system_of, tiny_flags
from ser_hf.data.loading import load_corpus
from ser_hf.data.splits import find_protocol, folds_of
from ser_hf.errors import SerError
from ser_hf.evaluation.calibration import ece
from ser_hf.evaluation.scoring import predictions_table, score
from ser_hf.evaluation.tables import shown
from ser_hf.evaluation.tasks import LABELS, TASKS, VALUES, softmax
from ser_hf.experiments import cv, cv_report
from ser_hf.experiments.launch import accelerated, last_error
from ser_hf.experiments.record import as_record
from ser_hf.loading_scripts import demo
from ser_hf.training.arguments import build, parse, read
from ser_hf.training.record import commit, describe, write_flags
from ser_hf.training.run import make_fold
from ser_hf.training.settings import DataArguments

RECIPE = str(REPO / "recipes" / "wav2vec2_cls.py")
WORDS = ["angry", "sad"]
LAUNCH = cv.launch


def run_alone(command: list[str], log: Path, verbose: bool = False) -> tuple[int, str]:
    """A command to its end: its exit status and the end of its output."""
    ((_, same, status, output),) = LAUNCH([(0, command, log)], accelerated, verbose=verbose)
    assert same == command
    return status, output


def finished_run(truth: str, guess: str, metrics: tuple, fold: int = 0, independent: bool = True, speaker: str = "A"):
    """A fold as its folder holds it; `truth` and `guess` are a letter an utterance, `metrics` UAR, WA and both F1."""
    words = {word[0]: word for word in WORDS}
    table = pd.DataFrame({"id": [f"{speaker}{i}" for i in range(len(truth))], "speaker": speaker})
    table["label"], table["prediction"] = [words[c] for c in truth], [words[c] for c in guess]
    results = {
        "protocol": {
            "name": "p",
            "source": "s",
            "fold": fold,
            "speaker_independent": independent,
            "warning": "" if independent else "LEAKS SPEAKERS",
        },
        "training": {"selected_step": 7, "seconds": 1.5},
        "test": {
            "chance": {"metric": "uar", "value": 0.5},
            "utterances": len(truth),
            "speakers": 1,
            "metrics": dict(zip(("uar", "wa", "macro_f1", "weighted_f1"), metrics, strict=True)),
            "per_class": {word: {"support": truth.count(word[0])} for word in WORDS},
        },
    }
    return results, table


@pytest.fixture
def four_runs():
    """Two seeds on two folds of unequal size; the second seed makes no mistake."""
    # seed 1, fold 0: angry F1 0.8 (precision 2/3, recall 1), sad 2/3 (1, 1/2); fold 1: angry 0, sad 2/3 (1/2, 1)
    return {
        (1, 0): finished_run("aass", "aasa", (0.75, 0.75, 11 / 15, 11 / 15)),
        (1, 1): finished_run("as", "ss", (0.5, 0.5, 1 / 3, 1 / 3), fold=1, speaker="B"),
        (2, 0): finished_run("aass", "aass", (1, 1, 1, 1)),
        (2, 1): finished_run("as", "as", (1, 1, 1, 1), fold=1, speaker="B"),
    }


# ---- figures


def test_mean_and_standard_deviation_over_folds_then_over_seeds(four_runs):
    mean = cv_report.summarise(four_runs, WORDS)["mean"]
    first, second = mean["per_seed"]
    assert first["seed"] == 1 and second["seed"] == 2
    # (0.75 + 0.5) / 2 = 0.625; squared deviations 2 * 0.125 ** 2, divided by 2 - 1
    assert first["uar"] == {"mean": 0.625, "sd_over_folds": pytest.approx(0.125 * 2**0.5)}
    assert first["macro_f1"]["mean"] == pytest.approx((11 / 15 + 5 / 15) / 2)
    assert second["uar"] == {"mean": 1.0, "sd_over_folds": 0.0}
    # mean of 0.625 and 1; mean of 0.1768 and 0; deviations of the two means 0.1875 each
    assert mean["over_seeds"]["uar"] == {
        "mean": 0.8125,
        "sd_over_folds": pytest.approx(0.125 * 2**0.5 / 2),
        "sd_over_seeds": pytest.approx(0.1875 * 2**0.5),
    }


def test_calibration_is_that_of_the_pooled_predictions():
    rng, folds, raw, truth = np.random.default_rng(0), [], [], []
    for fold, temperature in enumerate((2.0, None)):  # of the second none was found
        logits, words = rng.normal(size=(60, 2)) * 4, "".join(rng.choice(["a", "s"], 60))
        results, table = finished_run(words, words, (1, 1, 1, 1), fold=fold, speaker="AB"[fold])
        table[["score_angry", "score_sad"]] = softmax(logits / (temperature or 1.0))
        folds.append((results | {"calibration": {"temperature": temperature}}, table))
        raw.append(logits)
        truth += ["as".index(letter) for letter in words]
    found = cv_report.pool(folds, WORDS)["calibration"]
    after = np.concatenate([raw[0] / 2, raw[1]])
    assert found["before"]["ece"] == pytest.approx(ece(softmax(np.concatenate(raw)), np.array(truth)))
    assert found["after"]["ece"] == pytest.approx(ece(softmax(after), np.array(truth)))
    assert found["temperature"] == 1.5 and found["range"] == [1.0, 2.0]
    assert "calibration" not in cv_report.pool([folds[0], (folds[1][0] | {"windows": {}}, folds[1][1])], WORDS)


def test_pooled_predictions_are_one_test_set_a_seed(four_runs):
    pooled = cv_report.summarise(four_runs, WORDS)["pooled"]
    first, second = pooled["per_seed"]
    # both folds of seed 1 together: angry 2 of 3, sad 2 of 3, 3 said to be angry; not the mean over folds, 0.625
    assert first["confusion"] == [[2, 1], [1, 2]]
    assert first["metrics"] == pytest.approx({name: 2 / 3 for name in ("uar", "wa", "macro_f1", "weighted_f1")})
    assert (
        first["utterances"] == 6
        and first["speakers"] == 2
        and first["intervals_over"].startswith("speakers and the utt")
    )
    # resampling the two speakers alone would draw UAR 0.75 or 0.5 in half of the samples; their utterances vary too
    low, high = first["intervals"]["uar"]
    assert low < 0.5 and high > 0.75
    assert second["confusion"] == [[3, 0], [0, 3]] and second["intervals"]["uar"] == [1.0, 1.0]
    over = pooled["over_seeds"]
    assert over["metrics"]["uar"] == pytest.approx((2 / 3 + 1) / 2)
    assert over["per_class"]["angry"] == pytest.approx({"precision": 5 / 6, "recall": 5 / 6, "f1": 5 / 6, "support": 3})
    assert pooled["chance_uar"] == 0.5


def test_one_fold_has_no_standard_deviation(four_runs):
    mean = cv_report.summarise({(1, 0): four_runs[1, 0]}, WORDS)["mean"]
    assert mean["per_seed"][0]["uar"] == {"mean": 0.75, "sd_over_folds": None}
    assert mean["over_seeds"]["uar"] == {"mean": 0.75, "sd_over_folds": None, "sd_over_seeds": None}


def test_a_class_that_no_fold_tests_takes_no_part():
    figures = cv_report.summarise({(1, 0): finished_run("aa", "as", (0.5, 0.5, 2 / 3, 2 / 3))}, WORDS)
    assert figures["runs"][0]["absent"] == ["sad"]
    sad = figures["pooled"]["over_seeds"]["per_class"]["sad"]
    assert sad == {"precision": 0, "recall": None, "f1": 0, "support": 0}
    assert figures["pooled"]["chance_uar"] == 1.0


def test_coverage_finds_what_was_tested_never_or_twice():
    tables = [pd.DataFrame({"id": ["a", "b"]}), pd.DataFrame({"id": ["b"]})]
    found = cv_report.coverage([tables], ["a", "b", "c", "d"], {"a", "b", "c"})
    assert found == {
        "utterances": 4,
        "in_test_sets": 3,
        "exactly_once": False,
        "never_tested": 1,
        "first_never_tested": ["c"],
        "tested_more_than_once": 1,
        "first_tested_more_than_once": ["b"],
    }
    complete = cv_report.coverage([[tables[0], pd.DataFrame({"id": ["c"]})]] * 2, ["a", "b", "c"], {"a", "b", "c"})
    assert complete["exactly_once"]


# ---- which folds are run: the real corpus, split and report; only the launched process is a fake


class Launcher:
    """Stands for `cv.launch`: notes the command and leaves what a recipe leaves, unless `fails` has the fold."""

    def __init__(self, corpus):
        self.corpus, self.commands, self.fails, self.forget, self.at_once = corpus, [], {}, 0, []

    @property
    def started(self) -> list[tuple[int, int, bool]]:
        """(seed, fold, resumed) of every start since the last look."""
        flags = [dict(zip(command, command[1:], strict=False)) for command in self.commands]
        self.commands = []
        return [(int(f["--seed"]), int(f["--fold"]), f.get("--resume_from_checkpoint") == "true") for f in flags]

    def __call__(self, jobs, start, at_once=1, verbose=False):
        self.at_once.append(at_once)
        yield from ((key, command, *self.run(command)) for key, command, _ in jobs)

    def run(self, command):
        self.commands.append(command)
        values, overrides = read(system_of("wav2vec2_cls"), command[command.index(RECIPE) + 1 :])
        seed, fold, folder = values.seed, values.fold, Path(values.output_dir)
        if fold in self.fails:
            (folder / "checkpoint-4").mkdir()
            write_flags(folder, overrides)
            return 1, self.fails[fold]
        corpus, report = self.corpus
        protocol = find_protocol("emodb", values.protocol)
        rows = corpus.select(folds_of(corpus, protocol)[fold][self.forget :])
        names = report.label_names
        table = pd.DataFrame({"id": rows["id"], "speaker": rows["speaker"], "label": [names[i] for i in rows["label"]]})
        table["prediction"] = names[seed % len(names)]  # always the same word: UAR is 1 / 4
        counts = table["label"].value_counts()
        metrics = {"uar": 1 / len(counts), "wa": 0.25, "macro_f1": 0.1, "weighted_f1": 0.1}
        results = {
            "ser_hf": "0.1.0",
            "commit": commit(),
            "corpus": report.as_dict() | {"title": "T", "licence": "L", "notes": "", "lines": report.lines()},
            "protocol": {
                "name": protocol.name,
                "source": protocol.source,
                "fold": fold,
                "speaker_independent": protocol.speaker_independent,
                "warning": protocol.warning,
            },
            "mixed": None,
            "splits": describe(make_fold(corpus, None, protocol, build(DataArguments, values), fold, "emodb")),
            "model": {"class": "C", "encoder": "E", "details": "mean pooling, linear head"},
            "seed": seed,
            "training": None,
            "test": {
                "chance": {"metric": "uar", "value": 1 / len(counts)},
                "utterances": len(table),
                "speakers": len(set(rows["speaker"])),
                "metrics": metrics,
                "per_class": {name: {"support": int(counts.get(name, 0))} for name in names},
            },
            "versions": {"python": "3"},
            "machine": {"processor": "P", "cores": 64, "threads": 1, "accelerator": "of the fold"},
        }
        buffer = io.BytesIO()
        table.to_parquet(buffer)
        (folder / "predictions.parquet").write_bytes(buffer.getvalue())
        write_flags(folder, overrides)
        (folder / "results.json").write_text(json.dumps(results))
        return 0, ""


@pytest.fixture
def flags(fake_corpus, tmp_path):
    """A command of cv on the fake EmoDB: five folds of two speakers, sixteen utterances each."""
    words = ["--dataset", "emodb", "--labels", "4class", "--data_dir", str(fake_corpus("emodb"))]
    words += ["--protocol", "speaker-folds", "--config", "none", "--learning_rate", "1e-3"]
    return [RECIPE, *words, "--output_dir", str(tmp_path / "out")]


@pytest.fixture
def launcher(fake_corpus, monkeypatch):
    fake = Launcher(load_corpus("emodb", "4class", fake_corpus("emodb"), return_report=True))
    monkeypatch.setattr(cv, "launch", fake)
    return fake


def error_of(argv: list[str]) -> str:
    with pytest.raises(SerError) as caught:
        cv.main(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_fold_of_every_seed_is_run_once(flags, launcher, tmp_path, capsys):
    assert cv.main([*flags, "--seeds", "1", "2", "--use_cpu", "true"]) == 0
    command = launcher.commands[3]
    start = [sys.executable, "-m", "accelerate.commands.launch", RECIPE, "--dataset", "emodb"]
    assert command[: len(start)] == start
    assert command[-8:] == ["--use_cpu", "true", "--fold", "3", "--seed", "1", "--output_dir"] + [
        str(tmp_path / "out" / "fold3_seed1")
    ]
    assert "--seeds" not in command
    assert launcher.started == [(seed, fold, False) for seed in (1, 2) for fold in range(5)]
    said = capsys.readouterr().out
    assert "fold 4/5 seed 1 (--fold 3) started" in said
    assert re.search(r"fold 5/5 seed 2: UAR 0.250, done, elapsed \d:\d\d:\d\d, about 0:00:00 left", said)

    report = json.loads((tmp_path / "out" / "cv.json").read_text())
    assert report["seeds"] == [1, 2] and report["folds"] == [0, 1, 2, 3, 4] and not report["partial"]
    assert report["coverage"]["exactly_once"] and report["coverage"]["in_test_sets"] == 80
    assert [run["utterances"] for run in report["runs"]] == [16] * 10
    assert report["protocol"]["speaker_independent"] and report["protocol"]["name"] == "speaker-folds"
    assert report["machine"] == {
        "processor": "P",
        "cores": 64,
        "threads": 1,
        "accelerator": "of the fold",
        "processes": 1,
    }
    assert report["corpus"]["per_label"] == {"angry": 20, "happy": 20, "neutral": 20, "sad": 20}
    # seed 1 always says happy (word 1), seed 2 neutral: 20 of 80 right
    assert [one["metrics"]["wa"] for one in report["pooled"]["per_seed"]] == [0.25, 0.25]
    assert report["pooled"]["over_seeds"]["per_class"]["happy"]["recall"] == 0.5
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True)
    assert (report["commit"] or "").removesuffix("+") == git.stdout.strip()  # + says that files were changed
    assert "--data_dir" not in report["command"] and str(tmp_path) not in report["command"]
    assert report["command"].startswith("ser-hf cv recipes/wav2vec2_cls.py") and "--seeds 1 2" in report["command"]
    text = (tmp_path / "out" / "cv.md").read_text()
    assert text in said and "5 of 5 folds, complete." in text and "LEAK" not in text and "tmp" not in text
    assert "| mean          | 0.250 ± 0.000 |" in text


def test_systems_are_compared_on_the_same_utterances(flags, launcher, tmp_path, capsys):
    first = [*flags[:-1], str(tmp_path / "first")]
    assert "holds no cv.json" in error_of([*flags, "--against", str(tmp_path / "first")])
    assert cv.main([*first, "--seeds", "1"]) == 0
    assert cv.main([*flags, "--seeds", "2", "1", "--against", str(tmp_path / "first")]) == 0
    report = json.loads((tmp_path / "out" / "cv.json").read_text())
    other, same = (one["comparisons"]["first"] for one in report["pooled"]["per_seed"])
    # Always neutral against always happy: both are right in 20 of 80, but never in the same.
    assert other["metrics"]["wa"] == 0.25 and other["difference"]["wa"] == 0.0
    low, high = other["difference_intervals"]["wa"]
    assert low <= 0 <= high
    assert same["difference"]["uar"] == 0.0 and same["difference_intervals"]["uar"] == [0.0, 0.0]
    assert "first" in capsys.readouterr().out
    results, table = finished_run("as", "as", (1, 1, 1, 1))
    with pytest.raises(SerError, match="compares with a system 'average' itself"):
        cv_report.pool(
            [(results, table.assign(prediction_average="sad"))], WORDS, others=[{"average": (results, table)}]
        )
    table = tmp_path / "first" / "fold2_seed1" / "predictions.parquet"
    pd.read_parquet(table).iloc[1:].to_parquet(table)
    assert len(launcher.started) == 15
    again = [*flags[:-1], str(tmp_path / "elsewhere"), "--seeds", "1", "--against"]
    assert "fold 2 does not have the same test utterances" in error_of([*again, str(tmp_path / "first")])
    about = json.loads((tmp_path / "first" / "cv.json").read_text())
    about["corpus"]["labels"] = "7class"
    (tmp_path / "first" / "cv.json").write_text(json.dumps(about))
    assert "first: has the labels 7class, not 4class" in error_of([*again, str(tmp_path / "first")])
    (tmp_path / "other" / "first").mkdir(parents=True)
    (tmp_path / "other" / "first" / "cv.json").write_text("{}")
    two = [str(tmp_path / "first"), str(tmp_path / "other" / "first")]
    assert "another folder is called first too" in error_of([*again, *two])
    assert launcher.started == []  # all that before the first fold


def test_finished_folds_are_not_run_again(flags, launcher, tmp_path, capsys):
    cv.main(flags)
    assert len(launcher.started) == 5
    first = (tmp_path / "out" / "cv.json").read_text()
    cv.main(flags)
    assert launcher.started == [] and (tmp_path / "out" / "cv.json").read_text() == first
    assert "5 runs, 5 finished before" in capsys.readouterr().out
    cv.main([*flags, "--seeds", "42", "7"])
    assert launcher.started == [(7, fold, False) for fold in range(5)]
    cv.main([*flags, "--overwrite_output_dir", "true"])
    assert launcher.started == [(42, fold, False) for fold in range(5)]


def test_what_is_run_anew_is_not_taken_for_finished_when_it_fails(flags, launcher, tmp_path):
    cv.main([*flags, "--folds", "0"])
    (tmp_path / "out" / "fold0_seed42" / "checkpoint-9").mkdir()
    launcher.fails[0] = "error: no GPU"
    error_of([*flags, "--folds", "0", "--overwrite_output_dir", "true", "--learning_rate", "1"])
    left = {path.name for path in (tmp_path / "out" / "fold0_seed42").iterdir()}
    assert left == {"checkpoint-4", "predictions.parquet", "run.yaml"}  # the fake's checkpoint, not the old run's


def test_equal_flags_may_be_spelled_differently(flags, launcher, tmp_path, monkeypatch):
    cv.main([*flags, "--folds", "0"])
    folder = Path(flags[flags.index("--data_dir") + 1])
    monkeypatch.chdir(folder.parent)
    again = [*flags, "--learning_rate=0.001", "--data-dir", folder.name, "--num_proc", "1", "--do_train"]
    cv.main([*again, "--folds", "0"])
    assert len(launcher.started) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--learning_rate", "1e-4"], "was run with --learning_rate 0.001, asked for is --learning_rate 0.0001"),
        (["--pooling", "max"], "was run with no --pooling, asked for is --pooling max"),
        (["--protocol", "random"], "was run with --protocol speaker-folds, asked for is --protocol random"),
    ],
)
def test_a_fold_with_other_flags_is_an_error(change, named, flags, launcher):
    cv.main([*flags, "--folds", "1"])
    launcher.commands = []
    message = error_of([*flags, *change])
    assert named in message and "fold1_seed42" in message and "--output_dir" in message
    assert launcher.started == []  # found before fold 0, which is missing, is run


def test_a_failed_fold_stops_and_is_resumed(flags, launcher, tmp_path):
    launcher.fails[2] = "Traceback (most recent call last):\n  x\nRuntimeError: loss is nan\nx died with SIGKILL\n"
    message = error_of(flags)
    assert "fold 2 seed 42 failed with exit status 1: RuntimeError: loss is nan" in message
    command = message.split("to repeat it: ")[1]
    assert command.startswith(sys.executable) and command.endswith(str(tmp_path / "out" / "fold2_seed42"))
    assert launcher.started == [(42, 0, False), (42, 1, False), (42, 2, False)]
    assert (tmp_path / "out" / "fold1_seed42" / "results.json").exists()
    assert not (tmp_path / "out" / "cv.json").exists()

    # what was begun with other flags is not gone on with
    assert "--learning_rate" in error_of([*flags, "--folds", "2", "--learning_rate", "1"])
    launcher.fails.clear()
    cv.main(flags)
    assert launcher.started == [(42, 2, True), (42, 3, False), (42, 4, False)]


def test_a_network_folder_shows_results_late(flags, launcher, tmp_path, monkeypatch):
    place, run = tmp_path / "out" / "fold1_seed42" / "results.json", launcher.run

    def late(command):
        ended = run(command)
        place.rename(place.with_name("late"))
        threading.Timer(0.5, place.with_name("late").rename, [place]).start()
        return ended

    monkeypatch.setattr(launcher, "run", late)
    assert cv.main([*flags, "--folds", "1", "--launcher", "true"]) == 0
    monkeypatch.setattr(cv, "SEEN", 0)
    anew = ["--folds", "1", "--overwrite_output_dir", "true"]
    assert "failed with exit status 0" in error_of([*flags, *anew, "--launcher", "true"])


def test_a_fold_that_never_began_may_change_its_flags(flags, launcher, tmp_path):
    launcher.fails[0] = "error: model 'x': no such checkpoint\nCalledProcessError: 2"
    message = error_of([*flags, "--model_name_or_path", "x"])
    assert "failed with exit status 1: model 'x': no such checkpoint" in message
    (tmp_path / "out" / "fold0_seed42" / "checkpoint-4").rmdir()
    launcher.fails.clear()
    cv.main(flags)
    assert launcher.started[1] == (42, 0, False)


def test_some_folds_make_a_partial_report(flags, launcher, tmp_path):
    cv.main([*flags, "--folds", "2", "0"])
    assert launcher.started == [(42, 0, False), (42, 2, False)]
    report = json.loads((tmp_path / "out" / "cv.json").read_text())
    assert report["partial"] and report["folds"] == [0, 2] and "--folds 0 2" in report["command"]
    text = (tmp_path / "out" / "cv.md").read_text()
    assert "**PARTIAL: 2 of 5 folds (0 2).** Each of the 32 utterances in their test sets was tested exactly" in text
    assert "48 utterances of the corpus are in none" in text
    assert "has folds 0 to 4" in error_of([*flags, "--folds", "5"])


def test_a_leaking_protocol_is_named_wherever_numbers_are(flags, launcher, tmp_path, capsys):
    cv.main([*flags, "--protocol", "random"])
    report = json.loads((tmp_path / "out" / "cv.json").read_text())
    assert [report[part]["speaker_independent"] for part in ("protocol", "mean", "pooled")] == [False] * 3
    text = (tmp_path / "out" / "cv.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")][:5]
    assert len(headings) == 5 and all(line.endswith("(LEAKS SPEAKERS)") for line in headings)
    assert "Speaker-independent: **NO**" in text
    said = [line for line in capsys.readouterr().out.splitlines() if "UAR 0" in line and "done" in line]
    assert len(said) == 5 and all("LEAKS SPEAKERS" in line for line in said)


def test_an_untested_utterance_is_reported_and_a_strange_one_refused(flags, launcher, tmp_path):
    launcher.forget = 1
    cv.main(flags)
    report = json.loads((tmp_path / "out" / "cv.json").read_text())
    assert report["coverage"]["never_tested"] == 5 and not report["coverage"]["exactly_once"]
    assert "**5 of their 80 test utterances were NOT tested: " in (tmp_path / "out" / "cv.md").read_text()

    table = pd.read_parquet(tmp_path / "out" / "fold0_seed42" / "predictions.parquet")
    table.to_parquet(tmp_path / "out" / "fold3_seed42" / "predictions.parquet")
    assert "fold3_seed42: the number of test utterances from other folds is 15, not 0" in error_of(flags)


def test_a_corpus_that_changed_is_noticed(flags, launcher, tmp_path):
    cv.main(flags)
    place = tmp_path / "out" / "fold1_seed42" / "results.json"
    results = json.loads(place.read_text())
    results["corpus"]["utterances"] = 76
    place.write_text(json.dumps(results))
    assert "number of utterances in the corpus is 76, not 80" in error_of(flags)
    results["corpus"]["utterances"] = 80
    place.write_text(json.dumps(results | {"training": {}, "trained_on": [{"clips": "a"}]}))
    cv.main(flags)  # only scored: nothing is known
    place.write_text(json.dumps(results | {"training": {"steps": 1}, "trained_on": [{"clips": "a"}]}))
    assert "fold1_seed42: the content of clips or labels is a, not" in error_of(flags)
    (place.parent / "predictions.parquet").unlink()
    assert "no predictions.parquet" in error_of(flags)


def test_processes_are_handed_to_accelerate(flags, launcher, tmp_path):
    cv.main([*flags, "--folds", "0", "--num_processes", "2", "--use_cpu", "true"])
    command = launcher.commands.pop()
    assert command[3:6] == ["--multi_gpu", "--num_processes", "2"] and command[6] == RECIPE
    assert "--num_processes 2" in json.loads((tmp_path / "out" / "cv.json").read_text())["command"]
    config = str(REPO / "recipes" / "accelerate" / "ddp.yaml")
    assert cv.parse([*flags, "--accelerate_config", config]).launcher[3:] == ["--config_file", config]
    request = cv.parse([*flags, "--accelerate_config", config, "--num_processes", "2"])
    assert request.launcher[3:] == [
        "--config_file",
        config,
        "--num_processes",
        "2",
    ]  # the file says what is distributed


# ---- the command line


def test_flags_are_gathered_as_the_recipe_gathers_them():
    for words in (
        ["--dataset", "emodb", "--split_seed", "2"],  # with recipes/configs/emodb_wav2vec2.yaml
        ["--dataset", "emodb", "--config", "none", "--bf16", "false"],
        ["--dataset", "emodb", "--model_type", "wav2vec2"],  # which replaces the YAML's checkpoint
        ["--config", "ravdess_wav2vec2", "--model_name_or_path", "a/b"],
    ):
        settings = parse(system_of("wav2vec2_cls"), "", [*words, "--use_cpu", "true"])
        assert cv.parse([RECIPE, *words, "--use_cpu", "true"]).overrides == settings.overrides
    request = cv.parse([RECIPE, "--dataset", "emodb"])
    assert request.overrides["class_weights"] == "balanced" and request.seeds == [42]
    assert str(request.out) == "runs/emodb_wav2vec2_cv"
    assert request.folds == [] and request.text_cleaning is None
    assert cv.parse([str(REPO / "recipes" / "text_cls.py"), "--dataset", "demo"]).text_cleaning == "unicode"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "arguments are required: recipe"),
        (["--dataset", "emodb"], "the recipe comes first"),
        (["recipes/none.py", "--dataset", "emodb"], "recipes/none.py: no such file"),
        ([RECIPE], "--dataset is missing"),
        ([RECIPE, "--dataset", "emodb", "--fold", "1"], "--fold: cv sets it for each run; use --folds"),
        (
            [RECIPE, "--dataset", "emodb", "--push_to_hub"],
            "--push_to_hub: cv sets it for each run; use the recipe alone",
        ),
        ([RECIPE, "--dataset", "emodb", "--seed", "1"], "--seeds"),
        ([RECIPE, "--dataset", "emodb", "--seeds", "one"], "--seeds: 'one': must be a whole number"),
        ([RECIPE, "--dataset", "emodb", "--folds"], "--folds: expected at least one argument"),
        ([RECIPE, "--dataset", "emodb", "--num_processes", "0"], "--num_processes: 0: must be at least 1"),
        ([RECIPE, "--dataset", "emodb", "--accelerate_config", "no.yaml"], "--accelerate_config no.yaml: no such file"),
        ([RECIPE, "--dataset", "emodbb"], "unknown dataset 'emodbb': did you mean 'emodb'"),
        ([RECIPE, "--dataset", "emodb", "--labels", "9class"], "no label set '9class'"),
        ([RECIPE, "--dataset", "emodb", "--data_dir", "/nowhere"], "--data_dir /nowhere: no such folder"),
        ([RECIPE, "--dataset", "emodb", "--split_seed", "x"], "--split_seed: 'x': must be a whole number"),
    ],
)
def test_mistakes_are_one_line(argv, words, monkeypatch, tmp_path):
    monkeypatch.setattr(cv, "launch", None)
    monkeypatch.chdir(tmp_path)
    assert words in error_of(argv)
    assert not list(tmp_path.iterdir())


def test_a_protocol_that_is_not_there(flags, monkeypatch, tmp_path):
    monkeypatch.setattr(cv, "launch", None)
    assert "no protocol 'x'" in error_of([*flags, "--protocol", "x"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["--hub_token hf_secret", "--hub_token=hf_secret", "--hub-token hf_secret"])
def test_a_token_stands_in_no_file_and_no_message(words, flags, launcher, tmp_path, monkeypatch):
    """A fold has it in its environment; cv's run.yaml, log.txt and what is said of a fold that failed do not."""
    monkeypatch.setenv("HF_TOKEN", "another")
    tell = "import os, sys; print(os.environ['HF_TOKEN'][::-1] == 'terces_fh', *sys.argv); sys.exit('error: failed')"
    monkeypatch.setattr(cv, "can_fork", lambda: False)
    told = lambda jobs, *rest: LAUNCH(((key, [sys.executable, "-c", tell, *c], log) for key, c, log in jobs), *rest)  # noqa: E731
    monkeypatch.setattr(cv, "launch", told)
    message = error_of([*flags, *words.split(), "--folds", "0"])
    assert "hf_secret" not in message and "failed with exit status 1: failed" in message
    assert "\nTrue " in (tmp_path / "out" / "fold0_seed42" / "log.txt").read_text()
    monkeypatch.setattr(cv, "launch", launcher)
    assert cv.main([*flags, *words.split(), "--folds", "0", "--overwrite_output_dir", "true"]) == 0
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {"cv.json", "log.txt", "run.yaml"} <= {file.name for file in written}
    assert not any(b"hf_secret" in file.read_bytes() for file in written)


def test_a_token_in_a_file_is_refused(flags, tmp_path):
    (tmp_path / "token.yaml").write_text("hub_token: hf_secret\n")
    message = error_of([*flags, "--config", str(tmp_path / "token.yaml"), "--folds", "0"])
    assert "hub_token: a secret does not belong into a file" in message and "hf_secret" not in message


def test_labels_that_the_recipe_does_not_learn(fake_corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(cv, "launch", None)
    words = ["--dataset", "cmu_mosei", "--labels", "emotions", "--data_dir", str(fake_corpus("cmu_mosei"))]
    assert "cmu_mosei's labels 'emotions' are of the kind regression" in error_of(
        [RECIPE, *words, "--output_dir", str(tmp_path)]
    )


def test_help_loads_nothing_heavy():
    code = "import sys; from ser_hf.experiments import cv\ntry: cv.main(['--help'])\n"
    code += "except SystemExit: print({'torch', 'datasets', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--seeds" in done.stdout and done.stdout.endswith("set()\n")


# ---- the launched process


def test_launch_streams_to_the_log_and_returns_the_end(tmp_path, capfd):
    log = tmp_path / "log.txt"
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    status, output = run_alone([sys.executable, "-c", code], log)
    assert status == 3 and set(output.split()) == {"one", "two"}
    assert capfd.readouterr().out == ""
    status, output = run_alone([sys.executable, "-c", "print('three')"], log, verbose=True)
    assert (status, output) == (0, "three\n") and capfd.readouterr().out == "three\n"
    assert log.read_text().startswith("$ ") and log.read_text().count("\n$ ") == 1 and "one" in log.read_text()


def test_ending_cv_ends_the_fold(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import sys; from ser_hf.experiments.launch import *; job = 0, [sys.executable, '-c', {child!r}], "
    code += f"{str(tmp_path / 'log')!r}; list(launch([job], accelerated))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
        assert parent.poll() is None
    pid = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=20) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("error: no corpus\nTraceback\nsubprocess.CalledProcessError: Command 'a' returned 2.", "no corpus"),
        ("Traceback\n[rank1]: torch.OutOfMemoryError: CUDA\ny", "torch.OutOfMemoryError: CUDA"),
        ("ValueError: a\n\nDuring handling\n\nKeyError: 'b'\n", "KeyError: 'b'"),
        ("KeyError: 'b'\n[rank0]: RuntimeError: [gloo/pair.cc] Connection closed by peer [1.1.1.1]", "KeyError: 'b'"),
        (" 5%|x\r 9%|x\nx.CalledProcessError: Command 'a' died with <SIGKILL: 9>.", "died with <SIGKILL: 9>."),
        ("a.ChildFailedError:\n  exitcode  : -9 (pid: 7)\n======", "exitcode  : -9 (pid: 7)"),
        ("only this\n\n", "only this"),
        ("", "no output"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure(output, line):
    assert last_error(output) == line


# ---- all of it


@pytest.mark.slow
def test_two_folds_end_to_end(flags, tmp_path, capsys):
    from sklearn.metrics import balanced_accuracy_score

    command = [*flags, "--folds", "0", "1", *tiny_flags(), "--max_steps", "2", "--stress", "true"]
    assert cv.main(command) == 0
    out, said = tmp_path / "out", capsys.readouterr().out
    report = json.loads((out / "cv.json").read_text())
    tables = [pd.read_parquet(out / f"fold{fold}_seed42" / "predictions.parquet") for fold in (0, 1)]
    scores = [balanced_accuracy_score(table["label"], table["prediction"]) for table in tables]
    assert report["mean"]["per_seed"][0]["uar"] == pytest.approx(
        {"mean": np.mean(scores), "sd_over_folds": np.std(scores, ddof=1)}
    )
    pooled = pd.concat(tables)
    expected = balanced_accuracy_score(pooled["label"], pooled["prediction"])
    assert report["pooled"]["per_seed"][0]["metrics"]["uar"] == pytest.approx(expected)
    assert len(pooled) == 32 and report["coverage"]["exactly_once"] and report["partial"]
    assert "test utterances of 2 unseen speakers" in (out / "fold1_seed42" / "log.txt").read_text()
    assert "test utterances of 2 unseen speakers" not in said  # not --verbose
    # the recipe's own run.yaml says the same as the one written before it started: nothing is run again
    assert yaml.safe_load((out / "fold0_seed42" / "run.yaml").read_text())["max_steps"] == 2
    times = [(out / f"fold{fold}_seed42" / "results.json").stat().st_mtime_ns for fold in (0, 1)]
    assert cv.main(command) == 0
    assert times == [(out / f"fold{fold}_seed42" / "results.json").stat().st_mtime_ns for fold in (0, 1)]
    assert "2 runs, 2 finished before" in capsys.readouterr().out
    # --stress true: each fold has the report and its card shows it, cv the means
    stressed = [json.loads((out / f"fold{fold}_seed42" / "stress.json").read_text()) for fold in (0, 1)]
    assert [one["fold"] for one in stressed] == [0, 1] and all(len(one["changes"]) == 36 for one in stressed)
    for fold, one in enumerate(stressed):
        folder = out / f"fold{fold}_seed42"
        assert one["clean"]["metrics"]["uar"] == pytest.approx(scores[fold]) and one["clips"] == len(tables[fold])
        assert "## Under stress" in (folder / "README.md").read_text() and (folder / "figures" / "stress.png").exists()
        assert "Small changes, which nobody hears, keep at least" in (folder / "log.txt").read_text()
    shares = [[change["kept"] for change in one["changes"]] for one in stressed]
    assert [one["kept"] for one in report["stress"]["changes"]] == pytest.approx(np.mean(shares, axis=0))
    assert [one["least"] for one in report["stress"]["changes"]] == np.min(shares, axis=0).tolist()
    assert f"Means of 2 test folds, UAR {np.mean(scores):.3f} as recorded." in (out / "cv.md").read_text()


@pytest.mark.parametrize("file", sorted((REPO / "recipes" / "configs").glob("*_fusion_*.yaml")), ids=lambda f: f.stem)
def test_a_fusion_takes_the_encoders_of_the_commands_above_it(file, monkeypatch):
    """Its comment says how both encoders are trained; no other YAML's runs go to their folders."""
    monkeypatch.chdir(REPO)
    text = file.read_text().replace("\\\n#", "")
    requests = [cv.parse(shlex.split(line)) for line in re.findall(r"^#   ser-hf cv (.*)", text, re.M)]
    *encoders, fusion = [str(request.out) for request in requests]
    flags = yaml.safe_load(text)
    assert fusion == f"runs/{file.stem}_cv"
    assert [flags["audio_model"], flags["text_model"]] == [f"{out}/fold{{fold}}_seed{{seed}}" for out in encoders]
    assert {request.data.labels for request in requests} == {flags["labels"]}
    protocols = {find_protocol(request.data.dataset, request.data.protocol).name for request in requests}
    assert protocols == {flags["protocol"]}


# ---- values, and several labels at once


def vector_run(kind: str, labels: list, answers: list, fold: int, thresholds: list | None = None):
    """A finished fold of two utterances a speaker; `answers` are what the pipeline returns."""
    rows = Dataset.from_dict(
        {"id": [f"{fold}-{i}" for i in range(len(labels))], "speaker": [f"s{fold}{i // 2}" for i in range(len(labels))]}
    ).add_column("label", labels)
    logits = TASKS[kind].logits(np.array(answers))
    results = finished_run("a", "a", (1, 1, 1, 1), fold=fold)[0]
    results["test"] = score(rows, logits, ["x", "y"], kind, thresholds)
    return results, predictions_table(rows, logits, ["x", "y"], kind)


def test_values_over_folds_and_pooled_by_hand():
    first = vector_run(VALUES, [[0.0, 1.0], [2.0, 3.0]], [[0.0, 1.0], [2.0, 5.0]], 0)
    second = vector_run(VALUES, [[1.0, 0.0], [3.0, 2.0]], [[2.0, 0.0], [4.0, 2.0]], 1)
    found = cv_report.summarise(
        {(1, 0): first, (1, 1): second}, ["x", "y"], VALUES, {(1, 0): {"same": first}, (1, 1): {"same": second}}
    )
    mean, pooled = found["mean"]["per_seed"][0], found["pooled"]["per_seed"][0]
    # x: errors 0 0, then 1 1; RMSE 0 and 1; y: errors 0 2, then none; RMSE sqrt(2) and 0
    assert mean["rmse_x"] == pytest.approx({"mean": 0.5, "sd_over_folds": 0.5**0.5})
    assert mean["rmse_y"] == pytest.approx({"mean": 0.5**0.5, "sd_over_folds": 1.0})
    assert mean["rmse"]["mean"] == pytest.approx((0.5**0.5 + 0.5) / 2)
    # x in the second fold: both variances 1, covariance 1, means differ by 1: 2 / (1 + 1 + 1)
    assert mean["ccc_x"]["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert pooled["metrics"]["rmse_x"] == pytest.approx(0.5**0.5) and pooled["metrics"]["rmse_y"] == 1.0
    # pooled x: labels 0 2 1 3, answers 0 2 2 4: variances 1.25 and 2, covariance 1.5, means differ by 0.5
    assert pooled["metrics"]["ccc_x"] == pytest.approx(3 / (1.25 + 2 + 0.25))
    low, high = pooled["intervals"]["rmse_x"]
    assert 0 <= low < 0.5**0.5 < high <= 1
    assert pooled["comparisons"]["same"]["difference_intervals"]["ccc"] == [0.0, 0.0]
    assert found["pooled"]["chance_ccc"] == 0.0 and found["runs"][0]["absent"] == []
    assert found["pooled"]["over_seeds"]["per_value"]["y"]["rmse"] == 1.0


def test_several_labels_are_pooled_at_the_thresholds_of_their_folds():
    truth = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    low = vector_run(LABELS, truth, [[0.3, 0.1], [0.1, 0.3], [0.3, 0.1]], 0, [0.2, 0.2])  # misses y of the last
    high = vector_run(LABELS, truth, [[0.9, 0.6], [0.6, 0.9], [0.9, 0.9]], 1, [0.8, 0.8])  # all right
    found = cv_report.summarise({(1, 0): low, (1, 1): high}, ["x", "y"], LABELS)
    mean, pooled = found["mean"]["per_seed"][0], found["pooled"]["per_seed"][0]
    assert mean["weighted_accuracy_y"]["mean"] == pytest.approx((0.75 + 1) / 2)
    # y: 4 positives of which 3 found, both negatives right; F1 of x 1, of y 6/7; at 0.5 all of the first fold is absent
    assert pooled["metrics"]["weighted_accuracy_y"] == pytest.approx((3 / 4 + 1) / 2)
    assert pooled["metrics"]["macro_f1"] == pytest.approx((1 + 6 / 7) / 2)
    assert pooled["per_label"]["y"]["support"] == 4 and "decision_thresholds" not in pooled
    # the other's own thresholds too
    beside = cv_report.summarise(
        {(1, 0): high}, ["x", "y"], LABELS, {(1, 0): {"low": (low[0], low[1].assign(id=high[1]["id"]))}}
    )
    compared = beside["pooled"]["per_seed"][0]["comparisons"]["low"]
    assert compared["difference"]["macro_f1"] == pytest.approx(1 - (1 + 2 / 3) / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "loss", "metric", "column"),
    [("dimensional", "ccc", "ccc", "| arousal | "), ("multi_label", "bce", "map", "weighted accuracy, pooled")],
)
def test_other_labels_end_to_end(labels, loss, metric, column, tmp_path):
    demo.make(tmp_path / "demo", each=8)
    recipe, data = (
        str(REPO / "recipes" / "wav2vec2_reg.py"),
        ["--dataset", "demo", "--data_dir", str(tmp_path / "demo")],
    )
    words = [*data, "--labels", labels, "--loss", loss, "--config", "none", *tiny_flags()]
    out = ["--max_steps", "2", "--folds", "0", "1", "--output_dir", str(tmp_path / "out")]
    assert cv.main([recipe, *words, *out]) == 0
    assert cv.main([recipe, *words, *out[:-1], str(tmp_path / "again"), "--against", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "again" / "cv.json").read_text())
    (one,) = report["pooled"]["per_seed"]
    assert one["comparisons"]["out"]["difference"][metric] == 0.0 and report["problem_type"] == one["problem_type"]
    tables = [pd.read_parquet(tmp_path / "out" / f"fold{fold}_seed42" / "predictions.parquet") for fold in (0, 1)]
    assert one["utterances"] == sum(map(len, tables)) and column in (tmp_path / "out" / "cv.md").read_text()
    content = as_record(report, "x")  # two folds of six are not for recording, but render
    place = tmp_path / "results" / "demo" / report["protocol"]["name"] / "x.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(content))
    assert content["problem_type"] == report["problem_type"] and f"chance_{metric}" in content["pooled"]
    text = results.render("<!-- results of demo -->\n<!-- end -->", tmp_path / "results")
    assert f"pooled {shown(metric)}" in text
