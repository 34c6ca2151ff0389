"""Cross-validation: a recipe over every fold of its protocol, and several seeds, and one report.

    ser-hf cv recipes/wav2vec2_cls.py --dataset emodb --data_dir /corpora/emodb
    ser-hf cv recipes/wav2vec2_cls.py --dataset ravdess --seeds 42 43 44 --num_processes 4 --output_dir runs/ravdess_cv

The recipe comes first; its flags and its YAML are given as to the recipe alone. Of cv itself are:
  --seeds S ...             Training seeds; the recipe's (42) otherwise.
  --folds K ...             Only these folds, from 0; the report then says that it is partial.
  --num_processes N         Processes (GPUs) of each fold, for accelerate launch.
  --accelerate_config FILE  Configuration of accelerate launch, such as recipes/accelerate/fsdp.yaml.
  --verbose                 Show what the folds print; it always goes to <output_dir>/fold<k>_seed<s>/log.txt.
  --output_dir DIR          runs/<dataset>_<system>_cv otherwise, or runs/<name>_cv of --config <name>.yaml.

A finished fold is not run again, an unfinished one goes on from its last checkpoint: after an interruption give the
same command. Written are cv.json and cv.md: every fold, mean and standard deviation over folds, the pooled predictions
with 95 % intervals by speakers, and each class.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..errors import SerError
from ..files import write
from ..training import arguments as args
from ..training import run
from ..training.flags import ClipArguments, TextArguments
from ..training.record import write_flags
from ..training.systems import flags_of
from .console import claim
from .cv_report import Fold, about, mark, markdown, summarise

# Not part of what a fold computed; its fold and seed are in results.json.
NOT_COMPARED = ("fold", "seed", "num_proc", *args.NOT_IN_RUN_YAML)


@dataclass
class Plan:
    """What is to be run. `flags` are the recipe's words, `given` its flags with those of its YAML, `own` those of cv;
    `ids` are all utterances of the corpus and `tests` those of each fold's test set."""

    recipe: Path
    system: str
    launcher: list[str]
    flags: list[str]
    given: dict
    own: dict
    out: Path
    seeds: list[int]
    folds: list[int]
    all_folds: int = 0
    report: Any = None  # CorpusReport
    mixed: Any = None  # preprocessing.Mixed
    protocol: Any = None  # Protocol
    ids: list[str] = field(default_factory=list)
    tests: dict[int, set[str]] = field(default_factory=dict)

    @property
    def anew(self) -> bool:
        return str(self.given.get("overwrite_output_dir")).lower() == "true"

    def folder(self, seed: int, fold: int) -> Path:
        return self.out / f"fold{fold}_seed{seed}"


def main(argv: list[str]) -> int:
    """Run the folds that are not finished, then report. Returns the exit status.

    Raises:
        SerError: wrong flags, a folder of another run, or a fold that failed (the finished ones stay).
    """
    if {"-h", "--help"} & set(argv):
        run.say(__doc__.strip())
        return 0
    plan = parse(argv)
    load(plan)
    try:
        runs = run_all(plan)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    cv = about(plan, runs) | summarise(runs, plan.report.label_names)
    write(plan.out / "cv.json", json.dumps(cv, indent=2, ensure_ascii=False) + "\n")
    write(plan.out / "cv.md", markdown(cv))
    run.say("", markdown(cv), f"written: {plan.out / 'cv.json'} and cv.md")
    return 0


# ---- what is asked for


def parse(argv: list[str]) -> Plan:
    """The command line; nothing of the corpus is looked at."""
    if not argv or argv[0].startswith("-"):
        raise SerError("the recipe comes first: ser-hf cv recipes/wav2vec2_cls.py --dataset NAME ...")
    places = (
        Path(argv[0]),
        Path(__file__).parents[1] / "recipes" / Path(argv[0]).name,
    )  # the second of an installed wheel
    recipe = next((path for path in places if path.is_file()), None)
    if recipe is None:
        raise SerError(f"recipe {argv[0]}: no such file; give a recipe's path, such as recipes/wav2vec2_cls.py")
    cli = args._pairs(argv[1:])
    for name in ("fold", "seed", "resume_from_checkpoint", "push_to_hub"):
        if name in cli:
            raise SerError(f"--{name} {cli[name]}: cv sets it for each run; --folds 0 2 and --seeds 42 43 choose them")
    names = ("folds", "seeds", "num_processes", "accelerate_config", "verbose", "output_dir")
    own = {name: cli.pop(name) for name in names if name in cli}
    named = re.search(r"""system=["'](\w+)["']""", recipe.read_text())
    system = named[1] if named else recipe.stem
    given = {key: value for key, value in args.gather(cli, system)[0].items() if key != "config" or key in cli}
    if not given.get("dataset"):
        raise SerError("--dataset is missing: name a corpus, `ser-hf corpora` lists them")
    launcher, config = [sys.executable, "-m", "accelerate.commands.launch"], own.get("accelerate_config")
    if config and not Path(config).is_file():
        raise SerError(f"--accelerate_config {config}: no such file")
    launcher += ["--config_file", config] if config else []
    if "num_processes" in own:
        count = _numbers("num_processes", own["num_processes"])[0]
        if not count:
            raise SerError("--num_processes 0: must be at least 1")
        # also on a CPU: `--cpu` starts one process whatever the number (shared/PLATFORM.md 1.1)
        launcher += [*(["--multi_gpu"] if count > 1 and not config else []), "--num_processes", str(count)]
    return Plan(
        recipe=recipe,
        system=system,
        launcher=launcher,
        flags=[word for key, v in cli.items() for word in (f"--{key}", *(v if isinstance(v, list) else [v]))],
        given=given,
        own=own,
        out=Path(own.get("output_dir") or given.get("output_dir") or f"runs/{args.run_name(given, system)}_cv"),
        seeds=_numbers("seeds", own.get("seeds", given.get("seed", 42))),
        folds=_numbers("folds", own.get("folds", [])),
    )


def _numbers(name: str, value) -> list[int]:
    words = value if isinstance(value, list) else [value]
    if not all(re.fullmatch(r"\d+", str(word)) for word in words):
        raise SerError(f"--{name} {' '.join(map(str, words))}: must be whole numbers, as in --{name} 1 2")
    return list(dict.fromkeys(map(int, words)))


def data_arguments(given: dict, system: str):
    """The recipe's flags on its data. The others are left to the recipe: `TrainingArguments` would hold a GPU here."""
    from argparse import ArgumentError

    from transformers import HfArgumentParser

    kind = flags_of(system)[0]
    parser = HfArgumentParser(kind, allow_abbrev=False, add_help=False, exit_on_error=False)
    names = [entry.name for entry in fields(kind)]
    try:
        return args._dataclasses(parser, {name: given[name] for name in names if name in given})[0]
    except ArgumentError as error:
        raise SerError(" ".join(str(error).split())) from None


def load(plan: Plan) -> None:
    """Load the corpus and make every fold, so that what is wrong with any of them is found before the first runs."""
    data = data_arguments(plan.given, plan.system)
    run.check_names(data, ("single_label_classification",))
    claim(plan.out, f"--output_dir {plan.out}")

    from ..data.leaks import check_disjoint
    from ..data.mixing import add_to_train, load_data
    from ..data.splits import find_protocol, folds_of, split
    from ..training.text_model import with_text

    corpus, report, plan.mixed = load_data(data, isinstance(data, ClipArguments))
    if report.problem_type != "single_label_classification":
        raise SerError(
            f"{report.corpus}'s labels {report.labels!r} are vectors, and cv sums up classes: other --labels"
        )
    plan.report, plan.protocol = report, find_protocol(report.corpus, data.protocol)
    plan.ids, plan.all_folds = list(corpus["id"]), len(folds_of(corpus, plan.protocol, data.split_seed))
    plan.folds = sorted(plan.folds) or list(range(plan.all_folds))
    if plan.folds[-1] >= plan.all_folds:
        names = f"{report.corpus}'s {plan.protocol.name}"
        raise SerError(f"--folds {plan.folds[-1]}: {names} has folds 0 to {plan.all_folds - 1}")
    for fold in plan.folds:
        parts = split(corpus, report.corpus, data.protocol, fold, data.validation_fraction, data.split_seed)
        parts = add_to_train(parts, plan.mixed)
        check_disjoint(parts, plan.protocol.speaker_independent, plan.protocol.validation)
        test = parts["test"]
        if plan.system.split("_")[0] == "text":  # which leaves out what has no text
            test, _ = with_text(test, plan.given.get("text_cleaning", TextArguments.text_cleaning))
        plan.tests[fold] = set(test["id"])


# ---- running


def run_all(plan: Plan) -> dict[tuple[int, int], Fold]:
    """The folds by `(seed, fold)`; those that are not finished are run."""
    todo = [(seed, fold) for seed in plan.seeds for fold in plan.folds]
    before = {} if plan.anew else {key: found for key in todo if (found := finished(plan, *key))}
    leak = plan.protocol.warning and f" {plan.protocol.warning}:"
    lines = plan.report.lines() + (plan.mixed.lines() if plan.mixed else [])
    run.say(*lines, f"{plan.protocol.name}:{leak} {len(todo)} runs, {len(before)} finished before")
    runs, took = {}, []
    for seed, fold in todo:
        name, folder = f"fold {plan.folds.index(fold) + 1}/{len(plan.folds)} seed {seed}", plan.folder(seed, fold)
        resume = not plan.anew and any(folder.glob("checkpoint-*"))
        if (seed, fold) not in before:
            run.say(f"{name} (--fold {fold}) {'goes on from its last checkpoint' if resume else 'started'} in {folder}")
            begin = time.monotonic()
            before[seed, fold] = _run_one(plan, seed, fold, resume)
            took.append(time.monotonic() - begin)
            left = (len(todo) - len(before)) * sum(took) / len(took)
            elapsed, left = (timedelta(seconds=round(seconds)) for seconds in (sum(took), left))
            end = f"done, elapsed {elapsed}, about {left} left"
        else:
            end = "finished before"
        results, _ = runs[seed, fold] = before[seed, fold]
        run.say(f"{name}: UAR {results['test']['metrics']['uar']:.3f}{mark(results)}, {end}")
    return runs


def finished(plan: Plan, seed: int, fold: int) -> Fold | None:
    """Results and predictions of a fold, or None if it is still to be run or to be completed.

    Raises:
        SerError: its folder holds a run with other flags (names the first that differs), or of another corpus.
    """
    import yaml

    folder = plan.folder(seed, fold)
    done = (folder / "results.json").exists()
    if not done and not any(folder.glob("checkpoint-*")):
        return None
    if not (folder / "run.yaml").exists():
        raise SerError(f"{folder} holds a run but no run.yaml that says its flags: choose another --output_dir")
    then = yaml.safe_load((folder / "run.yaml").read_text())
    for name in dict.fromkeys([*plan.given, *then]):
        if name not in NOT_COMPARED and _plain(name, then.get(name)) != _plain(name, plan.given.get(name)):
            was, now = (f"--{name} {flags[name]}" if name in flags else f"no --{name}" for flags in (then, plan.given))
            again = "choose another --output_dir, or all folds anew: --overwrite_output_dir true"
            raise SerError(f"{folder} was run with {was}, asked for is {now}: {again}")
    return read(plan, seed, fold) if done else None


def _plain(name: str, value):
    """A flag's value whatever its spelling: True and "true", 0.001 and "1e-3", a relative and an absolute folder."""
    if isinstance(value, list):
        return [_plain(name, item) for item in value]
    if name in ("data_dir", "dataset") and value is not None and Path(value).expanduser().is_dir():
        return Path(value).expanduser().resolve()
    try:
        return float(str(value))
    except ValueError:
        return str(value).lower() if str(value) in ("True", "False") else str(value)


def read(plan: Plan, seed: int, fold: int) -> Fold:
    """A finished fold, which must be of this corpus as it is now, this protocol, fold and seed."""
    import pandas as pd

    folder, now = plan.folder(seed, fold), plan.report
    if not (folder / "predictions.parquet").exists():
        raise SerError(f"{folder} has no predictions.parquet: remove the folder to run this fold again")
    results = json.loads((folder / "results.json").read_text())
    table = pd.read_parquet(folder / "predictions.parquet")
    corpus, protocol = results["corpus"], results["protocol"]
    for what, found, wanted in (
        ("corpus", f"{corpus['corpus']} ({corpus['labels']})", f"{now.corpus} ({now.labels})"),
        ("number of utterances in the corpus", corpus["utterances"], now.utterances),
        ("addition of other corpora", results.get("mixed"), plan.mixed.counts if plan.mixed else None),
        ("protocol", protocol["name"], plan.protocol.name),
        ("fold and seed", (protocol["fold"], results["seed"]), (fold, seed)),
        ("number of test utterances from other folds", len(set(table["id"]) - plan.tests[fold]), 0),
    ):
        if found != wanted:
            raise SerError(f"{folder}: the {what} is {found}, not {wanted}: remove the folder to run this fold again")
    return results, table


def _run_one(plan: Plan, seed: int, fold: int, resume: bool) -> Fold:
    folder = plan.folder(seed, fold)
    own = ["--fold", str(fold), "--seed", str(seed), "--output_dir", str(folder)]
    own += ["--resume_from_checkpoint", "true"] if resume else []
    own += ["--push_to_hub", "false"] if "push_to_hub" in plan.given else []  # every fold would go to the same place
    command = [*plan.launcher, str(plan.recipe), *plan.flags, *own]
    if plan.anew:  # as the recipe will, but before run.yaml says of them what is not true
        (folder / "results.json").unlink(missing_ok=True)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    # The recipe writes run.yaml at its end; until then this one says with which flags a checkpoint was made.
    write_flags(folder, {**plan.given, "fold": str(fold), "seed": str(seed)})
    status, output = launch(command, folder / "log.txt", verbose=plan.own.get("verbose") == "true")
    if status or not (folder / "results.json").exists():
        failed = f"fold {fold} seed {seed} failed with exit status {status}: {last_error(output)}"
        raise SerError(f"{failed} (all of it: {folder / 'log.txt'}); to repeat it: {shlex.join(command)}")
    return read(plan, seed, fold)


def launch(command: list[str], log: Path, verbose: bool = False) -> tuple[int, str]:
    """Run a command as a process group of its own, its output appended to `log` as it comes, and shown if `verbose`.
    Whatever ends this process, SIGKILL excepted, ends the group. Returns exit status and the end of the output."""
    # nohup's SIGHUP stays ignored
    stops = [stop for stop in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(stop) is signal.SIG_DFL]
    for stop in stops:
        signal.signal(stop, lambda number, _: sys.exit(128 + number))
    process = status = None
    try:
        with open(log, "ab") as out, open(log, "rb") as said:
            out.write(f"$ {shlex.join(command)}\n".encode())
            out.flush()
            start = said.seek(out.tell())
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, **streams, start_new_session=True)
            while status is None:
                time.sleep(0.1)
                status = process.poll()  # before reading, so that nothing said in between is lost
                if verbose:
                    sys.stdout.write(said.read().decode(errors="replace"))
                    sys.stdout.flush()
            said.seek(max(start, said.seek(0, os.SEEK_END) - 65536))
            return status, said.read().decode(errors="replace")
    finally:
        for stop in stops:
            signal.signal(stop, signal.SIG_DFL)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # accelerate ends the ranks, which have groups of their own
            try:
                process.wait(timeout=40)  # it gives them 30 seconds
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def last_error(output: str) -> str:
    """The line that says why a run failed: the recipe's own, else the last exception, else how the process ended."""
    lines = [re.sub(r"^\[rank\d+\]:\s*", "", line).strip() for line in re.split(r"[\r\n]+", output)]
    # what launchers raise, and ranks whose neighbour has gone, is never the reason
    after = re.compile(r"CalledProcessError|ChildFailedError|SignalException|[Cc]onnection (closed|reset) by peer")
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    raised = [line for line in raised if not after.search(line)]
    ended = [found[0] for line in lines if (found := re.search(r"(exitcode +:|died with|returned non-zero) .*", line))]
    return next((found[-1][:500] for found in (own, raised, ended, list(filter(None, lines))) if found), "no output")
