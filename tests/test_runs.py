"""How a run starts, goes on from a checkpoint, is trained on and refused; who holds a folder; who ends with whom."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import REPO, settings_of, tiny_flags
from ser_hf import SerError, files
from ser_hf.training import output, run
from ser_hf.training.run import select_on_validation

EPOCHS = ("--num_train_epochs", "3", "--batch_seconds", "10")


@pytest.fixture(scope="module")
def here(fake_corpus):
    """`here(out, *flags)` trains wav2vec2_cls on the demo corpus in this process; the last of equal flags counts. It
    returns the results, or the message if the run is refused."""
    corpus = ("--dataset", "demo", "--data_dir", str(fake_corpus("demo")))

    def train(out: Path, *flags: str, model=tiny_flags()) -> dict | str:  # noqa: B008
        with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as streams:
            argv = [*corpus, *model, *EPOCHS, "--output_dir", str(out), *map(str, flags)]
            patch.setattr(sys, "argv", ["wav2vec2_cls.py", *argv])
            said = Said()
            streams.setattr(sys, "stderr", said)
            try:
                runpy.run_path(str(REPO / "recipes" / "wav2vec2_cls.py"), run_name="__main__")
            except SystemExit as stop:
                assert stop.code == 2, stop.code
                (line,) = [text for text in said.text.splitlines() if text.startswith("error: ")]
                return line
        return json.loads((out / "results.json").read_text())

    return train


class Said:
    def __init__(self):
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


@pytest.fixture(scope="module")
def trained(here, tmp_path_factory):
    """A finished run of three epochs of two updates, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert here(folder, "--save_total_limit", "9")["training"]["steps"] == 6
    return folder


@pytest.fixture
def unfinished(trained, tmp_path):
    """The same run without its end: after its second checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("record.json", "run.yaml"):
        shutil.copy(trained / name, folder / name)
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(trained / name, folder / name)
    return folder


def assert_same(first: Path, second: Path) -> None:
    one, two = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    pd.testing.assert_frame_equal(*(pd.read_parquet(folder / "predictions.parquet") for folder in (first, second)))


# ---- what a checkpoint was trained on


def test_a_checkpoint_of_another_fold_is_no_way_into_this_one(here, trained, unfinished, tmp_path):
    checkpoint = trained / "checkpoint-2"
    record = output.read_record(checkpoint)
    assert record["trained_on"] == json.loads((trained / "results.json").read_text())["trained_on"]
    assert record["trained_on"][0]["fold"] == 0 and len(record["trained_on"][0]["clips"]) == 32

    other, out = ("--fold", "1"), tmp_path / "out"
    refused = r"^error: --resume_from_checkpoint \S*checkpoint-\d: was trained with fold 0 and not 1; choose another"
    assert re.match(refused, here(out, *other, "--resume_from_checkpoint", checkpoint))
    assert re.match(refused, here(unfinished, *other, "--resume_from_checkpoint", "true"))
    assert output.read_record(unfinished) == output.read_record(trained)  # it is what it was
    seed = here(unfinished, "--seed", "7", "--resume_from_checkpoint", "true")
    assert "was trained with seed 42 and not 7" in seed
    # as weights to start from: beside its run, alone elsewhere, and while it is only half written
    shutil.copytree(checkpoint, tmp_path / "alone")
    shutil.copytree(checkpoint, tmp_path / "half" / "checkpoint-2")
    shutil.copy(unfinished / "record.json", tmp_path / "half")
    (tmp_path / "half" / "checkpoint-2" / "record.json").unlink()
    for name in (unfinished / "checkpoint-2", tmp_path / "alone", tmp_path / "half" / "checkpoint-2"):
        for train in ("true", "false"):
            flags = ("--use_cpu", "true", "--config", "none", "--model_name_or_path", str(name))
            line = here(out, *other, "--do_train", train, model=flags)
            assert re.match(r"^error: leak: .* was trained on demo with fold 0 and not 1, .*this very split", line)


def test_changed_clips_or_labels_are_not_gone_on_with(here, unfinished, fake_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(fake_corpus("demo"), corpus)
    table = (corpus / "metadata.csv").read_text()
    (corpus / "metadata.csv").write_text(table.replace("f3_01.wav,sad", "f3_01.wav,happy"))
    line = here(unfinished, "--data_dir", corpus, "--resume_from_checkpoint", "true")
    assert "was trained with other clips or labels; choose another" in line


# ---- resuming


def test_a_half_written_checkpoint_is_removed_and_the_last_complete_one_taken(here, trained, unfinished, capsys):
    shutil.copytree(trained / "checkpoint-6", unfinished / "checkpoint-6")
    (unfinished / "checkpoint-6" / "record.json").unlink()
    (unfinished / ".saving-abc").mkdir()
    (unfinished / ".run.yaml.17.half").touch()
    results = here(unfinished, "--save_total_limit", "9", "--resume_from_checkpoint", "true")
    assert f"{unfinished / 'checkpoint-6'} is incomplete: removed" in capsys.readouterr().out
    assert results["training"]["resumed"]
    assert_same(trained, unfinished)
    listed = [sorted(str(file.relative_to(run)) for file in run.rglob("*")) for run in (trained, unfinished)]
    assert listed[0] == listed[1]  # nothing of the interruption is left, nor a lock


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: [file.unlink() for file in folder.iterdir()],
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "trainer_state.json").unlink(),
        lambda folder: (folder / "rng_state.pth").unlink(),
        lambda folder: cut(folder / "optimizer.pt"),
        lambda folder: cut(folder / "record.json"),
    ],
)
def test_what_makes_a_checkpoint_incomplete(harm, here, unfinished, tmp_path):
    checkpoint = unfinished / "checkpoint-4"
    assert output.complete(checkpoint)
    harm(checkpoint)
    assert not output.complete(checkpoint)
    line = here(tmp_path / "out", "--resume_from_checkpoint", checkpoint)
    assert re.match(r"^error: --resume_from_checkpoint \S*checkpoint-4: is incomplete .*; choose another", line)
    assert output.halves(unfinished) == [checkpoint]


def test_a_checkpoint_without_the_optimizer_is_not_resumed(here, tmp_path):
    here(tmp_path / "run", "--save_only_model", "true", "--max_steps", "2")
    line = here(tmp_path / "out", "--resume_from_checkpoint", tmp_path / "run" / "checkpoint-2")
    assert "has no state of the optimizer (--save_only_model true)" in line


def test_a_checkpoint_of_more_processes_is_not_resumed_in_silence(here, unfinished, capsys):
    last = unfinished / "checkpoint-4"
    (last / "rng_state.pth").rename(last / "rng_state_0.pth")
    output.seal(last)
    assert here(unfinished, "--resume_from_checkpoint", "true")["training"]["resumed"]
    assert f"{last} was saved by another number of processes: random numbers" in capsys.readouterr().out


def test_checkpoints_of_an_earlier_version_are_not_removed(here, unfinished):
    for record in unfinished.rglob("record.json"):
        record.unlink()
    line = here(unfinished, "--resume_from_checkpoint", "true")
    assert "checkpoint-4: has no record.json that says what it was trained on" in line
    assert (unfinished / "checkpoint-4" / "model.safetensors").exists()


# ---- what was selected is what is reported


def test_the_last_model_is_reported_as_the_last(here, trained, tmp_path):
    out = tmp_path / "last"
    trained_in = here(out, "--load_best_model_at_end", "false")["training"]
    assert [trained_in[f"{key}"] for key in ("selected_step", "selected_by", "best_validation")] == [
        6,
        "last epoch",
        None,
    ]
    one, two = load_file(out / "model.safetensors"), load_file(trained / "checkpoint-6" / "model.safetensors")
    assert torch.equal(one["classifier.weight"], two["ser_classifier.weight"])
    assert "The model is that of the last epoch: nothing was selected" in (out / "README.md").read_text()
    assert "selected on validation, by UAR" in (trained / "README.md").read_text()


@pytest.mark.parametrize("gone", [False, True])
def test_the_best_checkpoint_is_looked_for_where_the_run_is_now(gone, here, trained, unfinished):
    """A run that was moved keeps its best checkpoint; one that was deleted by hand is not reported."""
    file = unfinished / "checkpoint-4" / "trainer_state.json"
    state = json.loads(file.read_text())
    assert state["best_global_step"] == 2  # else nothing is tested here
    state["best_model_checkpoint"] = "/nowhere/checkpoint-2"
    file.write_text(json.dumps(state))
    output.seal(file.parent)
    if gone:
        shutil.rmtree(unfinished / "checkpoint-2")
    reported = here(unfinished, "--save_total_limit", "9", "--resume_from_checkpoint", "true")["training"]
    log = json.loads((unfinished / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    values = {entry["step"]: entry["eval_uar"] for entry in log if "eval_uar" in entry}
    assert reported["selected_step"] == (6 if gone else 2) == min(step for step in values if step >= (6 if gone else 2))
    assert reported["best_validation"] == values[reported["selected_step"]]
    chosen = load_file(unfinished / f"checkpoint-{reported['selected_step']}" / "model.safetensors")
    saved = load_file(unfinished / "model.safetensors")
    assert torch.equal(saved["classifier.weight"], chosen["ser_classifier.weight"])


def test_flags_of_the_selection_are_checked():
    def training(*flags: str):
        settings = settings_of("text_cls", "--dataset", "demo", *flags)
        return select_on_validation(settings, "single_label_classification", ["a", "b"], True).training

    steps = ("--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "5", "--save_steps")
    assert training(*steps, "5").save_steps == 5
    with pytest.raises(SerError, match="--save_steps 10 and --eval_steps 5: must be equal"):
        training(*steps, "10")
    with pytest.raises(SerError, match="--greater_is_better False: is wrong for uar"):
        training("--metric_for_best_model", "uar", "--greater_is_better", "false")


# ---- a finished run


def test_a_finished_run_is_trained_on_and_never_written_over(here, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "notes.txt").write_text("mine")
    more = ("--save_total_limit", "9", "--resume_from_checkpoint", "true")
    refused = "holds a finished run: choose another, --overwrite_output_dir true starts anew, --resume"
    assert refused in here(run) and refused in here(run, *more)
    given = ("--use_cpu", "true", "--config", "none", "--model_name_or_path", str(run))
    for flags in ((), ("--overwrite_output_dir", "true")):
        assert "holds the checkpoint of --model_name_or_path" in here(run, "--do_train", "false", *flags, model=given)
    assert "removes what --resume_from_checkpoint goes on from" in here(run, *more, "--overwrite_output_dir", "true")
    before = (trained / "results.json").read_bytes()
    assert (run / "results.json").read_bytes() == before

    results = here(run, *more, "--num_train_epochs", "4")
    assert results["training"]["steps"] == 8 and results["training"]["resumed"]
    assert yaml.safe_load((run / "run.yaml").read_text())["num_train_epochs"] == 4
    assert refused in here(run, *more, "--num_train_epochs", "4")

    # anew, with another head: nothing of the old run is left, all of the user's is
    (run / "figures" / "mine.png").touch()
    for name in ("tokenizer.json", "modeling_old.py"):  # of an earlier kind of model
        (run / name).touch()
    record = output.read_record(run)
    output.write_record(run, record["trained_on"], record["files"] | {"tokenizer.json": 0, "modeling_old.py": 0})
    here(run, "--overwrite_output_dir", "true", "--max_steps", "2")
    left = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and "checkpoint" not in str(file)}
    whole = {str(f.relative_to(trained)) for f in trained.rglob("*") if f.is_file() and "checkpoint" not in str(f)}
    assert left == whole | {"notes.txt", "figures/mine.png"}
    assert [path.name for path in output.checkpoints_of(run)] == ["checkpoint-2"]


def test_files_of_the_user_stay(here, tmp_path):
    """A README, another program's logs, a copy of a checkpoint: before, in and after a run in their folder."""
    mine = ("README.md", "runs/a/events.out.tfevents.1.host", "checkpoint-mine/model.safetensors", "checkpoint-1.txt")
    for name in mine:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    refused = "holds README.md, which no run wrote, and which this one would write over or push: choose an empty folder"
    assert refused in here(tmp_path / "run")
    (tmp_path / "run" / "README.md").rename(tmp_path / "README.md")
    os.utime(tmp_path / "run" / "checkpoint-mine", (0, 0))
    results = here(tmp_path / "run", "--save_total_limit", "1")
    assert all((tmp_path / "run" / name).read_text() == "mine" for name in mine[1:])
    steps = {results["training"]["selected_step"], results["training"]["steps"]}
    assert {path.name for path in output.checkpoints_of(tmp_path / "run")} == {f"checkpoint-{n}" for n in steps}


def test_what_a_record_names_outside_its_folder_is_not_removed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine.txt").touch()
    names = {"../mine.txt": 0, str(tmp_path / "mine.txt"): 0, "figures/own.png": 0}
    output.write_record(tmp_path / "run", [], names)
    output.remove_run(tmp_path / "run")
    assert (tmp_path / "mine.txt").exists() and list((tmp_path / "run").iterdir()) == []


# ---- who holds a folder


HOLD = """
import sys, time
from pathlib import Path
from ser_hf import files
files.hold(Path(sys.argv[1]), "--output_dir", file=len(sys.argv) > 2 and sys.argv[2] == "file")
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_one_process_holds_a_folder_and_a_dead_one_none(kind, tmp_path):
    place, file = tmp_path / "out", kind == "file"
    words = [sys.executable, "-c", HOLD, str(place), kind, "--hub_token", "hf_secret"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            half = (tmp_path if file else place) / ".out.7.half"
            half.touch()
            with pytest.raises(SerError, match=rf"--out: in use by process {other.pid} on .* since 20") as caught:
                files.hold(place, "--out", file=file)
            assert "hf_secret" not in str(caught.value) and "--hub_token ***" in str(caught.value)
            assert half.exists()
            files.hold(tmp_path / "out2", "--out", file=file)  # another is free
        finally:
            other.kill()
    assert list(tmp_path.rglob("*.lock"))
    files.hold(place, "--out", file=file)
    assert not half.exists()
    files.release()
    assert not list(tmp_path.rglob("*.lock"))


def test_a_lock_that_cannot_be_taken_is_no_dead_end(tmp_path, monkeypatch):
    """Another user's lock file is named; where inodes change, or where there are no locks, the folder can be used."""
    (tmp_path / "theirs" / ".lock").mkdir(parents=True)  # cannot be opened for writing, by root either
    with pytest.raises(
        SerError, match=r"--out: cannot write .*theirs/\.lock \(.*\); choose another, or remove that file"
    ):
        files.hold(tmp_path / "theirs", "--out")
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "samestat", lambda *_: False)
        files.hold(tmp_path / "remote", "--out")
    files.release()
    monkeypatch.setattr(files, "fcntl", None)  # Windows
    files.hold(tmp_path / "windows", "--out")
    assert list((tmp_path / "windows").iterdir()) == []


@pytest.mark.parametrize("error", [OSError(38, "Function not implemented"), PermissionError(1, "not permitted")])
def test_an_old_kernel_does_not_stop_a_recipe(error, monkeypatch):
    def refused(_):
        raise error

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert run._end_with(str(os.getppid())) is None


def test_a_recipe_ends_with_the_process_that_started_it(tmp_path):
    """Killed, cross-validation can do nothing: the recipe itself sees it."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import os, sys, time\nfrom ser_hf.training import run\n"
        "def main():\n    open(sys.argv[1], 'w').write(str(os.getpid()))\n    time.sleep(60)\nrun.cli(main)\n"
    )
    # in between stands accelerate's launcher, which does not pass a kill on
    between = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    words = [sys.executable, "-c", between, str(recipe), str(tmp_path / "pid")]
    log = str(tmp_path / "log")
    code = f"from ser_hf.experiments.launch import *; list(launch([(0, {words!r}, {log!r})], accelerated))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
        assert parent.poll() is None
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the recipe is still running")
