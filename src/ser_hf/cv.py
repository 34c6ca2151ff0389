"""Cross-validation: a recipe over every fold of its protocol, and several seeds, and one report.

    ser-hf cv recipes/wav2vec2_cls.py --dataset emodb --data_dir /corpora/emodb
    ser-hf cv recipes/wav2vec2_cls.py --dataset ravdess --seeds 42 43 44 --num_processes 4 --output_dir runs/ravdess_cv
    ser-hf cv recipes/wav2vec2_cls.py --dataset iemocap --folds 0 2

The recipe comes first; its flags and its YAML are given as to the recipe alone. Of cv itself are:
  --seeds S ...             Training seeds; the recipe's seed (42) otherwise.
  --folds K ...             Only these folds, from 0; the report then says that it is partial.
  --num_processes N         Processes (GPUs) of each fold, for accelerate launch.
  --accelerate_config FILE  Configuration of accelerate launch, such as recipes/accelerate/fsdp.yaml.
  --verbose                 Show what the folds print; it always goes to <output_dir>/fold<k>_seed<s>/log.txt.
  --output_dir DIR          runs/<dataset>_<system>_cv otherwise.

A finished fold is not run again, an unfinished one goes on from its last checkpoint: after an interruption give the same
command. Written are cv.json and cv.md: every fold, mean and standard deviation over folds, the pooled predictions with
95 % intervals by speakers, and each class.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from . import args, run
from .errors import SerError
from .files import write

OWN = ("folds", "seeds", "num_processes", "accelerate_config", "verbose", "output_dir")
REFUSED = {
    "fold": "every fold is run; --folds 0 2 restricts to some",
    "seed": "write --seeds 42 43 44",
    "resume_from_checkpoint": "unfinished folds go on by themselves",
}
# Not part of what a fold computed; its fold and seed are in results.json.
NOT_COMPARED = ("fold", "seed", "num_proc", *args.NOT_IN_RUN_YAML)


@dataclass
class Plan:
    """What is to be run: `flags` are words for the recipe, `given` all its flags with those of its YAML, `tests` the
    utterance ids of each fold's test set."""

    recipe: Path
    launcher: list[str]
    flags: list[str]
    given: dict
    own: dict
    out: Path
    seeds: list[int]
    folds: list[int]
    report: Any = None  # CorpusReport
    protocol: Any = None
    ids: list[str] = field(default_factory=list)
    all_folds: int = 0
    tests: dict[int, set[str]] = field(default_factory=dict)

    @property
    def anew(self) -> bool:
        return str(self.given.get("overwrite_output_dir")).lower() == "true"

    def folder(self, seed: int, fold: int) -> Path:
        return self.out / f"fold{fold}_seed{seed}"


def main(argv: list[str]) -> None:
    """Run the folds that are not finished, then report.

    Raises:
        SerError: wrong flags, a folder of another run, or a fold that failed (the finished ones stay).
    """
    if {"-h", "--help"} & set(argv):
        run.say(__doc__.strip())
        return
    plan = parse(argv)
    load(plan)
    try:
        runs = run_all(plan)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        raise SystemExit(130) from None
    cv = about(plan, runs) | summarise(runs, plan.report.label_names)
    write(plan.out / "cv.json", json.dumps(cv, indent=2, ensure_ascii=False) + "\n")
    write(plan.out / "cv.md", text(cv, markdown=True))
    run.say(text(cv), f"written: {plan.out / 'cv.json'} and cv.md")


# ---- what is asked for


def parse(argv: list[str]) -> Plan:
    """The command line; nothing of the corpus is looked at."""
    recipe = Path(argv[0]) if argv and argv[0][0] != "-" else None
    if recipe is None:
        raise SerError("the recipe comes first: ser-hf cv recipes/wav2vec2_cls.py --dataset NAME ...")
    if not recipe.is_file():
        recipe = Path(__file__).parent / "recipes" / recipe.name  # of an installed wheel
    if not recipe.is_file():
        raise SerError(f"recipe {argv[0]}: no such file; give a recipe's path, such as recipes/wav2vec2_cls.py")
    cli = args._pairs(argv[1:])
    for name in REFUSED.keys() & cli.keys():
        raise SerError(f"--{name} {cli[name]}: not for cv; {REFUSED[name]}")
    own = {name: cli.pop(name) for name in OWN if name in cli}
    named = re.search(r"""system=["'](\w+)["']""", recipe.read_text())
    system = named[1] if named else recipe.stem
    given = _given(cli, system)
    if not given.get("dataset"):
        raise SerError("--dataset is missing: name a corpus, `ser-hf corpora` lists them")
    if str(given.get("push_to_hub", "false")).lower() != "false":
        raise SerError("--push_to_hub: cv trains a model a fold; push the folder of the one you choose")
    return Plan(
        recipe=recipe,
        launcher=_launcher(own),
        flags=[word for key, v in cli.items() for word in (f"--{key}", *(v if isinstance(v, list) else [v]))],
        given=given,
        own=own,
        out=Path(own.get("output_dir") or given.get("output_dir") or f"runs/{given['dataset']}_{system}_cv"),
        seeds=_numbers("seeds", own.get("seeds", given.get("seed", 42))),
        folds=_numbers("folds", own.get("folds", [])),
    )


def _given(cli: dict, system: str) -> dict:
    """All flags as `args.parse` gathers them, without loading transformers: the recipe itself checks them."""
    path = args._config_path(cli, system)
    from_yaml = args._read_yaml(path) if path else {}
    if "model_name_or_path" in cli:
        from_yaml = {key: value for key, value in from_yaml.items() if key not in ("model_type", "config_overrides")}
    return {**args.TRAINING_DEFAULTS, **from_yaml, **cli}


def _numbers(name: str, value) -> list[int]:
    words = value if isinstance(value, list) else [value]
    if not all(re.fullmatch(r"\d+", str(word)) for word in words):
        raise SerError(f"--{name} {' '.join(map(str, words))}: must be whole numbers, as in --{name} 0 1")
    return list(dict.fromkeys(map(int, words)))


def _launcher(own: dict) -> list[str]:
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    if config := own.get("accelerate_config"):
        if not Path(config).is_file():
            raise SerError(f"--accelerate_config {config}: no such file")
        words += ["--config_file", config]
    if "num_processes" in own:
        [processes] = _numbers("num_processes", own["num_processes"])[:1]
        # also on a CPU: `--cpu` starts one process whatever the number (shared/PLATFORM.md 1.1)
        words += ["--multi_gpu"] if processes > 1 and not config else []
        words += ["--num_processes", str(processes)]
    return words


def load(plan: Plan) -> None:
    """Load the corpus and make every fold, so that what is wrong with any of them is found before the first runs."""
    from .corpora import label_config, load_corpus
    from .protocols import check_disjoint, find_protocol, folds_of, split

    given = {entry.name: entry.default for entry in args.fields(args.DataArguments)} | plan.given
    try:
        fraction, split_seed = float(given["validation_fraction"]), int(given["split_seed"])
        num_proc = given["num_proc"] and int(given["num_proc"])
    except (TypeError, ValueError) as error:
        raise SerError(f"--validation_fraction, --split_seed or --num_proc: {error}") from None
    name = given["dataset"]
    config, protocol = label_config(name, given["labels"]), find_protocol(name, given["protocol"])
    if config.problem_type != "single_label_classification":
        raise SerError(f"{name}'s labels {config.name!r} are vectors and cv reports classes: choose another --labels")
    corpus, plan.report = load_corpus(name, config.name, given["data_dir"], num_proc=num_proc, return_report=True)
    sizes = [len(rows) for rows in folds_of(corpus, protocol, split_seed)]
    plan.folds = sorted(plan.folds) or list(range(len(sizes)))
    if plan.folds[-1] >= len(sizes):
        raise SerError(f"--folds {plan.folds[-1]}: {name}'s protocol {protocol.name!r} has folds 0 to {len(sizes) - 1}")
    plan.protocol, plan.ids, plan.all_folds = protocol, list(corpus["id"]), len(sizes)
    for fold in plan.folds:
        if not sizes[fold]:
            some = " ".join(str(k) for k in plan.folds if sizes[k])
            raise SerError(f"no file found is in fold {fold} of {protocol.name!r}: --folds {some} leaves it out")
        parts = split(corpus, name, protocol.name, fold, fraction, split_seed)
        check_disjoint(parts, protocol.speaker_independent)
        plan.tests[fold] = set(parts["test"]["id"])


# ---- running


def run_all(plan: Plan) -> dict:
    """`{(seed, fold): (results, predictions)}` of all folds; those that are not finished are run."""
    todo = [(seed, fold) for seed in plan.seeds for fold in plan.folds]
    before = {} if plan.anew else {key: found for key in todo if (found := finished(plan, *key))}
    leak = "" if plan.protocol.speaker_independent else "; LEAKS SPEAKERS by construction"
    run.say(*plan.report.lines(), f"{plan.protocol.name}: {len(todo)} runs, {len(before)} finished before{leak}")
    runs, took = {}, []
    for done, (seed, fold) in enumerate(todo):
        name = f"fold {fold} ({plan.folds.index(fold) + 1}/{len(plan.folds)}) seed {seed}"
        if (seed, fold) in before:
            runs[seed, fold] = before[seed, fold]
            run.say(f"{name}: finished before, UAR {_uar(runs[seed, fold])}")
            continue
        resume = not plan.anew and any(plan.folder(seed, fold).glob("checkpoint-*"))
        run.say(f"{name}: {'goes on from its last checkpoint' if resume else 'started'} in {plan.folder(seed, fold)}")
        begin = time.monotonic()
        runs[seed, fold] = _run_one(plan, seed, fold, resume)
        took.append(round(time.monotonic() - begin))
        left = sum(key not in before for key in todo[done + 1 :]) * sum(took) // len(took)
        elapsed, left = timedelta(seconds=sum(took)), timedelta(seconds=left)
        run.say(f"{name}: UAR {_uar(runs[seed, fold])}; elapsed {elapsed}, about {left} left")
    return runs


def _uar(found: tuple) -> str:
    return f"{found[0]['test']['metrics']['uar']:.3f}"


def finished(plan: Plan, seed: int, fold: int) -> tuple | None:
    """Results and predictions of a fold, or None if it is still to be run or to be completed.

    Raises:
        SerError: its folder holds a run of other flags, or of another corpus.
    """
    folder = plan.folder(seed, fold)
    done = (folder / "results.json").exists()
    if done or any(folder.glob("checkpoint-*")):
        check_flags(folder, plan.given)
    return read(plan, seed, fold) if done else None


def check_flags(folder: Path, given: dict) -> None:
    """What a folder holds was run with the flags that are asked for now, or the first that differs is an error."""
    import yaml

    if not (folder / "run.yaml").exists():
        raise SerError(f"{folder} holds a run but no run.yaml that says its flags: choose another --output_dir")
    then = yaml.safe_load((folder / "run.yaml").read_text())
    for name in dict.fromkeys([*given, *then]):
        if name not in NOT_COMPARED and _plain(name, then.get(name)) != _plain(name, given.get(name)):
            was, now = (f"--{name} {flags[name]}" if name in flags else f"no --{name}" for flags in (then, given))
            again = "choose another --output_dir, or all folds anew: --overwrite_output_dir true"
            raise SerError(f"{folder} was run with {was}, asked for is {now}: {again}")


def _plain(name: str, value):
    """A flag's value whatever its spelling: True and "true", 0.001 and "1e-3", a relative and an absolute folder."""
    if isinstance(value, list):
        return [_plain(name, item) for item in value]
    if name == "data_dir" and value is not None:
        return Path(value).expanduser().resolve()
    word = str(value).lower() if str(value) in ("True", "False") else str(value)
    try:
        return float(word)
    except ValueError:
        return word


def read(plan: Plan, seed: int, fold: int) -> tuple:
    """Results and predictions of a finished fold, which must be of this corpus as it is now, protocol, fold, seed."""
    import pandas as pd

    folder = plan.folder(seed, fold)
    if not (folder / "predictions.parquet").exists():
        raise SerError(f"{folder} has no predictions.parquet: remove the folder to run this fold again")
    results = json.loads((folder / "results.json").read_text())
    table = pd.read_parquet(folder / "predictions.parquet")
    corpus, protocol, report = results["corpus"], results["protocol"], plan.report
    for what, was, now in (
        ("corpus", f"{corpus['corpus']} ({corpus['labels']})", f"{report.corpus} ({report.labels})"),
        ("size of the corpus", corpus["utterances"], report.utterances),
        ("protocol", protocol["name"], plan.protocol.name),
        ("fold", protocol["fold"], fold),
        ("seed", results["seed"], seed),
        ("number of tested utterances of other folds", len(set(table["id"]) - plan.tests[fold]), 0),
    ):
        if was != now:
            raise SerError(f"{folder}: its {what} is {was}, not {now}: remove the folder to run this fold again")
    return results, table


def _run_one(plan: Plan, seed: int, fold: int, resume: bool) -> tuple:
    import yaml

    folder = plan.folder(seed, fold)
    own = ["--fold", str(fold), "--seed", str(seed), "--output_dir", str(folder)]
    own += ["--resume_from_checkpoint", "true"] if resume else []
    command = [*plan.launcher, str(plan.recipe), *plan.flags, *own]
    # The recipe writes run.yaml at its end; until then this one says with which flags a checkpoint was made.
    flags = {name: value for name, value in plan.given.items() if name not in args.NOT_IN_RUN_YAML}
    write(folder / "run.yaml", yaml.safe_dump({**flags, "fold": str(fold), "seed": str(seed)}, sort_keys=False))
    status, output = launch(command, folder / "log.txt", verbose=plan.own.get("verbose") == "true")
    if status or not (folder / "results.json").exists():
        failed = f"fold {fold} seed {seed} failed with exit status {status}: {last_error(output)}"
        raise SerError(f"{failed} (all of it: {folder / 'log.txt'}); to repeat it: {shlex.join(command)}")
    return read(plan, seed, fold)


def launch(command: list[str], log: Path, verbose: bool = False) -> tuple[int, str]:
    """Run a command as a process group of its own, its output appended to `log` as it comes, and shown if `verbose`.
    Whatever ends this process, SIGKILL excepted, ends the group. Returns exit status and the end of the output."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    process = None
    try:
        with open(log, "ab") as out, open(log, "rb") as said:
            out.write(f"$ {shlex.join(command)}\n".encode())
            out.flush()
            start = said.seek(out.tell())
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            status = None
            while status is None:
                time.sleep(0.1)
                status = process.poll()  # before reading, so that nothing said in between is lost
                if verbose:
                    run.say(said.read().decode(errors="replace"))
            said.seek(max(start, said.seek(0, os.SEEK_END) - 65536))
            return status, said.read().decode(errors="replace")
    finally:
        signal.signal(signal.SIGTERM, previous)
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
    own = [line for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line) and not after.search(line)]
    ended = [found[0] for line in lines if (found := re.search(r"(exitcode +:|died with|returned non-zero) .*", line))]
    return next((found[-1][:500] for found in (own, raised, ended, list(filter(None, lines))) if found), "no output")
