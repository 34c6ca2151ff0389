"""The report of `ser-hf cv`: figures over folds and seeds, pooled predictions, completeness."""

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.tables import escape, markdown_table, shown
from ..training.arguments import NOT_IN_RUN_YAML

if TYPE_CHECKING:
    import pandas as pd

    from .cv import Plan

Fold = tuple[dict, "pd.DataFrame"]  # a finished fold: its results and its predictions


def summarise(runs: dict[tuple[int, int], Fold], label_names: list[str]) -> dict:
    """The figures of a cross-validation.

    Args:
        runs: Finished folds by `(seed, fold)`, the same folds for every seed.
        label_names: In index order.

    Returns:
        `runs` (one entry per fold and seed), `mean` (over folds; every fold counts once, whatever its size) and
        `pooled` (the predictions of all folds as one test set), both `per_seed` and `over_seeds`. Standard deviations
        are over n - 1; None for one value.
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
        pooled.append({"seed": seed} | _pool([table for _, table in folds], label_names))
    means = {name: [one[name]["mean"] for one in per_seed] for name in METRICS}
    spreads = {name: [one[name]["sd_over_folds"] for one in per_seed] for name in METRICS}
    classes = {
        label: {name: mean([one["per_class"][label][name] for one in pooled]) for name in row}
        for label, row in pooled[0]["per_class"].items()
    }
    independent = {"speaker_independent": all(r["protocol"]["speaker_independent"] for r, _ in runs.values())}
    return {
        "runs": [_entry(seed, fold, results) for (seed, fold), (results, _) in runs.items()],
        "mean": {
            **independent,
            "per_seed": per_seed,
            "over_seeds": {
                name: {
                    "mean": mean(means[name]),
                    "sd_over_folds": mean(spreads[name]),
                    "sd_over_seeds": sd(means[name]),
                }
                for name in METRICS
            },
        },
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


def _pool(tables: list, label_names: list[str]) -> dict:
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

    request, everything = plan.request, [results for results, _ in runs.values()]
    partial = len(plan.folds) < plan.all_folds
    command = repeat(request.recipe.stem, request.system, request.overrides, launcher="ser-hf cv")
    command += f" --seeds {' '.join(map(str, request.seeds))}"
    command += f" --folds {' '.join(map(str, plan.folds))}" if partial else ""
    command += f" --num_processes {request.num_processes}" if request.num_processes else ""
    used = [{"ser_hf": results["ser_hf"], **results["versions"]} for results in everything]
    first, settings = everything[0], portable(request.overrides)
    tables = [[table for (of, _), (_, table) in runs.items() if of == seed] for seed in request.seeds]
    return {
        "recipe": request.recipe.stem,
        "command": command,
        # Several where folds were run with several.
        "commit": ", ".join(sorted({results["commit"] for results in everything} - {None})) or None,
        "versions": {name: ", ".join(sorted({str(v.get(name)) for v in used})) for name in used[0]},
        "date": _last_date([request.folder(*key) for key in runs]),
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


def _last_date(folders: list[Path]) -> str:
    """The day on which the last fold was finished."""
    return str(date.fromtimestamp(max((folder / "results.json").stat().st_mtime for folder in folders)))


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


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for others: without flags of one machine or account, folders by their last part, numbers as numbers.

    >>> portable({"learning_rate": "1e-3", "arch": "cnn2d_2", "data_dir": "/a/b", "text_model": "/a/x_cv/fold{fold}"})
    {'learning_rate': 0.001, 'arch': 'cnn2d_2', 'text_model': 'x_cv/fold{fold}'}
    """

    def value(setting: Any) -> Any:
        if isinstance(setting, list):
            return [value(item) for item in setting]
        if not isinstance(setting, str):
            return setting
        try:
            return json.loads(setting)
        except ValueError:
            pass
        path = Path(setting)
        if not path.is_absolute() and path.parts[:1] not in (("~",), ("..",)) and not path.is_dir():
            return setting
        return "/".join(path.parts[-2:]) if "{" in path.name else path.name  # a fold's folder says little alone

    private = {"data_dir", *NOT_IN_RUN_YAML} | {name for name in settings if name.startswith("hub_")}
    return {name: value(settings[name]) for name in settings if name not in private and settings[name] is not None}


def coverage(seeds: list[list], ids: list[str], expected: set[str]) -> dict:
    """Whether every utterance of the test sets was tested exactly once with every seed.

    Args:
        seeds: For each seed, the predictions of its folds.
        ids: All utterances of the corpus.
        expected: Those in a test set of these folds.
    """
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
    from ..evaluation.metrics import METRICS
    from ..evaluation.report import COMPARABLE, warnings

    corpus, protocol, model, pooled = (cv[name] for name in ("corpus", "protocol", "model", "pooled"))
    warning, several = mark(cv), len(cv["seeds"]) > 1
    names = [shown(name) for name in METRICS]

    def row(first: Any, figures: dict, show: Callable[[Any], str]) -> list[str]:
        return [first, *(show(figures[name]) for name in METRICS)]

    means = [row(one["seed"], one, spread) for one in cv["mean"]["per_seed"]]
    pools = [[one["seed"], *(_interval(one, name) for name in METRICS)] for one in pooled["per_seed"]]
    if several:
        over = cv["mean"]["over_seeds"]
        means.append(row("mean", over, spread))
        means.append(row("sd over seeds", over, lambda figure: _number(figure["sd_over_seeds"])))
        pools.append(row("mean", pooled["over_seeds"]["metrics"], _number))
    classes = [
        [label, *(_number(one[key]) for key in ("precision", "recall", "f1")), round(one["support"])]
        for label, one in pooled["over_seeds"]["per_class"].items()
    ]
    sizes = ("seed", "fold", "utterances", "speakers")
    runs = [[*(one[key] for key in sizes), *row("", one["metrics"], _number)[1:]] for one in cv["runs"]]
    absent = {(one["fold"], ", ".join(one["absent"])) for one in cv["runs"] if one["absent"]}
    versions = ", ".join(f"{name} {version}" for name, version in cv["versions"].items())
    parts = [
        f"# {escape(corpus['corpus'])} ({escape(corpus['labels'])}), {escape(protocol['name'])}{warning}",
        _completeness(cv),
        *(COMPARABLE[name] for name in warnings(cv)),
        f"Protocol: {escape(protocol['name'])} ({escape(protocol['source'])}). "
        f"Speaker-independent: **{'NO' if protocol['warning'] else 'yes'}**.  \n"
        f"Model: {escape(model['class'])}, {escape(model['encoder'])}, {model['details']}.  \n"
        f"Seeds {', '.join(map(str, cv['seeds']))}; commit {cv['commit']}; {versions}.",
        f"## Mean over folds{warning}",
        markdown_table(["seed", *names], means),
        _explain_spread(len(cv["folds"]), several),
        f"## Pooled predictions of all folds{warning}",
        markdown_table(["seed", *names], pools),
        f"In brackets 95 % intervals by bootstrap over {pooled['per_seed'][0]['intervals_over']}; chance UAR "
        f"{pooled['chance_uar']:.3f}.",
        *_comparisons(pooled["per_seed"], warning),
        f"## Classes, pooled{', mean over seeds' if several else ''}{warning}",
        markdown_table(["class", "precision", "recall", "F1", "utterances"], classes),
        f"## Folds{warning}",
        markdown_table([*sizes, *names], runs),
        *(f"Fold {k} tests no {words}: its UAR and macro F1 are over the others." for k, words in sorted(absent)),
        "## Corpus",
        f"{escape(corpus['title'])}, licence {escape(corpus['licence'])}. {escape(corpus['notes'])}",
        "\n".join(f"- {escape(line)}" for line in corpus["lines"]),
        f"## Run again\n\n```\n{cv['command']}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def spread(figure: dict) -> str:
    """Mean ± standard deviation over folds, if there are several."""
    return _number(figure["mean"]) + ("" if figure["sd_over_folds"] is None else f" ± {figure['sd_over_folds']:.3f}")


def _interval(scores: dict, name: str) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(scores["metrics"][name], *scores["intervals"][name])


def _comparisons(per_seed: list[dict], warning: str) -> list[str]:
    """The pooled predictions beside those of the systems that every fold was compared with, if there are any."""
    from ..evaluation.report import comparison_table

    if not per_seed[0]["comparisons"]:
        return []
    tables = [(one["seed"], comparison_table({"test": one, "comparisons": one["comparisons"]})) for one in per_seed]
    rows = [[seed, system, *cells.values()] for seed, table in tables for system, cells in table.items()]
    columns = list(next(iter(tables[0][1].values())))
    return [
        f"## Compared on the pooled predictions{warning}",
        markdown_table(["seed", "system", *map(shown, columns)], rows),
        "A difference is this system's figure minus the other's, with a 95 % interval by paired bootstrap over "
        f"{per_seed[0]['intervals_over']}.",
    ]


def _completeness(cv: dict) -> str:
    folds, tested = f"{len(cv['folds'])} of {cv['protocol']['folds']} folds", cv["coverage"]
    lines = [f"**PARTIAL: {folds} ({' '.join(map(str, cv['folds']))}).**" if cv["partial"] else f"{folds}, complete."]
    expected, others = tested["in_test_sets"], tested["utterances"] - tested["in_test_sets"]
    if tested["exactly_once"]:
        lines.append(f"Each of the {expected} utterances in their test sets was tested exactly once.")
    if tested["never_tested"]:
        first = ", ".join(tested["first_never_tested"])
        lines.append(f"**{tested['never_tested']} of their {expected} test utterances were NOT tested: {first} ...**")
    if tested["tested_more_than_once"]:
        first = ", ".join(tested["first_tested_more_than_once"])
        lines.append(f"**{tested['tested_more_than_once']} utterances were tested MORE THAN ONCE: {first} ...**")
    lines.append(f"{others} utterances of the corpus are in none." if others else "They are the whole corpus.")
    return " ".join(lines)


def _explain_spread(folds: int, several_seeds: bool) -> str:
    text = f"± is the standard deviation over the {folds} folds (n - 1); every fold counts once, whatever its size."
    if folds == 1:
        text = "One fold: there is no standard deviation over folds."
    if several_seeds:
        text += " Row `mean`: the mean over seeds of the rows above it, also of their standard deviations over folds. "
        text += "Row `sd over seeds`: the standard deviation of the seeds' means (n - 1)."
    return text
