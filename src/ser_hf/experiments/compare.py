"""Compare systems: finished cross-validations of the same folds, on one corpus or on several.

    ser-hf compare runs/emodb_wav2vec2_cv runs/emodb_spectrogram_cv
    ser-hf compare recipes/results/emodb/speaker-folds/*.json recipes/results/ravdess/6fold/*.json
    ser-hf compare large=runs/emodb_a large=runs/ravdess_a small=runs/emodb_b small=runs/ravdess_b --out runs/large

Results are folders of `ser-hf cv`, or files of recipes/results. A system is called as its folder or file without the
corpus's name, or by NAME=. On each corpus every two systems are compared by their pooled predictions, utterance by
utterance (paired bootstrap over speakers; folders only, a file of recipes/results has no predictions). Over several
corpora three systems or more are compared by Friedman's test and Nemenyi's critical difference of mean ranks, two by
Wilcoxon's signed ranks (Demsar 2006). Written are compare.json, compare.md and critical_difference.png.
"""

import json
import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli.console import Parser
from ..errors import SerError
from ..evaluation import CLASSES
from ..evaluation.tables import escape, markdown_table, number, shown, with_interval
from ..files import check_writable, hold, write
from ..training import run

if TYPE_CHECKING:
    from ..evaluation.tasks import Task
    from .cv_report import Fold

PARTIAL = "PARTIAL"  # the mark of results on some folds


@dataclass(frozen=True)
class Result:
    """A finished cross-validation of one system."""

    system: str
    place: str  # as it was given
    cv: dict  # content of cv.json, or of a file of recipes/results
    marks: list[str]  # what makes its figures incomparable with others
    runs: "dict[tuple[int, int], Fold]" = field(default_factory=dict)  # by (seed, fold); empty without predictions

    @property
    def corpus(self) -> str:
        return self.cv["corpus"]["corpus"]

    @property
    def task(self) -> "Task":
        from ..evaluation.tasks import TASKS

        return TASKS[self.cv.get("problem_type", CLASSES)]  # early files of recipes/results are of classes


def main(argv: list[str]) -> int:
    """Compare, print and write the report. Returns the exit status.
    Raises SerError: no such result, or results that cannot be compared."""
    parser = Parser("compare", __doc__)
    help = "a folder of ser-hf cv or a file of recipes/results; NAME=PATH gives the system's name"
    parser.add_argument("results", nargs="+", metavar="[NAME=]PATH", help=help)
    parser.add_argument("--out", default="runs/compare", metavar="FOLDER", help="folder (default: runs/compare)")
    args = parser.parse_args(argv)

    from ..evaluation.ranks import rank_figure  # after --help
    from ..evaluation.report import reading

    results = [read(word) for word in args.results]
    out = Path(args.out)
    check_writable(out, "--out", "compare.json", "compare.md", "critical_difference.png")
    with reading(" or ".join(one.place for one in results)):
        check_alike(results)
        hold(out, f"--out {out}")
        comparison = compare(results)
        report = markdown(comparison)
    (out / "critical_difference.png").unlink(missing_ok=True)  # of an earlier comparison
    if comparison["ranks"] and len(comparison["systems"]) > 2:
        title = f"mean ranks by {shown(comparison['metric'])} over {comparison['ranks']['corpora']} corpora"
        image = rank_figure(comparison["ranks"]["mean"], comparison["ranks"]["critical_difference"], title)
        write(out / "critical_difference.png", image)
        report += "\n![Mean ranks and the critical difference](critical_difference.png)\n"
    write(out / "compare.json", json.dumps(comparison, indent=2, ensure_ascii=False) + "\n")
    write(out / "compare.md", report)
    run.say(report, f"written: {out / 'compare.json'} and compare.md")
    return 0


# ---- reading


def read(word: str) -> Result:
    """The result that `[NAME=]PATH` names. Raises SerError: there is none."""
    from ..evaluation.report import read_run, reading, warnings

    name, _, place = word.rpartition("=") if "=" in word and not Path(word).exists() else ("", "", word)
    folder = Path(place)
    file = folder / "cv.json" if folder.is_dir() else folder
    try:
        cv = json.loads(file.read_text())
        corpus, title = cv["corpus"], cv.get("system") or file.resolve().parent.name.removesuffix("_cv")
    except (OSError, ValueError, KeyError, TypeError):
        raise SerError(f"{place}: no results; name a folder of ser-hf cv, or a file of recipes/results") from None
    if cv.get("system"):
        return Result(name or _short(title, corpus), place, cv, cv["marks"])
    with reading(place):
        runs = {}
        for one in cv["runs"]:
            fold = file.parent / one["folder"]
            if not (fold / "predictions.parquet").is_file():
                raise SerError(f"{fold}: holds no predictions.parquet; run the fold again by the command in {file}")
            runs[one["seed"], one["fold"]] = read_run(fold)
        marks = warnings(cv) + [PARTIAL] * cv.get("partial", False)
        return Result(name or _short(title, corpus), place, cv, marks, runs)


def _short(title: str, corpus: dict) -> str:
    """A system's name without those of the corpus and the labels.

    >>> _short("ravdess_6class_whisper_ridge", {"corpus": "ravdess", "labels": "6class"})
    'whisper_ridge'
    """
    for word in (corpus["corpus"].removeprefix("./"), corpus["labels"]):
        title = re.sub(rf"^{re.escape(word)}_(?=.)", "", title)
    return title


def check_alike(results: list[Result]) -> None:
    """Raises SerError: less than two systems, one of them twice on a corpus or not on every corpus, or results of one
    corpus with other labels, protocols, folds or utterances."""
    first = results[0]
    for one in results[1:]:
        if one.task != first.task:
            kinds = f"{first.task.name} and {one.task.name}"
            raise SerError(f"{first.place} and {one.place}: {kinds} have no metric in common; compare each alone")
    systems, corpora = ({key(one): one for one in results} for key in (lambda r: r.system, lambda r: r.corpus))
    if len(systems) < 2:
        raise SerError(f"one system, {first.system}: give two or more; NAME=PATH gives two results other names")
    by_place: dict[tuple[str, str], Result] = {}
    for one in results:
        if before := by_place.get((one.corpus, one.system)):
            both = f"{before.place} and {one.place}"
            raise SerError(f"{both}: both are {one.system} on {one.corpus}; name them: a={before.place} b={one.place}")
        by_place[one.corpus, one.system] = one
        like = next(other for other in results if other.corpus == one.corpus)
        for what, facts in _FACTS.items():
            if facts(one) != facts(like):
                both = f" ({facts(like)} and {facts(one)})" if what in ("labels", "protocol") else ""
                what = f"not the same {what} of {one.corpus}{both}"
                raise SerError(f"{like.place} and {one.place}: {what}; leave one out")
    for system in systems:
        if absent := [corpus for corpus in corpora if (corpus, system) not in by_place]:
            raise SerError(f"{system} has no result on {absent[0]}: run it there, or leave {absent[0]} or it out")
    if len({Path(one.place).resolve() for one in results}) < len(results):
        raise SerError("a result is there twice under two names; name each once")


def _ids(one: Result) -> dict[int, frozenset]:
    return {fold: frozenset(table["id"]) for (_, fold), (_, table) in one.runs.items()}


def _truth(one: Result) -> dict[str, tuple]:
    """Speaker and label of each utterance."""
    parts = (table.filter(regex="^(id|speaker|label|label_.*)$") for _, table in one.runs.values())
    return {row[0]: row[1:] for part in parts for row in part.itertuples(index=False)}


_FACTS = {
    "labels": lambda one: one.cv["corpus"]["labels"],
    "names of labels": lambda one: one.cv["corpus"]["label_names"],
    "protocol": lambda one: one.cv["protocol"]["name"],
    "folds": lambda one: sorted({(each["fold"], each["utterances"]) for each in one.cv["runs"]}),
}


# ---- figures


def compare(results: list[Result]) -> dict:
    """The content of `compare.json`. Raises SerError: two results of a fold have other utterances."""
    task = results[0].task
    systems = list(dict.fromkeys(one.system for one in results))
    corpora = {name: {r.system: r for r in results if r.corpus == name} for name in {r.corpus: 0 for r in results}}
    places = [_on_corpus(of, systems, task) for of in corpora.values()]
    comparison = {
        "metric": task.selected_by,
        "systems": systems,
        "corpora": places,
        "ranks": _ranks(places, systems) if len(corpora) > 1 else None,
    }
    return comparison | {"conclusions": conclusions(comparison)}


def _on_corpus(of: dict[str, Result], systems: list[str], task: "Task") -> dict:
    """Figures of each system on one corpus, and the paired differences of every two whose predictions are here."""
    from ..evaluation.bootstrap import intervals
    from ..evaluation.metrics import mean_defined
    from .cv_report import pooled_draws

    metric, first = task.selected_by, of[systems[0]]
    names, draws, figures = first.cv["corpus"]["label_names"], {}, {}
    for system in systems:
        one = of[system]
        seeds = one.cv["pooled"]["per_seed"]
        value, interval = seeds[0]["metrics"][metric], seeds[0]["intervals"][metric]
        if len(seeds) > 1:
            value, interval = one.cv["pooled"]["over_seeds"]["metrics"][metric], None
        if one.runs:
            value, draws[system] = pooled_draws(one.runs, names, task.problem_type)
            interval = intervals({metric: draws[system]})[metric]
        folds = {fold: [] for fold in one.cv["folds"]}
        for each in one.cv["runs"]:
            folds[each["fold"]].append(each["metrics"][metric])
        figures[system] = {
            "pooled": value,
            "interval": interval,
            "mean": one.cv["mean"]["over_seeds"][metric],
            "folds": {fold: mean_defined(over_seeds) for fold, over_seeds in folds.items()},
            "marks": one.marks,
            "from": one.cv["command"],
        }
    differences = []
    for a, b in combinations(systems, 2):
        difference = {"systems": [a, b], "difference": figures[a]["pooled"] - figures[b]["pooled"], "interval": None}
        if a in draws and b in draws:
            both = f"{of[a].place} and {of[b].place}"
            if _ids(of[a]) != _ids(of[b]):
                raise SerError(f"{both}: a fold of {first.corpus} does not have the same test utterances")
            if _truth(of[a]) != _truth(of[b]):
                raise SerError(f"{both}: an utterance of {first.corpus} has two labels or speakers; leave one out")
            difference["interval"] = intervals({metric: draws[a] - draws[b]})[metric]
        differences.append(difference)
    facts = {"corpus": first.corpus, "labels": first.cv["corpus"]["labels"], "protocol": first.cv["protocol"]["name"]}
    return facts | {"figures": figures, "differences": differences}


def _ranks(places: list[dict], systems: list[str]) -> dict:
    """Mean ranks over the corpora and the tests on them."""
    import numpy as np

    from ..evaluation import ranks

    figures = np.array([[place["figures"][system]["pooled"] for system in systems] for place in places])
    of_each, count = ranks.ranks(figures), len(systems)
    facts = {
        "corpora": len(places),
        "needed": ranks.needed(count),
        "level": ranks.LEVEL,
        "of_each": {
            place["corpus"]: dict(zip(systems, row.tolist(), strict=True))
            for place, row in zip(places, of_each, strict=True)
        },
        "mean": dict(zip(systems, of_each.mean(axis=0).tolist(), strict=True)),
    }
    if count == 2:
        return facts | {"test": "Wilcoxon's signed ranks", "p": ranks.signed_ranks(figures[:, 0] - figures[:, 1])}
    statistic, p = ranks.friedman(figures) or (None, None)
    difference = ranks.critical_difference(count, len(places))
    alike = [[systems[i] for i in group] for group in ranks.groups(of_each.mean(axis=0), difference)]
    return facts | {
        "test": "Friedman",
        "statistic": statistic,
        "p": p,
        "critical_difference": difference,
        "alike": alike,
    }


# ---- words


def conclusions(comparison: dict) -> list[str]:
    """What may be concluded, in sentences."""
    metric, ranked, lines = shown(comparison["metric"]), comparison["ranks"], []
    pairs = [(place, one) for place in comparison["corpora"] for one in place["differences"]]
    for place, one in pairs:
        (a, b), difference, interval = one["systems"], one["difference"], one["interval"]
        amount = f"{metric} differs by {with_interval(difference, interval)}"
        if interval is None:
            continue
        if interval[0] > 0 or interval[1] < 0:
            verdict = f"{a if difference > 0 else b} is better on speakers like these"
        else:
            verdict = "no difference is shown, which does not say that they are equal"
        lines.append(f"{place['corpus']}, {a} minus {b}: {amount}; {verdict}.")
    tested = [one for _, one in pairs if one["interval"]]
    if len(tested) < len(pairs):
        count = f"{len(pairs) - len(tested)} of {len(pairs)} differences have no interval"
        lines.append(f"{count}: a file of recipes/results has no predictions; give both folders of ser-hf cv.")
    if len(tested) > 1:
        many = f"These are {len(tested)} comparisons at 95 % each"
        lines.append(f"{many}: one in twenty would show a difference where there is none.")
    for place in comparison["corpora"]:
        marks = {system: ", ".join(one["marks"]) for system, one in place["figures"].items()}
        if len(set(marks.values())) > 1:
            named = "; ".join(f"{system}: {words}" for system, words in marks.items() if words)
            lines.append(f"{place['corpus']}: not of one kind ({named}); a difference may come from that.")
        if any(PARTIAL in one["marks"] for one in place["figures"].values()):
            lines.append(f"{place['corpus']}: PARTIAL, folds are left out; the whole protocol may say otherwise.")
    if ranked is None:
        return [*lines, "One corpus: nothing is said of others. Its folds share training data, so they are not ranked."]
    count, needed = ranked["corpora"], ranked["needed"]
    if count < needed:
        few = f"{count} corpora are too few for any difference to show over corpora"
        need = f"{len(comparison['systems'])} systems need at least {needed}, if every corpus ranks them alike"
        return [*lines, f"{few}: {need}."]
    if ranked["p"] is None:
        return [*lines, "Over corpora: all systems are equal."]
    test = f"{ranked['test']} over {count} corpora: p = {ranked['p']:.3f}"
    if ranked["p"] >= ranked["level"]:
        return [*lines, f"{test}: no difference between the systems can be concluded."]
    mean = ranked["mean"]
    if len(mean) == 2:
        return [*lines, f"{test}: {min(mean, key=mean.get)} is better."]
    limit = ranked["critical_difference"]
    better = [f"{a} than {b}" for a in mean for b in mean if mean[b] - mean[a] > limit]
    pairwise = f"better are {', '.join(better)}" if better else "but no two lie so far apart"
    lines.append(f"{test}: the systems differ. Mean ranks differ where they lie {limit:.2f} apart: {pairwise}.")
    return [*lines, "Of other pairs no difference is shown, which does not say that they are equal."]


def markdown(comparison: dict) -> str:
    """The report, on screen and as `compare.md`."""
    from .cv_report import spread

    systems, metric, ranked = comparison["systems"], shown(comparison["metric"]), comparison["ranks"]
    rows = []
    for place in comparison["corpora"]:
        figures = [place["figures"][system] for system in systems]
        cells = [with_interval(one["pooled"], one["interval"]) for one in figures]
        rows.append([f"{place['corpus']}, {place['labels']}", place["protocol"], *cells])
    if ranked:
        rows.append(["mean rank", "", *(f"{ranked['mean'][system]:.2f}" for system in systems)])
    parts = [
        f"# {escape(', '.join(systems))}",
        f"{metric} of the pooled predictions, mean over seeds, in brackets 95 % intervals by bootstrap over speakers:",
        markdown_table(["corpus", "protocol", *systems], rows),
        "\n".join(f"- {escape(line)}" for line in comparison["conclusions"]),
    ]
    for place in comparison["corpora"]:
        figures = [place["figures"][system] for system in systems]
        folds = [[fold, *(number(one["folds"][fold]) for one in figures)] for fold in figures[0]["folds"]]
        folds.append(["mean ± sd", *(spread(one["mean"]) for one in figures)])
        parts += [f"## Folds of {escape(place['corpus'])}", markdown_table(["fold", *systems], folds)]
    return "\n\n".join(parts) + "\n"
