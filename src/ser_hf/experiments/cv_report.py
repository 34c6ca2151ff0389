"""The report of `ser-hf cv`: figures over folds and seeds, pooled predictions, completeness."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from datasets import Dataset
from jinja2 import Environment, PackageLoader

from ..errors import SerError
from ..evaluation import CLASSES
from ..evaluation.calibration import describe
from ..evaluation.report import COMPARABLE, comparison_table, error_lines, warnings
from ..evaluation.scoring import class_indices, compare, logits_of, score, truth_of
from ..evaluation.tables import escape, markdown_table, rows_of, scored, shown
from ..evaluation.tasks import TASKS
from ..training.record import command as repeat
from ..training.record import machine, portable

if TYPE_CHECKING:
    from .cv import Plan

Fold = tuple[dict, pd.DataFrame]  # a finished fold: its results and its predictions


def summarise(
    runs: dict[tuple[int, int], Fold],
    label_names: list[str],
    problem_type: str = CLASSES,
    others: Mapping[tuple[int, int], Mapping[str, Fold]] | None = None,
) -> dict:
    """The figures of a cross-validation, from its finished folds by `(seed, fold)`: the same folds for every seed.

    `runs` has an entry per fold and seed, `others` the same folds of systems to compare with. `mean` (over folds; every
    fold counts once, whatever its size) and `pooled` (the predictions of all folds as one test set) are `per_seed` and
    `over_seeds`. Standard deviations are over n - 1; None for one value.
    """
    task = TASKS[problem_type]
    metrics = task.metric_names(label_names)

    def mean(values: list) -> float | None:
        return None if None in values else float(np.mean(values))

    def sd(values: list) -> float | None:
        return float(np.std(values, ddof=1)) if len(values) > 1 and None not in values else None

    per_seed, pooled = [], []
    for seed in dict.fromkeys(seed for seed, _ in runs):
        keys = [key for key in runs if key[0] == seed]
        folds = [runs[key] for key in keys]
        figures = {name: [results["test"]["metrics"].get(name) for results, _ in folds] for name in metrics}
        per_seed.append({"seed": seed} | {m: {"mean": mean(v), "sd_over_folds": sd(v)} for m, v in figures.items()})
        theirs = [others[key] for key in keys] if others else None
        pooled.append({"seed": seed} | pool(folds, label_names, problem_type, theirs))
    over_seeds = {}
    for name in metrics:
        means, spreads = ([one[name][figure] for one in per_seed] for figure in ("mean", "sd_over_folds"))
        over_seeds[name] = {"mean": mean(means), "sd_over_folds": mean(spreads), "sd_over_seeds": sd(means)}
    table = {
        label: {name: mean([one[task.table][label][name] for one in pooled]) for name in row}
        for label, row in pooled[0][task.table].items()
    }
    independent = {"speaker_independent": all(r["protocol"]["speaker_independent"] for r, _ in runs.values())}
    return {
        "problem_type": problem_type,
        "runs": [_entry(seed, fold, results) for (seed, fold), (results, _) in runs.items()],
        "mean": {**independent, "per_seed": per_seed, "over_seeds": over_seeds},
        "pooled": {
            **independent,
            f"chance_{task.selected_by}": pooled[0]["chance"]["value"],
            "per_seed": pooled,
            "over_seeds": {
                "metrics": {name: mean([one["metrics"][name] for one in pooled]) for name in metrics},
                task.table: table,
            },
        },
    }


def pool(
    folds: list[Fold],
    label_names: list[str],
    problem_type: str = CLASSES,
    others: list[Mapping[str, Fold]] | None = None,
) -> dict:
    """The scores of the predictions of several folds together, with `comparisons` to the systems that every fold was
    compared with (columns `prediction_<system>`), and to `others`, the same folds of other cross-validations.
    Raises SerError: two of these systems have one name."""
    table = pd.concat([table for _, table in folds])
    part = {"label": truth_of(table, label_names, problem_type), "speaker": table["speaker"].tolist()}
    logits = np.concatenate([logits_of(*fold, label_names, problem_type) for fold in folds])
    systems = [column for column in table if column.startswith("prediction_") and table[column].notna().all()]
    beside = {name.removeprefix("prediction_"): class_indices(table[name], label_names) for name in systems}
    for name in others[0] if others else ():
        if name in beside:
            raise SerError(f"--against: the recipe compares with a system {name!r} itself: rename that folder")
        theirs = [(them[name][0], them[name][1].set_index("id").loc[mine["id"]])
                  for them, (_, mine) in zip(others, folds, strict=True)]  # fmt: skip
        beside[name] = np.concatenate([logits_of(*fold, label_names, problem_type) for fold in theirs])
    report_at = [float(limit) for limit in folds[0][0]["test"].get("thresholds", ())]
    scores = score(part, logits, label_names, problem_type, report_at=report_at)
    scores["comparisons"] = compare(part, logits, beside, label_names, problem_type)
    scores.pop("decision_thresholds", None)  # every fold has its own
    if all("calibration" in results and "windows" not in results for results, _ in folds):
        scores["calibration"] = calibration_of(folds, Dataset.from_dict(part), label_names)
    return scores


def calibration_of(folds: list[Fold], dataset: Dataset, label_names: list[str]) -> dict:
    """`calibration.describe` of the predictions of several folds together, before and after each fold's temperature;
    `temperature` is their mean, None if there is none, and `range` the least and the greatest."""
    columns = [f"score_{name}" for name in label_names]
    after = [TASKS[CLASSES].logits(table[columns].to_numpy()) for _, table in folds]
    fitted = [results["calibration"]["temperature"] or 1.0 for results, _ in folds]
    before = [logits * temperature for logits, temperature in zip(after, fitted, strict=True)]
    found = describe(np.concatenate(before), np.concatenate(after), dataset, None)
    for when in ("before", "after"):
        del found[when]["bins"]
    given = {*fitted} - {1.0}
    return {"temperature": float(np.mean(fitted)) if given else None, "range": [min(fitted), max(fitted)], **found}


def pooled_draws(
    runs: Mapping[tuple[int, int], Fold], label_names: list[str], problem_type: str = CLASSES
) -> tuple[float, np.ndarray]:
    """The task's main metric of the pooled predictions, and of each bootstrap draw `(draws,)`, means over seeds. Draws
    of two systems on the same utterances are paired: these are in the order of their ids."""
    task, values, draws = TASKS[problem_type], [], []
    for seed in dict.fromkeys(seed for seed, _ in runs):
        folds = [runs[key] for key in runs if key[0] == seed]
        table = pd.concat([table for _, table in folds]).reset_index(drop=True)
        order = table["id"].argsort()
        logits = np.concatenate([logits_of(*fold, label_names, problem_type) for fold in folds])[order]
        truth = truth_of(table, label_names, problem_type)[order]
        part = truth, task.scores(logits), label_names, None
        values.append(task.metrics(*part)[task.selected_by])
        draws.append(task.draw(*part, table["speaker"][order].tolist())[task.selected_by])
    return float(np.mean(values)), np.mean(draws, axis=0)


def _entry(seed: int, fold: int, results: dict) -> dict:
    test, trained = results["test"], results["training"] or {}
    table = test[TASKS[test.get("problem_type", CLASSES)].table]
    return {
        "seed": seed,
        "fold": fold,
        "folder": f"fold{fold}_seed{seed}",
        "utterances": test["utterances"],
        "speakers": test["speakers"],
        "metrics": test["metrics"],
        f"chance_{test['chance']['metric']}": test["chance"]["value"],
        "absent": [label for label, row in table.items() if row.get("support") == 0],
        "selected_step": trained.get("selected_step"),
        # A resumed fold knows only the seconds since its last start.
        "seconds": None if trained.get("resumed") else trained.get("seconds"),
    }


def about(plan: "Plan", runs: dict[tuple[int, int], Fold]) -> dict:
    """Everything of a cross-validation but its figures: corpus, protocol, model, settings, machine, completeness."""
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
    tables = [[runs[key][1] for key in runs if key[0] == seed] for seed in request.seeds]
    return {
        "recipe": request.recipe.stem,
        "command": command,
        # Several where folds were run with several.
        "commit": ", ".join(sorted({results["commit"] for results in everything} - {None})) or None,
        "versions": {name: ", ".join(sorted({str(v.get(name)) for v in used})) for name in used[0]},
        "date": str(date.fromtimestamp(last)),
        # The machine of the folds, which a scheduler may run elsewhere; results of earlier versions lack it.
        "machine": (first.get("machine") or machine(cpu=settings.get("use_cpu") is True))
        | {"processes": max((r["training"] or {}).get("processes", 1) for r in everything)},
        "settings": settings,
        "corpus": first["corpus"],
        "mixed": plan.mixed.counts if plan.mixed else None,
        "model": first["model"],
        "protocol": {**first["protocol"], "fold": None, "folds": plan.all_folds},
        "folds": plan.folds,
        "partial": partial,
        "seeds": request.seeds,
        "coverage": coverage(tables, plan.ids, set().union(*plan.tests.values())),
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
    return "".join(f" ({warning})" for warning in warnings(results))


def markdown(cv: dict) -> str:
    """The report, on screen and as `cv.md`."""
    task, per_seed = TASKS[cv["problem_type"]], cv["pooled"]["per_seed"]
    names = [shown(name) for name in task.summary]

    def row(first: Any, figures: dict, show: Callable[[Any], str]) -> list[str]:
        return [first, *(show(figures[name]) for name in task.summary)]

    means = [row(one["seed"], one, spread) for one in cv["mean"]["per_seed"]]
    pools = [[one["seed"], *(scored(one, name) for name in task.summary)] for one in per_seed]
    if len(cv["seeds"]) > 1:
        over = cv["mean"]["over_seeds"]
        means.append(row("mean", over, spread))
        means.append(row("sd over seeds", over, lambda figure: _number(figure["sd_over_seeds"])))
        pools.append(row("mean", cv["pooled"]["over_seeds"]["metrics"], _number))
    labels = cv["pooled"]["over_seeds"][task.table]
    columns = list(next(iter(labels.values())))
    by_label = [
        [label, *(round(one[key]) if key == "support" else _number(one[key]) for key in columns)]
        for label, one in labels.items()
    ]
    every = [
        [seed["seed"], label, *chain(*((spread(means_of[name]), scored(seed, name)) for name in figures))]
        for seed, means_of in zip(per_seed, cv["mean"]["per_seed"], strict=True)
        for label in labels
        for figures in [[f"{metric}_{label}" for metric in task.each]]
    ]
    heads = [head for metric in task.each for head in (f"{shown(metric)}, mean", f"{shown(metric)}, pooled")]
    tables = per_seed[0].get("thresholds", {})
    present = {limit: markdown_table(*rows_of(table, "label")) for limit, table in tables.items()}
    sizes = ("seed", "fold", "utterances", "speakers")
    folds = [[*(one[key] for key in sizes), *row("", one["metrics"], _number)[1:]] for one in cv["runs"]]
    compared = [(one["seed"], comparison_table({**one, "test": one})) for one in per_seed if one["comparisons"]]
    rows = [[seed, system, *cells.values()] for seed, table in compared for system, cells in table.items()]
    figures = list(next(iter(compared[0][1].values()))) if compared else []
    environment = Environment(loader=PackageLoader("ser_hf.evaluation"))
    text = environment.get_template("cross_validation.md").render(
        **cv,
        text=escape,
        mark=mark(cv),
        cautions=[COMPARABLE[name] for name in warnings(cv)],
        intervals_over=per_seed[0]["intervals_over"],
        chance=f"{shown(task.selected_by)} {_number(cv['pooled'][f'chance_{task.selected_by}'])}",
        means=markdown_table(["seed", *names], means),
        pools=markdown_table(["seed", *names], pools),
        compared=compared and markdown_table(["seed", "system", *map(shown, figures)], rows),
        calibration=[
            f"Seed {one['seed']}, temperatures {' to '.join(map(_number, found['range']))}, each fitted on its fold's "
            f"validation: {'; '.join(error_lines(found, one['metrics']['wa']))}."
            for one in per_seed
            if (found := one.get("calibration"))
        ],
        noun=task.table.removeprefix("per_"),
        labels=markdown_table([task.table.removeprefix("per_"), *map(shown, columns)], by_label),
        each=markdown_table(["seed", "label", *heads], every) if task.each else "",
        has_thresholds=task.has_thresholds,
        present=present,
        table_of_folds=markdown_table([*sizes, *names], folds),
        absent=sorted({(one["fold"], ", ".join(one["absent"])) for one in cv["runs"] if one["absent"]}),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"  # parts that are absent leave blank lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def spread(figure: dict) -> str:
    """Mean ± standard deviation over folds, if there are several."""
    return _number(figure["mean"]) + ("" if figure["sd_over_folds"] is None else f" ± {figure['sd_over_folds']:.3f}")
