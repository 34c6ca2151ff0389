"""What `ser-hf cv` says of its folds: figures over folds and seeds, pooled predictions, and whether all were tested."""

from collections import Counter
from typing import Any

Fold = tuple[dict, Any]  # a finished fold: its results and its table of predictions


def summarise(runs: dict[tuple[int, int], Fold], label_names: list[str]) -> dict:
    """The figures of a cross-validation.

    Args:
        runs: Finished folds by `(seed, fold)`, the same folds for every seed.
        label_names: In index order.

    Returns:
        `runs` (an entry each), `mean` (over folds; each counts once, whatever its size) and `pooled` (the predictions
        of all folds as one test set). Both of each seed, and then over seeds.
    """
    import numpy as np

    from ..evaluation.metrics import METRICS

    def mean(values: list) -> float | None:
        return None if None in values else float(np.mean(values))

    def sd(values: list) -> float | None:
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    per_seed, pooled = [], []
    for seed in dict.fromkeys(seed for seed, _ in runs):
        found = [runs[key] for key in runs if key[0] == seed]
        folds = {name: [results["test"]["metrics"][name] for results, _ in found] for name in METRICS}
        per_seed.append({"seed": seed} | {m: {"mean": mean(v), "sd_over_folds": sd(v)} for m, v in folds.items()})
        pooled.append({"seed": seed} | _pool([table for _, table in found], label_names))
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
    """What `scoring.score` says of the predictions of several folds together, and as `comparisons` what
    `scoring.compare` says of the systems that every fold was compared with (`prediction_<system>`)."""
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
        "chance_uar": results["test"]["chance"]["value"],
        "absent": [label for label, row in test["per_class"].items() if not row["support"]],
        "selected_step": trained.get("selected_step"),
        "seconds": trained.get("seconds"),
    }


def about(plan: Any, runs: dict[tuple[int, int], Fold]) -> dict:
    """All of a cross-validation that is not a figure: of what, by what, and whether it is complete."""
    from ..training.record import command as repeat
    from ..training.record import commit

    request, everything = plan.request, [results for results, _ in runs.values()]
    partial = len(plan.folds) < plan.all_folds
    command = repeat(request.recipe.stem, request.system, request.overrides, launcher="ser-hf cv")
    command += f" --seeds {' '.join(map(str, request.seeds))}"
    command += f" --folds {' '.join(map(str, plan.folds))}" if partial else ""
    command += f" --num_processes {request.num_processes}" if request.num_processes else ""
    used = [{"ser_hf": results["ser_hf"], **results["versions"]} for results in everything]
    first = everything[0]
    tables = [[table for (of, _), (_, table) in runs.items() if of == seed] for seed in request.seeds]
    return {
        "recipe": request.recipe.stem,
        "command": command,
        "commit": commit(),
        # several where folds were run with several
        "versions": {name: ", ".join(sorted({str(v.get(name)) for v in used})) for name in used[0]},
        "corpus": first["corpus"],
        "model": first["model"],
        "protocol": {**first["protocol"], "fold": None, "folds": plan.all_folds},
        "folds": plan.folds,
        "partial": partial,
        "seeds": request.seeds,
        "coverage": coverage(tables, plan.ids, set().union(*plan.tests.values())),
    }


def coverage(seeds: list[list], ids: list[str], expected: set[str]) -> dict:
    """Whether every utterance that the folds test was tested exactly once with every seed.

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
    """What stands beside every figure of a run or a cross-validation that leaks, or may, or knows who speaks."""
    from ..evaluation.report import warnings

    return "".join(f" ({warning})" for warning in warnings(results))


def markdown(cv: dict) -> str:
    """The report, on screen and as `cv.md`."""
    from ..evaluation.metrics import METRICS
    from ..evaluation.report import COMPARABLE, escape, shown, warnings

    corpus, protocol, model, pooled = (cv[name] for name in ("corpus", "protocol", "model", "pooled"))
    leak, several = mark(cv), len(cv["seeds"]) > 1
    names = [shown(name) for name in METRICS]

    def spread(one: dict) -> str:
        return f"{one['mean']:.3f}" + ("" if one["sd_over_folds"] is None else f" ± {one['sd_over_folds']:.3f}")

    def interval(one: dict, name: str) -> str:
        return "{:.3f} [{:.3f}, {:.3f}]".format(one["metrics"][name], *one["intervals"][name])

    means = [[one["seed"], *(spread(one[name]) for name in METRICS)] for one in cv["mean"]["per_seed"]]
    pools = [[one["seed"], *(interval(one, name) for name in METRICS)] for one in pooled["per_seed"]]
    if several:
        over = cv["mean"]["over_seeds"]
        means.append(["mean", *(spread(over[name]) for name in METRICS)])
        means.append(["sd over seeds", *(f"{over[name]['sd_over_seeds']:.3f}" for name in METRICS)])
        pools.append(["mean", *(f"{pooled['over_seeds']['metrics'][name]:.3f}" for name in METRICS)])
    scores = ("precision", "recall", "f1")
    classes = [
        [escape(label), *("-" if one[k] is None else f"{one[k]:.3f}" for k in scores), round(one["support"])]
        for label, one in pooled["over_seeds"]["per_class"].items()
    ]
    sizes = ("seed", "fold", "utterances", "speakers")
    runs = [[*(one[k] for k in sizes), *(f"{one['metrics'][name]:.3f}" for name in METRICS)] for one in cv["runs"]]
    absent = {(one["fold"], ", ".join(one["absent"])) for one in cv["runs"] if one["absent"]}
    versions = ", ".join(f"{name} {version}" for name, version in cv["versions"].items())
    parts = [
        f"# {escape(corpus['corpus'])} ({escape(corpus['labels'])}), {escape(protocol['name'])}{leak}",
        _completeness(cv),
        *(COMPARABLE[warning] for warning in warnings(cv)),
        f"Protocol: {escape(protocol['name'])} ({escape(protocol['source'])}). "
        f"Speaker-independent: **{'NO' if protocol['warning'] else 'yes'}**.  \n"
        f"Model: {escape(model['class'])}, {escape(model['encoder'])}, {model['details']}.  \n"
        f"Seeds {', '.join(map(str, cv['seeds']))}; commit {cv['commit']}; {versions}.",
        f"## Mean over folds{leak}",
        _table(["seed", *names], means),
        _spread_of_what(len(cv["folds"]), several),
        f"## Pooled predictions of all folds{leak}",
        _table(["seed", *names], pools),
        f"In brackets 95 % intervals by bootstrap over {pooled['per_seed'][0]['intervals_over']}; chance UAR "
        f"{cv['pooled']['chance_uar']:.3f}.",
        *_comparisons(pooled["per_seed"], leak),
        f"## Classes, pooled{', mean over seeds' if several else ''}{leak}",
        _table(["class", "precision", "recall", "F1", "utterances"], classes),
        f"## Folds{leak}",
        _table([*sizes, *names], runs),
        *(f"Fold {k} tests no {words}: its UAR and macro F1 are over the others." for k, words in sorted(absent)),
        "## Corpus",
        f"{escape(corpus['title'])}, licence {escape(corpus['licence'])}. {escape(corpus['notes'])}",
        "\n".join(f"- {escape(line)}" for line in corpus["lines"]),
        f"## Run again\n\n```\n{cv['command']}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _comparisons(per_seed: list[dict], leak: str) -> list[str]:
    """The pooled predictions beside those of the systems that every fold was compared with, if there are any."""
    from ..evaluation.report import comparison_table, shown

    if not per_seed[0]["comparisons"]:
        return []
    tables = [(one["seed"], comparison_table({"test": one, "comparisons": one["comparisons"]})) for one in per_seed]
    rows = [[seed, system, *cells.values()] for seed, table in tables for system, cells in table.items()]
    columns = list(next(iter(tables[0][1].values())))
    return [
        f"## Compared on the pooled predictions{leak}",
        _table(["seed", "system", *map(shown, columns)], rows),
        "A difference is this system's figure minus the other's, with a 95 % interval by paired bootstrap over "
        f"{per_seed[0]['intervals_over']}.",
    ]


def _table(head: list, rows: list[list]) -> str:
    """Markdown whose columns are also aligned on a screen."""
    widths = [max(len(str(line[at])) for line in (head, *rows)) for at in range(len(head))]
    lines = [" | ".join(str(cell).ljust(width) for cell, width in zip(r, widths, strict=True)) for r in (head, *rows)]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("-" * width for width in widths), *lines[1:]))


def _completeness(cv: dict) -> str:
    of, tested = f"{len(cv['folds'])} of {cv['protocol']['folds']} folds", cv["coverage"]
    lines = [f"**PARTIAL: {of} ({' '.join(map(str, cv['folds']))}).**" if cv["partial"] else f"{of}, complete."]
    everything, others = tested["in_test_sets"], tested["utterances"] - tested["in_test_sets"]
    if tested["exactly_once"]:
        lines.append(f"Each of the {everything} utterances in their test sets was tested exactly once.")
    if tested["never_tested"]:
        first = ", ".join(tested["first_never_tested"])
        lines.append(f"**{tested['never_tested']} of their {everything} test utterances were NOT tested: {first} ...**")
    if tested["tested_more_than_once"]:
        first = ", ".join(tested["first_tested_more_than_once"])
        lines.append(f"**{tested['tested_more_than_once']} utterances were tested MORE THAN ONCE: {first} ...**")
    lines.append(f"{others} utterances of the corpus are in none." if others else "They are the whole corpus.")
    return " ".join(lines)


def _spread_of_what(folds: int, several_seeds: bool) -> str:
    text = f"± is the standard deviation over the {folds} folds (n - 1); every fold counts once, whatever its size."
    if folds == 1:
        text = "One fold: there is no standard deviation over folds."
    if several_seeds:
        text += " Row `mean`: the mean over seeds of the rows above it, also of their standard deviations over folds. "
        text += "Row `sd over seeds`: the standard deviation of the seeds' means (n - 1)."
    return text
