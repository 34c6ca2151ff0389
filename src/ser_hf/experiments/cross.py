"""Cross-corpus: a recipe trained on each of several corpora and tested on the others.

    ser-hf cross recipes/classical_cls.py --datasets emodb ravdess --labels 4class --features openai/whisper-base
    ser-hf cross recipes/wav2vec2_cls.py --datasets emodb ravdess crema_d --labels 4class --leave_one_out true

The recipe comes first; its flags, and those of `ser-hf cv`, are given as to `ser-hf cv`. A model for A on B is trained
on all of A, with validation speakers of A, and tested on all of B (`--dataset A+B --test_on B --protocol
cross-corpus`); with --leave_one_out true it is trained on all corpora but B. Each corpus's own protocol is run beside
them: the diagonal. Words are mapped to `--labels`. Labels of B that no training utterance has cannot be known: they are
counted, and UAR is given over all labels of B and over those that both have. No YAML is read unless by --config. After
an interruption give the same command. Written are cross.json, cross.md and cross.png, and a folder of `ser-hf cv` for
each cell.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ..cli.console import Parser
from ..errors import SerError
from ..evaluation import CLASSES
from ..evaluation.tables import markdown_table, one_line, render, with_interval
from ..files import hold, write
from ..training import run
from . import cv

# Flags that cross sets for each cell, and what to use.
SET_BY_CROSS = {"dataset": "--datasets a b", "test_on": "--datasets a b", "protocol": "ser-hf cv", "folds": "ser-hf cv"}
SET_BY_CROSS |= {"against": "ser-hf compare on the cells' folders", "learning_curve": "ser-hf cv"}


@dataclass(frozen=True)
class Cell:
    """One model: the corpora that it is trained on, and the one that it is tested on."""

    train: tuple[str, ...]
    test: str
    request: cv.Request

    @property
    def own(self) -> bool:
        """Whether it is the tested corpus's own protocol."""
        return self.train == (self.test,)


def main(argv: list[str]) -> int:
    """Run the cells that are not finished, then report. Returns the exit status.
    Raises SerError: wrong flags, corpora that cannot be mapped to the labels, or a run that failed."""
    out, cells = parse(argv)
    hold(out, f"--output_dir {out}")
    plans = [cv.load(cell.request) for cell in cells]
    check(cells, plans)

    def body() -> None:
        groups = [plans] if plans[0].request.scheduler else [[plan] for plan in plans]
        cvs = [
            cv.report(plan, runs, cv.predictions_of(plan), {})[0]
            for group in groups
            for plan, runs in zip(group, cv.run_all(group), strict=True)
        ]
        results = summarise(cells, plans, cvs)
        report = markdown(results)
        write(out / "cross.png", figure(results))
        write(out / "cross.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        write(out / "cross.md", report)
        run.say("", report, f"written: {out / 'cross.json'}, cross.md and cross.png")

    return cv.unless_stopped(body)


# ---- the command line


def parse(argv: list[str]) -> tuple[Path, list[Cell]]:
    """The folder and the cells, the diagonal's first, without the corpora. Raises SerError: wrong flags."""
    parser = Parser("cross", __doc__)
    parser.add_argument("recipe", help="a recipe, such as recipes/classical_cls.py; its own flags follow")
    text = "corpora, each of which is tested"
    parser.add_argument("--datasets", nargs="+", required=True, metavar="CORPUS", help=text)
    text = "train on all corpora but the tested one, instead of on each"
    parser.add_argument("--leave_one_out", nargs="?", const="true", choices=("true", "false"), help=text)
    text = "keep every cell in recipes/results, as NAME_from_CORPUS"
    parser.add_argument("--record", metavar="NAME", help=text)
    parser.add_argument("--output_dir", help="folder (default: runs/cross_<corpora>)")
    argv = cv.take_token(cv.spelled(argv))
    if argv and argv[0].startswith("-") and not {"-h", "--help"} & set(argv):
        raise SerError("the recipe comes first: ser-hf cross recipes/classical_cls.py --datasets emodb ravdess ...")
    flags, words = parser.parse_known_args(argv)

    from ..data.loading import corpus_class, is_own  # after --help

    for name, instead in SET_BY_CROSS.items():
        if any(word == f"--{name}" or word.startswith(f"--{name}=") for word in words):
            raise SerError(f"--{name}: cross sets it for each cell; use {instead}")
    names = {name: re.sub(r"[^\w.-]+", "_", Path(name).name) for name in flags.datasets}
    if len(set(names.values())) < max(2, len(flags.datasets)):
        raise SerError(f"--datasets {' '.join(flags.datasets)}: name two corpora or more, each once")
    if (leave := flags.leave_one_out == "true") and len(names) < 3:
        raise SerError("--leave_one_out true: needs three corpora or more; leave it out")
    out = Path(flags.output_dir or f"runs/cross_{'_'.join(names.values())}")
    words += [] if any(word.split("=")[0] == "--config" for word in words) else ["--config", "none"]

    def cell(train: tuple[str, ...], test: str) -> Cell:
        source, own = "_".join(names[name] for name in train), train == (test,)
        mine = ["--dataset", test if own else "+".join((*train, test))]
        if not own:
            mine += ["--test_on", test, "--protocol", "cross-corpus"]
        elif not is_own(test):  # not a YAML's
            mine += ["--protocol", next(iter(corpus_class(test).protocols()))]
        if flags.record:
            mine += ["--record", flags.record if own else f"{flags.record}_from_{source}"]
        folder = names[test] if own else f"{source}_to_{names[test]}"
        request = cv.parse([flags.recipe, *words, *mine, "--output_dir", str(out / folder)])
        return Cell(train, test, request)

    cells = [cell((name,), name) for name in names]
    if cells[0].request.data.labels is None:
        raise SerError("--labels is missing: name the label set that all corpora are mapped to, such as 4class")
    every = [(tuple(one for one in names if one != test), test) for test in names]
    pairs = every if leave else [((train,), test) for train in names for test in names if train != test]
    return out, cells + [cell(*pair) for pair in pairs]


def check(cells: Sequence[Cell], plans: Sequence[cv.Plan]) -> None:
    """Raises SerError: labels that are no classes, or corpora that have less than two of them in common."""
    for cell, plan in zip(cells, plans, strict=True):
        if plan.report.problem_type != CLASSES:
            raise SerError(f"--labels {plan.report.labels}: cross is for classes; such as 4class")
        if len(known(plan)) < 2:
            both = f"{' + '.join(cell.train)} and {cell.test}"
            raise SerError(f"{both} have less than two labels of {plan.report.labels} in common; other --labels")


# ---- figures


def known(plan: cv.Plan) -> list[str]:
    """The labels of the tested corpus that some training utterance has."""
    names = plan.report.label_names
    return names if plan.protocol.by != "corpus" else [names[i] for i in sorted(set(plan.mixed.rows["label"][:]))]


def summarise(cells: Sequence[Cell], plans: Sequence[cv.Plan], reports: Sequence[dict]) -> dict:
    """The content of `cross.json`."""
    first = reports[0]
    return {
        "recipe": first["recipe"],
        "labels": first["corpus"]["labels"],
        "model": first["model"],
        "seeds": first["seeds"],
        "metric": "uar",
        "datasets": [plan.report.corpus for cell, plan in zip(cells, plans, strict=True) if cell.own],
        "label_map": {plan.report.corpus: label_map(plan) for cell, plan in zip(cells, plans, strict=True) if cell.own},
        "cells": [_entry(*one) for one in zip(cells, plans, reports, strict=True)],
    }


def label_map(plan: cv.Plan) -> dict:
    """The words of a corpus for each label with the utterances, and the utterances that no label is for."""
    mixture, _ = run.resolve(plan.request.system, plan.request.data, plan.request.columns)
    words = mixture.tested.config.label_map
    return {
        "labels": {
            label: {"words": [word for word, of in words.items() if of == label], "utterances": count}
            for label, count in plan.report.per_label.items()
        },
        "left_out": plan.report.outside_labels,
    }


def _entry(cell: Cell, plan: cv.Plan, report: dict) -> dict:
    """A cell's UAR over all labels of the test corpus, and over those that the training corpora have too."""
    from ..evaluation.bootstrap import intervals
    from .cv_report import mark, pooled_draws

    names, shared = plan.report.label_names, known(plan)
    runs = {key: cv.read_fold(plan, *key) for key in plan.keys()}
    uar, draws = pooled_draws(runs, names)
    some = {key: (results, table[table["label"].isin(shared)]) for key, (results, table) in runs.items()}
    shared_uar, shared_draws = pooled_draws(some, names)
    return {
        "train": [plan.report.corpus] if cell.own else list(plan.mixed.counts),
        "test": plan.report.corpus,
        "own": cell.own,
        "protocol": plan.protocol.name,
        "uar": uar,
        "interval": intervals({"uar": draws})["uar"],
        "shared_uar": shared_uar,
        "shared_interval": intervals({"uar": shared_draws})["uar"],
        "unknown": {name: plan.report.per_label[name] for name in names if name not in shared},
        "chance_uar": report["pooled"]["chance_uar"],
        "utterances": len(set().union(*plan.tests.values())),
        "trained_on": None if cell.own else plan.mixed.counts,
        "marks": mark(report),
        "folder": plan.request.out.name,
        "command": report["command"],
    }


# ---- the report


def _rows(results: dict) -> dict[str, dict[str, dict]]:
    """The cells by the name of their row, then by the tested corpus."""
    rows: dict[str, dict[str, dict]] = {}
    several = any(len(cell["train"]) > 1 for cell in results["cells"])
    for cell in results["cells"]:
        name = ("own protocol" if cell["own"] else "the others") if several else cell["train"][0]
        rows.setdefault(name, {})[cell["test"]] = cell
    return rows


def markdown(results: dict) -> str:
    """The report, on screen and as `cross.md`."""
    tests, crossed = results["datasets"], [cell for cell in results["cells"] if not cell["own"]]
    own = [cell for cell in results["cells"] if cell["own"]]

    def matrix(key: str, interval: str) -> Markup:
        rows = []
        for name, cells in _rows(results).items():
            texts = {
                test: f"{with_interval(cell[key], cell[interval])}{' (own)' * cell['own']}{cell['marks']}"
                for test, cell in cells.items()
            }
            rows.append([name, *(texts.get(test, "-") for test in tests)])
        return Markup(markdown_table(["trained on", *tests], rows))

    words = []
    for corpus, of in results["label_map"].items():
        for label, one in of["labels"].items():
            words.append([corpus, label, ", ".join(one["words"]) or "-", one["utterances"]])
        words.append([corpus, "none", "others", of["left_out"]])
    text = render(
        "cross.md",
        **{key: results[key] for key in ("labels", "model", "seeds")},
        tests=tests,
        matrix=matrix("uar", "interval"),
        own=f"{sum(cell['uar'] for cell in own) / len(own):.3f}",
        across=f"{sum(cell['uar'] for cell in crossed) / len(crossed):.3f}",
        chance=", ".join(f"{cell['test']} {cell['chance_uar']:.3f}" for cell in own),
        unknown=[cell for cell in crossed if cell["unknown"]],
        shared_matrix=matrix("shared_uar", "shared_interval"),
        label_map=Markup(markdown_table(["corpus", "label", "words", "utterances"], words)),
    )
    return text + "\n"


def figure(results: dict) -> bytes:
    """PNG: the matrix as a heat map, own protocols framed."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from ..files import png

    rows, tests = _rows(results), results["datasets"]
    values = np.full((len(rows), len(tests)), np.nan)
    image = Figure(figsize=(2.6 + 1.5 * len(tests), 1.6 + 0.9 * len(rows)), layout="constrained")
    title = f"UAR, {results['labels']}; framed: own protocol"
    axes = image.add_subplot(title=title, xlabel="tested on", ylabel="trained on")
    for place in np.ndindex(values.shape):
        if not (cell := list(rows.values())[place[0]].get(tests[place[1]])):
            continue
        values[place] = cell["uar"]
        text = with_interval(cell["uar"], cell["interval"]).replace(" ", "\n", 1)
        text += f"\nshared {cell['shared_uar']:.3f}" * bool(cell["unknown"])
        color = "white" if cell["uar"] > 0.6 else "black"
        axes.text(place[1], place[0], text, ha="center", va="center", color=color, fontsize=8)
        if cell["own"]:
            axes.add_patch(Rectangle((place[1] - 0.48, place[0] - 0.48), 0.96, 0.96, fill=False, linewidth=2))
    drawn = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(tests)), map(one_line, tests))
    axes.set_yticks(range(len(rows)), map(one_line, rows))
    image.colorbar(drawn, label="UAR")
    return png(image)
