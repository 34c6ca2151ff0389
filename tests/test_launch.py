"""Processes that run a recipe: a fork does what a started process does, a scheduler's command runs all at once.

python -m pytest tests/test_launch.py -m "not slow"
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from conftest import REPO
from ser_hf import files
from ser_hf.errors import SerError
from ser_hf.experiments import cv
from ser_hf.experiments.launch import accelerated, can_fork, filled, forked, last_error, launch, scheduled, template

RECIPE = """
import json, os, random, sys, tempfile
from pathlib import Path
from ser_hf.errors import SerError
from ser_hf.files import hold
from ser_hf.training import run

def main():
    out = Path(sys.argv[1])
    hold(out, "--output_dir")
    print("answered", sys.stdin.read() == "", file=sys.stderr)
    kept = tempfile.TemporaryDirectory(dir=out)  # removed at the end of the process
    main.kept = kept
    if sys.argv[2] == "fails":
        raise SerError("--flag x: is wrong; leave it out")
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), 9)
    facts = {"argv": sys.argv, "name": __name__, "parent": os.environ[run.PARENT], "path": sys.path[0]}
    facts |= {"group": os.getpgid(0) == os.getpid(), "drawn": random.random(), "here": os.getcwd()}
    (out / "facts.json").write_text(json.dumps(facts))
    print("Grüße")

if __name__ == "__main__":
    run.cli(main)
"""


@pytest.fixture
def recipe(tmp_path):
    place = tmp_path / "recipe.py"
    place.write_text(RECIPE)
    return place


def run_recipe(recipe: Path, out: Path, what: str, start) -> tuple[int, str]:
    """The exit status of a recipe and its output."""
    command = [sys.executable, str(recipe), str(out), what]
    ((_, _, status, output),) = launch([(0, command, out.parent / f"{out.name}.log")], start)
    return status, output


def test_a_fork_is_as_a_started_process(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    facts, outputs = {}, {}
    for name, start in {"forked": partial(forked, recipe), "started": accelerated}.items():
        for what in ("ends", "fails"):
            outputs[name, what] = run_recipe(recipe, tmp_path / name, what, start)
        facts[name] = json.loads((tmp_path / name / "facts.json").read_text())
        assert [file.name for file in (tmp_path / name).iterdir()] == ["facts.json"]  # no lock, no temporary folder
        assert facts[name].pop("parent") == str(os.getpid()) and facts[name].pop("argv") == [
            str(recipe), str(tmp_path / name), "ends",
        ]  # fmt: skip
    assert "OMP_NUM_THREADS" not in os.environ
    assert facts["forked"].pop("drawn") != facts["started"].pop("drawn")
    assert facts["forked"] == facts["started"] == {
        "name": "__main__", "path": str(tmp_path), "group": True, "here": os.getcwd(),
    }  # fmt: skip
    assert outputs["forked", "ends"] == outputs["started", "ends"] == (0, "answered True\nGrüße\n")
    error = "answered True\nerror: --flag x: is wrong; leave it out\n"
    assert outputs["forked", "fails"] == outputs["started", "fails"] == (2, error)


def test_a_fork_takes_nothing_of_its_parent(recipe, tmp_path, monkeypatch):
    held = tmp_path / "held"
    files.hold(held, "--out")
    try:
        drawn = []
        for name in ("one", "two"):
            assert run_recipe(recipe, tmp_path / name, "ends", partial(forked, recipe))[0] == 0
            drawn.append(json.loads((tmp_path / name / "facts.json").read_text())["drawn"])
        assert drawn[0] != drawn[1]
        assert (held / ".lock").exists()
        other = f"import pathlib, ser_hf.files\nser_hf.files.hold(pathlib.Path({str(held)!r}), '--out')"
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert f"in use by process {os.getpid()}" in done.stderr
    finally:
        files.release()
    assert sys.argv[0] != str(recipe) and sys.path[0] != str(tmp_path)


@pytest.mark.parametrize("start", ["forked", "started"])
def test_a_signal_is_one_line(start, recipe, tmp_path):
    status, output = run_recipe(
        recipe, tmp_path / "out", "dies", partial(forked, recipe) if start == "forked" else accelerated
    )
    assert status == -signal.SIGKILL
    assert last_error(output) == "died with signal 9 (Killed)"


def test_a_fork_that_may_not_use_the_gpu_starts_anew(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    recipe.write_text("import sys\nprint('pytest' in sys.modules, sys.argv[2:])\n")
    assert run_recipe(recipe, tmp_path / "out", "x", partial(forked, recipe)) == (0, "False ['x']\n")


def test_where_there_is_no_fork(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    alone = [threading.main_thread()]
    monkeypatch.setattr(threading, "active_count", lambda: len(alone))
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none"))
    assert can_fork()
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        assert not can_fork()
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        for count in (0, 1, 2):
            patch.setattr(torch.cuda, "device_count", lambda count=count: count)
            assert can_fork() is (count < 2)
        patch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
        assert not can_fork()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert not can_fork()
    (tmp_path / "none").touch()
    assert not can_fork()
    (tmp_path / "none").unlink()
    alone.append("another")
    assert not can_fork()


def test_a_configuration_of_accelerate_is_for_accelerate():
    config = ["--accelerate_config", str(REPO / "recipes" / "accelerate" / "ddp.yaml")]
    request = cv.parse([str(REPO / "recipes" / "spectrogram_cls.py"), "--dataset", "demo", "--config", "none", *config])
    assert not request.plain
    request = replace(request, launcher=request.launcher[:3])
    assert request.plain and replace(request, num_processes=1).plain
    assert not replace(request, num_processes=2).plain and not replace(request, scheduler=["srun"]).plain


@pytest.mark.parametrize(
    "by",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_fork_ends_with_its_cross_validation(by, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import os, sys, time\nfrom ser_hf.training import run\n"
        "def main():\n    open(sys.argv[1], 'w').write(str(os.getpid()))\n    time.sleep(60)\nrun.cli(main)\n"
    )
    code = f"from functools import partial\nfrom ser_hf.experiments.launch import *\nrecipe = Path({str(recipe)!r})\n"
    code += f"job = 0, [sys.executable, str(recipe), {str(tmp_path / 'pid')!r}], {str(tmp_path / 'log')!r}\n"
    code += "list(launch([job], partial(forked, recipe)))"
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell ignores for what it runs aside
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, preexec_fn=default)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
        assert parent.poll() is None
    pid = int((tmp_path / "pid").read_text())
    parent.send_signal(by)
    assert parent.wait(timeout=20) in (-by, 128 + by)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the recipe is still running")


# ---- commands of a scheduler


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "srunn --gpus 1",
            "--launcher srunn --gpus 1: there is no program 'srunn'; give a command that ends with its job",
        ),
        ("", "--launcher : is empty"),
        ("sh -c 'a", "no closing quotation; quote it as in a shell"),
        ("sh -c {comand}", "unknown placeholder {comand}; there are {command}, {fold}, {seed} and {log}"),
    ],
)
def test_a_launcher_that_cannot_be_is_one_line_before_anything_slow(text, words, monkeypatch):
    monkeypatch.setattr(cv, "load_system", None)
    with pytest.raises(SerError) as caught:
        cv.parse([str(REPO / "recipes" / "spectrogram_cls.py"), "--dataset", "demo", "--launcher", text])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_command_in_its_template(tmp_path):
    command, values = ["py", "a b.py", "$x"], {"fold": 3, "seed": 7, "log": "/my logs/x"}
    for text, whole in {
        "sh": ["sh", *command],
        "sh -J f{fold}_s{seed} -o {log}": ["sh", "-J", "f3_s7", "-o", "/my logs/x", *command],
        "sh --wrap {command}": ["sh", "--wrap", "py 'a b.py' '$x'"],
        "sh -c 'cd ${HOME}; {command} > {log}'": ["sh", "-c", "cd ${HOME}; py 'a b.py' '$x' > '/my logs/x'"],
    }.items():
        assert filled(template(text), command, **values) == whole
    told = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "it's", "$HOME", "a  b", "{fold}"]
    shell = filled(template("sh -c {command}"), told, **values)
    ((*_, output),) = launch([(0, shell, tmp_path / "log")], scheduled)
    assert output == f"{told[3:]}\n"  # as it was, through a shell


# A scheduler as srun's: its command waits in a queue of two places, and ends as its job. It says when jobs run.
SCHEDULER = """
import fcntl, os, subprocess, sys, time
home, name, *command = sys.argv[1:]
place = None
def note(what):
    with open(f"{home}/events", "a") as events:
        events.write(f"{what} {name}\\n")
note("queued")
while place is None:
    for number in range(2):
        place = open(f"{home}/place{number}", "w")
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            place = None
    time.sleep(0.05)
note("runs")
down = f"{home}/down-{name}"
if os.path.exists(down):
    os.remove(down)
    sys.exit("error: node 7 is down")
status = subprocess.call(command)
note("ended")
sys.exit(status)
"""


@pytest.fixture
def scheduler(tmp_path) -> str:
    """`--launcher` of a scheduler in a folder."""
    (tmp_path / "scheduler.py").write_text(SCHEDULER)
    return shlex.join([sys.executable, str(tmp_path / "scheduler.py"), str(tmp_path), "{fold}"])


def events(home: Path) -> list[str]:
    return (home / "events").read_text().split("\n")[:-1]


def test_all_are_queued_at_once_and_awaited(scheduler, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_HF_PARENT", "1")
    tell = "import os, sys, time; time.sleep(0.3); print('SER_HF_PARENT' in os.environ, flush=True); "
    tell += "os.kill(os.getpid(), int(sys.argv[1]))"
    jobs = [
        (n, filled(template(scheduler), [sys.executable, "-c", tell, "9" if n == 1 else "0"], fold=n, seed=0, log=""),
         tmp_path / f"{n}.txt") for n in range(4)
    ]  # fmt: skip
    (tmp_path / "down-3").touch()
    ended = {n: (status, last_error(output)) for n, _, status, output in launch(jobs, scheduled, at_once=4)}
    assert ended == {0: (0, "False"), 1: (247, "False"), 2: (0, "False"), 3: (1, "node 7 is down")}
    assert sum("runs" in event for event in events(tmp_path)) == 4
    assert {*events(tmp_path)[:2]} <= {f"{what} {n}" for what in ("queued", "runs") for n in range(4)}
    (tmp_path / "events").unlink()
    stopped = launch(jobs[:1] * 4, scheduled, at_once=4)
    next(stopped)
    stopped.close()
    now = events(tmp_path)
    assert now.count("queued 0") == 4 and now.count("ended 0") < 4
    time.sleep(0.5)
    assert events(tmp_path) == now  # nothing runs on


# ---- all of it, by a recipe that trains


CV = ("spectrogram_cls.py", "--dataset", "demo", "--config", "none", "--arch", "cnn2d_2", "--max_steps", "2")
CV += ("--use_cpu", "true", "--disable_tqdm", "true", "--folds", "0", "1", "--output_dir", "out")


def start_cv(home: Path, *flags: str, **environment: str) -> subprocess.Popen:
    """`ser-hf cv` on two folds in a process of its own, without a number of threads."""
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
    words = [sys.executable, "-c", "from ser_hf.cli import main; raise SystemExit(main())", "cv", *CV, *flags]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        words, cwd=home, env=kept, preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL), **streams
    )


def content_of(home: Path) -> dict[str, object]:
    """What two cross-validations must have in common: all but times."""
    found: dict[str, object] = {}
    for file in sorted((home / "out").rglob("*")):
        name = str(file.relative_to(home))
        if file.suffix in (".safetensors", ".parquet", ".yaml") or name.endswith("training_data.json"):
            found[name] = file.read_bytes()
        elif file.name in ("results.json", "cv.json"):
            text = re.sub(r'"(\w+_per_second|seconds|commit)": [^,\n]+', "", file.read_text())
            found[name] = text.replace(str(home), "")
        else:
            found[name] = file.is_file() and file.name not in ("log.txt", "trainer_state.json") or None
    return found


@pytest.mark.slow
def test_forked_folds_are_those_of_accelerate(tmp_path):
    """To the last digit; also after Control-C in a fold, and the same command."""
    processes = {"launched": start_cv(tmp_path / "launched", ACCELERATE_LOG_LEVEL="warning")}
    processes["forked"] = start_cv(tmp_path / "forked")
    for name, process in processes.items():
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, out + err
        log = (tmp_path / name / "out" / "fold1_seed42" / "log.txt").read_text()
        assert ("`--num_processes` was set" in log) is (name == "launched")
    launched = content_of(tmp_path / "launched")
    assert content_of(tmp_path / "forked") == launched and len(launched) > 30

    process = start_cv(tmp_path / "stopped")
    log = tmp_path / "stopped" / "out" / "fold0_seed42" / "log.txt"
    while not log.exists() or "train 480" not in log.read_text():
        time.sleep(0.02)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stderr.read().endswith("stopped; the same command goes on from here\n")
    process = start_cv(tmp_path / "stopped")
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, out + err
    assert content_of(tmp_path / "stopped") == launched


@pytest.mark.slow
def test_folds_as_jobs_of_a_scheduler(scheduler, tmp_path):
    """One fails and the other one is awaited; the command is killed; the same command goes on."""
    home, launcher = tmp_path / "runs", ("--launcher", scheduler)
    (tmp_path / "down-1").touch()
    process = start_cv(home, *launcher)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 2 and err.count("\n") == 1
    assert (
        "error: fold 1 seed 42 failed with exit status 1: node 7 is down (all of it: out/fold1_seed42/log.txt)" in err
    )
    assert "fold 2/2 seed 42: failed, the others go on" in out and "fold 1/2 seed 42: UAR" in out
    assert {*events(tmp_path)} == {"queued 0", "queued 1", "runs 0", "runs 1", "ended 0"}
    (tmp_path / "events").unlink()

    process = start_cv(home, *launcher)
    log = home / "out" / "fold1_seed42" / "log.txt"
    while "train 480" not in log.read_text():
        time.sleep(0.02)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    process = start_cv(home, *launcher)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, out + err
    assert events(tmp_path) == ["queued 1", "runs 1", "queued 1", "runs 1", "ended 1"]  # fold 0 was finished
    whole = start_cv(tmp_path / "whole")
    assert whole.wait(timeout=500) == 0, whole.stderr.read()
    assert content_of(home) == content_of(tmp_path / "whole")
