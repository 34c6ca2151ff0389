"""The report of `ser-hf cv`: figures over folds and seeds, pooled predictions, completeness."""

import os
import platform
import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.tables import escape, markdown_table, shown, with_interval

if TYPE_CHECKING:
    import pandas as pd

    from .cv import Plan

Fold = tuple[dict, "pd.DataFrame"]  # a finished fold: its results and its predictions


def summarise(runs: dict[tuple[int, int], Fold], label_names: list[str]) -> dict:
    """The figures of a cross-validation, from its finished folds by `(seed, fold)`: the same folds for every seed.

    `runs` has an entry per fold and seed. `mean` (over folds; every fold counts once, whatever its size) and `pooled`
    (the predictions of all folds as one test set) are `per_seed` and `over_seeds`. Standard deviations are over n - 1;
    None for one value.
    """
    import numpy as np

    from ..evaluation.metrics import METRICS

    def mean(values: list) -> float | None:
        return None if None in values else float(np.mean(values))

    def sd(values: list) -> float | None:
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    per_seed, pooled = [], []
    for seed in dict.fromkeys(seed for seed, _ in runs):
        folds = [runs[key] for key in runs if key[0] == seed]
        figures = {name: [results["test"]["metrics"][name] for results, _ in folds] for name in METRICS}
        per_seed.append({"seed": seed} | {m: {"mean": mean(v), "sd_over_folds": sd(v)} for m, v in figures.items()})
        pooled.append({"seed": seed} | pool([table for _, table in folds], label_names))
    over_seeds = {}
    for name in METRICS:
        means, spreads = ([one[name][figure] for one in per_seed] for figure in ("mean", "sd_over_folds"))
        over_seeds[name] = {"mean": mean(means), "sd_over_folds": mean(spreads), "sd_over_seeds": sd(means)}
    classes = {
        label: {name: mean([one["per_class"][label][name] for one in pooled]) for name in row}
        for label, row in pooled[0]["per_class"].items()
    }
    independent = {"speaker_independent": all(r["protocol"]["speaker_independent"] for r, _ in runs.values())}
    return {
        "runs": [_entry(seed, fold, results) for (seed, fold), (results, _) in runs.items()],
        "mean": {**independent, "per_seed": per_seed, "over_seeds": over_seeds},
        "pooled": {
            **independent,
            "chance_uar": 1 / sum(row["support"] > 0 for row in classes.values()),
            "per_seed": pooled,
            "over_seeds": {
                "metrics": {name: mean([one["metrics"][name] for one in pooled]) for name in METRICS},
                "per_class": classes,
            },
        },
    }


def pool(tables: list, label_names: list[str]) -> dict:
    """The scores of the predictions of several folds together, with `comparisons` to the systems that every fold was
    compared with (columns `prediction_<system>`)."""
    import numpy as np
    import pandas as pd

    from ..evaluation.scoring import compare, score

    table = pd.concat(tables)
    index = {label: number for number, label in enumerate(label_names)}
    truth = {"label": table["label"].map(index).to_numpy(), "speaker": table["speaker"].tolist()}
    logits = np.eye(len(label_names))[table["prediction"].map(index)]
    systems = [column for column in table if column.startswith("prediction_") and table[column].notna().all()]
    others = {system.removeprefix("prediction_"): table[system].map(index).to_numpy() for system in systems}
    return score(truth, logits, label_names) | {"comparisons": compare(truth, logits, others, label_names)}


def _entry(seed: int, fold: int, results: dict) -> dict:
    test, trained = results["test"], results["training"] or {}
    return {
        "seed": seed,
        "fold": fold,
        "folder": f"fold{fold}_seed{seed}",
        "utterances": test["utterances"],
        "speakers": test["speakers"],
        "metrics": test["metrics"],
        "chance_uar": test["chance"]["value"],
        "absent": [label for label, row in test["per_class"].items() if not row["support"]],
        "selected_step": trained.get("selected_step"),
        # A resumed fold knows only the seconds since its last start.
        "seconds": None if trained.get("resumed") else trained.get("seconds"),
    }


def about(plan: "Plan", runs: dict[tuple[int, int], Fold]) -> dict:
    """Everything of a cross-validation but its figures: corpus, protocol, model, settings, machine, completeness."""
    from ..training.record import command as repeat
    from ..training.record import portable

    request, everything = plan.request, [results for results, _ in runs.values()]
    partial = len(plan.folds) < plan.all_folds
    command = repeat(request.recipe.stem, request.system, request.overrides, launcher="ser-hf cv")
    command += f" --seeds {' '.join(map(str, request.seeds))}"
    command += f" --folds {' '.join(map(str, plan.folds))}" if partial else ""
    command += f" --num_processes {request.num_processes}" if request.num_processes else ""
    command += " --learning_curve speakers" if request.learning_curve else ""
    used = [{"ser_hf": results["ser_hf"], **results["versions"]} for results in everything]
    first, settings = everything[0], portable(request.overrides)
    last = max((request.folder(*key) / "results.json").stat().st_mtime for key in runs)
    tables = [[table for (of, _), (_, table) in runs.items() if of == seed] for seed in request.seeds]
    return {
        "recipe": request.recipe.stem,
        "command": command,
        # Several where folds were run with several.
        "commit": ", ".join(sorted({results["commit"] for results in everything} - {None})) or None,
        "versions": {name: ", ".join(sorted({str(v.get(name)) for v in used})) for name in used[0]},
        "date": str(date.fromtimestamp(last)),
        "machine": machine(cpu=settings.get("use_cpu") is True)
        | {"processes": max((r["training"] or {}).get("processes", 1) for r in everything)},
        "settings": settings,
        "corpus": first["corpus"],
        "model": first["model"],
        "protocol": {**first["protocol"], "fold": None, "folds": plan.all_folds},
        "folds": plan.folds,
        "partial": partial,
        "seeds": request.seeds,
        "coverage": coverage(tables, plan.ids, set().union(*plan.tests.values())),
    }


def machine(cpu: bool = False) -> dict[str, Any]:
    """What the time of a training depends on: processor, usable cores, threads of one process, accelerator (None if
    there is none, or `cpu`)."""
    import torch

    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() and not cpu else None,
    }


def coverage(seeds: list[list], ids: list[str], expected: set[str]) -> dict:
    """Whether every utterance of the test sets was tested exactly once with every seed. `seeds` has the predictions of
    each seed's folds, `ids` all utterances of the corpus, `expected` those in a test set of these folds."""
    counts = [Counter(name for table in folds for name in table["id"]) for folds in seeds]
    never = sorted({name for count in counts for name in expected if not count[name]})
    often = sorted({name for count in counts for name, times in count.items() if times > 1})
    return {
        "utterances": len(ids),
        "in_test_sets": len(expected),
        "exactly_once": not never and not often,
        "never_tested": len(never),
        "first_never_tested": never[:5],
        "tested_more_than_once": len(often),
        "first_tested_more_than_once": often[:5],
    }


def mark(results: dict) -> str:
    """The mark beside every figure of a protocol that leaks, of unknown speakers, or of speaker-normalised features."""
    from ..evaluation.report import warnings

    return "".join(f" ({warning})" for warning in warnings(results))


def markdown(cv: dict) -> str:
    """The report, on screen and as `cv.md`."""
    from jinja2 import Environment, PackageLoader

    from ..evaluation.metrics import METRICS
    from ..evaluation.report import COMPARABLE, comparison_table, warnings

    names, per_seed = [shown(name) for name in METRICS], cv["pooled"]["per_seed"]

    def row(first: Any, figures: dict, show: Callable[[Any], str]) -> list[str]:
        return [first, *(show(figures[name]) for name in METRICS)]

    means = [row(one["seed"], one, spread) for one in cv["mean"]["per_seed"]]
    pools = [
        [one["seed"], *(with_interval(one["metrics"][name], one["intervals"][name]) for name in METRICS)]
        for one in per_seed
    ]
    if len(cv["seeds"]) > 1:
        over = cv["mean"]["over_seeds"]
        means.append(row("mean", over, spread))
        means.append(row("sd over seeds", over, lambda figure: _number(figure["sd_over_seeds"])))
        pools.append(row("mean", cv["pooled"]["over_seeds"]["metrics"], _number))
    classes = [
        [label, *(_number(one[key]) for key in ("precision", "recall", "f1")), round(one["support"])]
        for label, one in cv["pooled"]["over_seeds"]["per_class"].items()
    ]
    sizes = ("seed", "fold", "utterances", "speakers")
    folds = [[*(one[key] for key in sizes), *row("", one["metrics"], _number)[1:]] for one in cv["runs"]]
    compared = [(one["seed"], comparison_table({**one, "test": one})) for one in per_seed if one["comparisons"]]
    rows = [[seed, system, *cells.values()] for seed, table in compared for system, cells in table.items()]
    columns = list(next(iter(compared[0][1].values()))) if compared else []
    environment = Environment(loader=PackageLoader("ser_hf.evaluation"))
    text = environment.get_template("cross_validation.md").render(
        **cv,
        text=escape,
        mark=mark(cv),
        cautions=[COMPARABLE[name] for name in warnings(cv)],
        intervals_over=per_seed[0]["intervals_over"],
        means=markdown_table(["seed", *names], means),
        pools=markdown_table(["seed", *names], pools),
        compared=compared and markdown_table(["seed", "system", *map(shown, columns)], rows),
        classes=markdown_table(["class", "precision", "recall", "F1", "utterances"], classes),
        table_of_folds=markdown_table([*sizes, *names], folds),
        absent=sorted({(one["fold"], ", ".join(one["absent"])) for one in cv["runs"] if one["absent"]}),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"  # parts that are absent leave blank lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def spread(figure: dict) -> str:
    """Mean ± standard deviation over folds, if there are several."""
    return _number(figure["mean"]) + ("" if figure["sd_over_folds"] is None else f" ± {figure['sd_over_folds']:.3f}")
