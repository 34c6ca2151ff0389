"""Cross-validation: a recipe over every fold of its protocol, and several seeds, and one report.

    ser-hf cv recipes/wav2vec2_cls.py --dataset emodb --data_dir /corpora/emodb
    ser-hf cv recipes/wav2vec2_cls.py --dataset ravdess --seeds 42 43 44 --num_processes 4 --output_dir runs/ravdess_cv

The recipe comes first; its flags and its YAML are given as to the recipe alone. A finished fold is not run again, an
unfinished one resumes from its last checkpoint: after an interruption give the same command. Written are cv.json and
cv.md: every fold, mean and standard deviation over folds, the pooled predictions with 95 % intervals over speakers, and
each class, label or value; with --learning_curve speakers also UAR (mAP, CCC) against the number of training speakers.
The output of a fold goes to <output_dir>/fold<k>_seed<s>/log.txt.

Folds are run one after another, or with --launcher all at once, each by a command that blocks until its job ends:
    --launcher "srun --gpus 1"
    --launcher "sbatch --wait --output {log} --open-mode append --gpus 1 --wrap {command}"
    --launcher "qsub -sync y -cwd -V -j y -o {log} -b y"
    --launcher "bsub -K -o {log} -gpu num=1 {command}"
The fold's command is {command}, else it is appended; {fold}, {seed} and {log} are its own. A job that does not end with
its command (sbatch's) goes on after an interruption.
"""

import argparse
import importlib.util
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli.console import Parser, natural, positive
from ..data.columns import Columns
from ..errors import SerError, one_line
from ..evaluation.tables import number, shown
from ..files import hold, write
from ..training import run
from ..training.arguments import NOT_IN_RUN_YAML, build, read, recipes_folder, run_name, spelled, take_token
from ..training.flag_checks import word
from ..training.settings import DataArguments, System
from .launch import accelerated, can_fork, filled, forked, import_for, last_error, launch, scheduled, template
from .record import check_request, record, results_folder

if TYPE_CHECKING:
    from ..data.corpus import CorpusReport
    from ..data.mixing import Mixed
    from ..data.splits import Protocol
    from .cv_report import Fold

# Not part of what a fold computed; its fold and seed are in results.json.
NOT_COMPARED = ("fold", "seed", "num_proc", *NOT_IN_RUN_YAML)
SEEN = 60  # seconds after which a network folder shows what another machine has written
# Flags of the recipe that cv sets for each fold.
SET_BY_CV = {"fold": "--folds 0 2", "seed": "--seeds 42 43", "resume_from_checkpoint": "the same command again",
             "push_to_hub": "the recipe alone"}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The command line."""

    recipe: Path
    system: System
    words: list[str]  # the recipe's flags as they were typed
    overrides: dict[str, Any]  # all flags of a fold that were set, the YAML's among them
    data: DataArguments
    columns: Columns
    text_cleaning: str | None  # of a recipe that reads texts alone
    launcher: list[str]  # the command that starts the recipe
    num_processes: int | None  # of each fold
    scheduler: list[str]  # the words of --launcher, a `template`
    out: Path  # the folder of the folds and the report
    seeds: list[int]
    folds: list[int]  # all if empty
    anew: bool  # finished folds are run again
    verbose: bool  # the output of the folds is shown
    learning_curve: bool = False  # shares of the training speakers are run too
    record: str | None = None  # the name under which `recipes/results` keeps the figures
    against: Mapping[str, Path] = field(default_factory=dict)  # folders of finished cross-validations, by their names

    def folder(self, seed: int, fold: int) -> Path:
        return self.out / f"fold{fold}_seed{seed}"

    @property
    def plain(self) -> bool:
        """Whether a fold is one process that accelerate starts by its defaults."""
        return not self.scheduler and self.num_processes in (None, 1) and "--config_file" not in self.launcher


@dataclass(frozen=True)
class Plan:
    """The corpus and its folds: those to run, the ids of each test set, and a hash of each fold's clips and labels."""

    request: Request
    folds: list[int]
    all_folds: int
    report: "CorpusReport"
    mixed: "Mixed | None"
    protocol: "Protocol"
    ids: list[str]
    tests: dict[int, set[str]]
    hashes: dict[int, str]

    def keys(self) -> list[tuple[int, int]]:
        """The folds to run, as `(seed, fold)`."""
        return [(seed, fold) for seed in self.request.seeds for fold in self.folds]

    def name_of(self, seed: int, fold: int) -> str:
        return f"fold {self.folds.index(fold) + 1}/{len(self.folds)} seed {seed}"


Runs = dict[tuple[int, int], "Fold"]  # by seed and fold


def main(argv: list[str]) -> int:
    """Run the folds that are not finished, then report. Returns the exit status.
    Raises SerError: wrong flags, a folder of another run, or a fold that failed (the finished ones stay)."""
    request = parse(argv)
    written = f"written: {request.out / 'cv.json'} and cv.md"
    return unless_stopped(lambda: run.say("", complete(load(request))[1], written))


def unless_stopped(body: Callable[[], None]) -> int:
    """Run folds; returns the exit status, also that of Control-C."""
    try:
        body()
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    return 0


def complete(plan: Plan) -> tuple[dict, str]:
    """Run the folds that are not finished, then write `cv.json` and `cv.md`, whose contents are returned.
    Raises SerError: a folder of another run, or a fold that failed (the finished ones stay)."""
    from .learning_curve import smaller

    request = plan.request
    plans = {share: load(part) for share, part in smaller(request, plan.protocol).items()}
    others = predictions_of(plan)
    runs, *rest = run_all([plan, *plans.values()])
    return report(plan, runs, others, dict(zip(plans, rest, strict=True)))


def report(plan: Plan, runs: Runs, others: Mapping, parts: Mapping[float, Runs]) -> tuple[dict, str]:
    """Write `cv.json` and `cv.md`; returns them. `others` as by `predictions_of`, `parts` by share of speakers."""
    from ..evaluation.card import read_stress
    from ..evaluation.stress import folds_section, over_folds
    from .cv_report import about, markdown, summarise
    from .learning_curve import curve, figure, section

    request, names, kind = plan.request, plan.report.label_names, plan.report.problem_type
    cv = about(plan, runs) | summarise(runs, names, kind, others)
    text = markdown(cv)
    if parts:
        cv["learning_curve"] = curve({**parts, 1.0: runs}, names, kind)
        write(request.out / "learning_curve.png", figure(cv))
        text += section(cv)
    stressed = [read_stress(request.folder(*key)) for key in runs]
    if all(stressed):
        cv["stress"] = over_folds(stressed)
        text += "\n" + folds_section(cv["stress"])
    write(request.out / "cv.json", json.dumps(cv, indent=2, ensure_ascii=False) + "\n")
    write(request.out / "cv.md", text)
    if request.record:
        place = record(cv, request.record, results_folder())
        run.say(f"recorded: {place}; `python -m benchmarks.results` writes the tables")
    return cv, text


# ---- the command line


def _own_parser() -> argparse.ArgumentParser:
    """The flags of cv itself; all others are the recipe's."""
    parser = Parser("cv", __doc__)
    parser.add_argument("recipe", help="a recipe, such as recipes/wav2vec2_cls.py; its own flags follow")
    parser.add_argument("--seeds", nargs="+", type=natural, help="training seeds (default: the recipe's, 42)")
    parser.add_argument("--folds", nargs="+", type=natural, help="only these folds, from 0; the report is partial")
    parser.add_argument("--num_processes", type=positive, help="processes (GPUs) of each fold, for accelerate launch")
    parser.add_argument("--accelerate_config", metavar="FILE", help="YAML of accelerate launch, recipes/accelerate/...")
    text = "run all folds at once, each by this command of a cluster's scheduler, such as 'srun --gpus 1'"
    parser.add_argument("--launcher", metavar="COMMAND", help=text)
    parser.add_argument("--verbose", nargs="?", const="true", choices=("true", "false"), help="show the folds' output")
    parser.add_argument("--record", nargs="?", const="", metavar="NAME", help="keep the figures in recipes/results")
    text = "compare, utterance by utterance, with finished cross-validations of the same folds"
    parser.add_argument("--against", nargs="+", metavar="FOLDER", default=(), help=text)
    text = "also train on 25, 50 and 75 %% of the training speakers: would more speakers help?"
    parser.add_argument("--learning_curve", choices=("speakers",), help=text)
    parser.add_argument("--output_dir", help="folder (default: runs/<dataset>_<system>_cv, or runs/<config>_cv)")
    return parser


def parse(argv: list[str]) -> Request:
    """Read the command line, without the corpus.
    Raises SerError: no such recipe, or a wrong flag of cv or of the recipe."""
    argv = take_token(spelled(argv))
    if argv and argv[0].startswith("-") and not {"-h", "--help"} & set(argv):
        raise SerError("the recipe comes first: ser-hf cv recipes/wav2vec2_cls.py --dataset NAME ...")
    flags, words = _own_parser().parse_known_args(argv)
    recipe = Path(flags.recipe)
    recipe = recipe if recipe.is_file() else recipes_folder() / recipe.name  # also in an installed wheel
    if not recipe.is_file():
        path = "give a recipe's path, such as recipes/wav2vec2_cls.py"
        raise SerError(f"recipe {flags.recipe}: no such file; {path}")
    scheduler = [] if flags.launcher is None else template(flags.launcher)
    system = load_system(recipe)
    for name, instead in SET_BY_CV.items():
        if any(w == f"--{name}" or w.startswith(f"--{name}=") for w in words):
            raise SerError(f"--{name}: cv sets it for each run; use {instead}")
    values, overrides = read(system, words)
    if flags.learning_curve and values.train_speakers is not None:
        raise SerError(f"--train_speakers {values.train_speakers:g}: --learning_curve sets it; leave it out")
    launcher, config = [sys.executable, "-m", "accelerate.commands.launch"], flags.accelerate_config
    if config and not Path(config).is_file():
        raise SerError(f"--accelerate_config {config}: no such file")
    launcher += ["--config_file", config] if config else []
    if flags.num_processes:  # --multi_gpu also on a CPU, where `--cpu` would start one process whatever the number
        launcher += ["--multi_gpu"] if flags.num_processes > 1 and not config else []
        launcher += ["--num_processes", str(flags.num_processes)]
    return Request(
        recipe=recipe,
        system=system,
        words=words,
        overrides=overrides,
        data=build(DataArguments, values),
        columns=build(Columns, values),
        text_cleaning=getattr(values, "text_cleaning", None) if not system.reads_audio else None,
        launcher=launcher,
        num_processes=flags.num_processes,
        scheduler=scheduler,
        out=Path(flags.output_dir or values.output_dir or f"runs/{run_name(values, system)}_cv"),
        seeds=list(dict.fromkeys(flags.seeds or [values.seed])),
        folds=sorted(set(flags.folds or [])),
        anew=values.overwrite_output_dir,
        verbose=flags.verbose == "true",
        learning_curve=flags.learning_curve is not None,
        record=flags.record if flags.record != "" else run_name(values, system),
        against=_finished(flags.against),
    )


def _finished(folders: Sequence[str]) -> dict[str, Path]:
    against = {}
    for folder in folders:
        if not (Path(folder) / "cv.json").is_file():
            raise SerError(f"--against {folder}: holds no cv.json; name the folder of a finished cross-validation")
        name = Path(folder).resolve().name
        if name in against:
            raise SerError(f"--against {folder}: another folder is called {name} too; rename one of them")
        against[name] = Path(folder)
    return against


def load_system(recipe: Path) -> System:
    """The `SYSTEM` that a recipe exports. Raises SerError if the file is no recipe."""
    try:
        spec = importlib.util.spec_from_file_location(f"ser_hf_recipe_{recipe.stem}", recipe)
        module = importlib.util.module_from_spec(spec)  # AttributeError if it is no .py
        spec.loader.exec_module(module)
        return module.SYSTEM
    except Exception as error:  # whatever a file that is no recipe raises
        raise SerError(f"recipe {recipe}: no recipe ({type(error).__name__}: {error}); it must export SYSTEM") from None


# ---- the corpus


def load(request: Request) -> Plan:
    """Load the corpus and make every fold, before the first one runs.
    Raises SerError: no such corpus, label set, protocol or fold; a leak."""
    data = request.data
    if request.record:
        check_request(request.record, partial=bool(request.folds))
    mixture, protocol = run.resolve(request.system, data, request.columns)
    hold(request.out, f"--output_dir {request.out}")

    from ..data.mixing import load_mixture
    from ..data.splits import folds_of
    from ..training.provenance import rows_hash
    from ..training.text_model import with_text

    options = {"with_audio": request.system.reads_audio, "num_proc": data.num_proc, "strict": data.strict}
    corpus, report, mixed = load_mixture(mixture, **options)
    all_folds = len(folds_of(corpus, protocol, data.split_seed))
    folds = request.folds or list(range(all_folds))
    if folds[-1] >= all_folds:
        raise SerError(f"--folds {folds[-1]}: {report.corpus}'s {protocol.name} has folds 0 to {all_folds - 1}")
    tests, hashes = {}, {}
    for fold in folds:
        splits = run.make_fold(corpus, mixed, protocol, data, fold, report.corpus)
        test, hashes[fold] = splits["test"], rows_hash(splits)
        if request.text_cleaning:  # a text recipe leaves out utterances without a text
            test, _ = with_text(test, request.text_cleaning)
        tests[fold] = set(test["id"][:])
    return Plan(request, folds, all_folds, report, mixed, protocol, corpus["id"][:], tests, hashes)


# ---- running


def run_all(plans: Sequence[Plan]) -> list[Runs]:
    """All folds of each plan, after running those that are not finished: one after another, or all at once by a
    scheduler. Raises SerError: a fold failed (those that a scheduler runs at the same time are awaited first)."""
    both = [(plan, begin(plan)) for plan in plans]
    todo = [(plan, runs, key) for plan, runs in both for key in plan.keys() if key not in runs]
    request = plans[0].request
    start = scheduled if request.scheduler else accelerated
    if todo and request.plain and can_fork():
        import_for(request.recipe)
        start = partial(forked, request.recipe)
    at_once = len(todo) if request.scheduler else 1
    jobs = ((job, *command_of(job[0], *job[2])) for job in todo)
    began, failed = time.monotonic(), []
    with closing(launch(jobs, start, at_once, request.verbose)) as ends:
        for count, ((plan, runs, key), command, status, output) in enumerate(ends, 1):
            try:
                runs[key] = result_of(plan, *key, command, status, output)
            except SerError as error:
                if at_once == 1:
                    raise
                run.say(f"{plan.name_of(*key)}: failed, the others go on")
                failed.append(error)
                continue
            elapsed = time.monotonic() - began
            left = timedelta(seconds=round(elapsed / count * (len(todo) - count)))
            end = f"done, elapsed {timedelta(seconds=round(elapsed))}" + f", about {left} left" * (at_once == 1)
            say_result(plan, key, runs[key], end)
    if failed:
        raise SerError(f"{failed[0]}" + f" (and {len(failed) - 1} more)" * (len(failed) > 1))
    return [{key: runs[key] for key in plan.keys()} for plan, runs in both]


def begin(plan: Plan) -> Runs:
    """Say what will be run; returns the folds that are finished."""
    from ..training.output import remove_run

    request, todo = plan.request, plan.keys()
    if request.anew:  # all at once: what is interrupted must not be taken for finished by the next command
        for key in todo:
            remove_run(request.folder(*key))
    before = {} if request.anew else {key: done for key in todo if (done := finished(plan, *key))}
    leak = plan.protocol.warning and f" {plan.protocol.warning}:"
    lines = plan.report.lines() + (plan.mixed.lines() if plan.mixed else [])
    run.say(*lines, f"{plan.protocol.name}:{leak} {len(todo)} runs, {len(before)} finished before")
    for key, one in before.items():
        say_result(plan, key, one, "finished before")
    return before


def say_result(plan: Plan, key: tuple[int, int], one: "Fold", end: str) -> None:
    from .cv_report import mark

    metric = one[0]["test"]["chance"]["metric"]
    value = number(one[0]["test"]["metrics"][metric])
    run.say(f"{plan.name_of(*key)}: {shown(metric)} {value}{mark(one[0])}, {end}")


def predictions_of(plan: Plan) -> "dict[tuple[int, int], dict[str, Fold]]":
    """The folds of the cross-validations to compare with (`--against`) by `(seed, fold)` and the name of the folder.
    They are those of the same seed, or of the other's first one.
    Raises SerError: the other tested other utterances in a fold, or other labels."""
    from ..evaluation.report import read_run

    others = {key: {} for key in plan.keys()}
    for name, folder in plan.request.against.items():
        cv = json.loads((folder / "cv.json").read_text())
        if cv["corpus"]["labels"] != plan.report.labels:
            raise SerError(f"--against {folder}: has the labels {cv['corpus']['labels']}, not {plan.report.labels}")
        for seed, fold in others:
            place = folder / f"fold{fold}_seed{seed if seed in cv['seeds'] else cv['seeds'][0]}"
            if not (place / "predictions.parquet").is_file():
                raise SerError(f"--against {folder}: {place.name} has no predictions.parquet; run it again")
            others[seed, fold][name] = read_run(place)
            if set(others[seed, fold][name][1]["id"]) != plan.tests[fold]:
                raise SerError(f"--against {folder}: fold {fold} does not have the same test utterances")
    return others


def finished(plan: Plan, seed: int, fold: int) -> "Fold | None":
    """Results and predictions of a fold, or None if it is not run or not complete.
    Raises SerError: its folder holds a run with other flags (names the first that differs), or of another corpus."""
    import yaml

    folder, now = plan.request.folder(seed, fold), plan.request.overrides
    done = (folder / "results.json").exists()
    if not done and not any(folder.glob("checkpoint-*")):
        return None
    if not (folder / "run.yaml").exists():
        raise SerError(f"{folder} holds a run but no run.yaml that says its flags: choose another --output_dir")
    then = yaml.safe_load((folder / "run.yaml").read_text())
    for name in dict.fromkeys([*now, *then]):
        if name not in NOT_COMPARED and _plain(name, then.get(name)) != _plain(name, now.get(name)):
            was, asked = (f"--{name} {flags[name]}" if name in flags else f"no --{name}" for flags in (then, now))
            again = "choose another --output_dir, or all folds anew: --overwrite_output_dir true"
            raise SerError(f"{folder} was run with {was}, asked for is {asked}: {again}")
    return read_fold(plan, seed, fold) if done else None


def _plain(name: str, value: Any) -> Any:
    """A flag's value in one spelling: True and "true", 0.001 and "1e-3", a relative and an absolute folder."""
    if isinstance(value, list):
        return [_plain(name, item) for item in value]
    if name in ("data_dir", "dataset") and value is not None and Path(value).expanduser().is_dir():
        return Path(value).expanduser().resolve()
    try:
        return float(str(value))
    except ValueError:
        return word(value)


def read_fold(plan: Plan, seed: int, fold: int) -> "Fold":
    """A finished fold. Raises SerError if its corpus, protocol, fold or seed are not those of the plan."""
    import pandas as pd

    folder, now = plan.request.folder(seed, fold), plan.report
    if not (folder / "predictions.parquet").exists():
        raise SerError(f"{folder} has no predictions.parquet: remove the folder to run this fold again")
    try:
        results = json.loads((folder / "results.json").read_text())
        table = pd.read_parquet(folder / "predictions.parquet")
    except ValueError as error:
        raise SerError(f"{folder}: damaged ({one_line(error)}): remove the folder to run this fold again") from None
    corpus, protocol = results["corpus"], results["protocol"]
    own = results["trained_on"][0].get("clips") if results["training"] else None  # None: only scored here
    for what, was, wanted in (
        ("corpus", f"{corpus['corpus']} ({corpus['labels']})", f"{now.corpus} ({now.labels})"),
        ("number of utterances in the corpus", corpus["utterances"], now.utterances),
        ("addition of other corpora", results.get("mixed"), plan.mixed.counts if plan.mixed else None),
        ("protocol", protocol["name"], plan.protocol.name),
        ("fold and seed", (protocol["fold"], results["seed"]), (fold, seed)),
        ("number of test utterances from other folds", len(set(table["id"]) - plan.tests[fold]), 0),
        ("content of clips or labels", own or plan.hashes[fold], plan.hashes[fold]),
    ):
        if was != wanted:
            raise SerError(f"{folder}: the {what} is {was}, not {wanted}: remove the folder to run this fold again")
    return results, table


def command_of(plan: Plan, seed: int, fold: int) -> tuple[list[str], Path]:
    """Say that a fold is started; returns its command, and the file for its output."""
    request = plan.request
    folder = request.folder(seed, fold)
    resume = not request.anew and any(folder.glob("checkpoint-*"))
    how = "resumes from its last checkpoint" if resume else "started"
    run.say(f"{plan.name_of(seed, fold)} (--fold {fold}) {how} in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    flags = {"fold": fold, "seed": seed, "output_dir": folder}
    flags |= {"resume_from_checkpoint": "true"} if resume else {}
    flags |= {"push_to_hub": "false"} if request.overrides.get("push_to_hub") else {}  # all would go to one place
    words = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    command, log = [*request.launcher, str(request.recipe), *request.words, *words], folder / "log.txt"
    values = {"fold": fold, "seed": seed, "log": log.resolve()}
    return filled(request.scheduler, command, **values) if request.scheduler else command, log


def result_of(plan: Plan, seed: int, fold: int, command: list[str], status: int, output: str) -> "Fold":
    """A fold that has ended. Raises SerError: it has failed."""
    folder = plan.request.folder(seed, fold)
    until = time.monotonic() + (SEEN if plan.request.scheduler and not status else 0)
    while not (folder / "results.json").exists() and time.monotonic() < until:
        time.sleep(1)
    if status or not (folder / "results.json").exists():
        failed = f"fold {fold} seed {seed} failed with exit status {status}: {last_error(output)}"
        raise SerError(f"{failed} (all of it: {folder / 'log.txt'}); to repeat it: {shlex.join(command)}")
    return read_fold(plan, seed, fold)
