"""Measured results: write the tables of recipes/README.md, README.md and benchmarks/README.md from the files of
recipes/results and from benchmarks/results.json.

    python -m benchmarks.results            # write them
    python -m benchmarks.results --check    # exit 1 if one is not up to date

`ser-hf cv ... --record` writes recipes/results/<corpus>/<protocol>/<system>.json, and `python -m benchmarks --json
benchmarks/results.json` the other. A table stands between two comments, each on a line of its own, and everything
outside them is written by hand:

    <!-- results of CORPUS -->              every system that was measured on a corpus
    <!-- summary of CORPUS/PROTOCOL/SYSTEM ... -->  one line for each of these results, if of classes
    <!-- stress of NAME ... -->             recipes/results/stress/NAME.json, each the stress.json of a run
    <!-- reference work -->                 the figures of recipes/results/reference.json
    <!-- speed of everything -->            all goals of benchmarks/results.json, met or missed
    <!-- speed of SECTION ... -->           the first goal of each of these sections
    <!-- end -->
"""

import argparse
import json
import re
import sys
from pathlib import Path

from ser_hf.errors import SerError
from ser_hf.evaluation.stress import beyond_limit, key_of
from ser_hf.evaluation.tables import escape, markdown_table, number, shown, with_interval
from ser_hf.evaluation.tasks import CLASSES, TASKS, Task
from ser_hf.experiments.cv_report import spread
from ser_hf.experiments.record import ROOT, results_folder
from ser_hf.files import write

from .__main__ import figures_of
from .figures import Figure
from .figures import number as shortened

PAGES = ("recipes/README.md", "README.md", "benchmarks/README.md")  # the first must show every corpus with results
SPEED = ROOT / "benchmarks" / "results.json"
BLOCK = re.compile(
    r"(<!-- (results of|summary of|stress of|speed of|reference work)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL
)


def main(argv: list[str] | None = None) -> int:
    """Write the tables, or with `--check` only compare them. Returns the exit status: 1 if `--check` finds a change.

    Raises:
        SerError: no checkout, or a table of results that do not exist.
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.results", description=__doc__, formatter_class=kind)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is not up to date")
    check = parser.parse_args(argv).check
    folder = results_folder()
    pages = {page: (ROOT / page).read_text() for page in PAGES}
    rendered = {page: render(text, folder) for page, text in pages.items()}
    if missing := missing_corpora(pages[PAGES[0]], folder):
        name = missing[0]
        raise SerError(f"{PAGES[0]}: no table of {name}; add the lines `<!-- results of {name} -->` and `<!-- end -->`")
    changed = [page for page in pages if rendered[page] != pages[page]]
    for page in changed:
        if check:
            print(f"{page}: the tables are not those of recipes/results; run `python -m benchmarks.results`")
        else:
            write(ROOT / page, rendered[page])
            print(f"{page}: tables written")
    if not changed:
        print("the tables are up to date")
    return 1 if check and changed else 0


def render(page: str, folder: Path) -> str:
    """A page with the tables between its comments written anew.

    Raises:
        SerError: a comment names results that do not exist.
    """
    kinds = {"results of": _results_of, "summary of": _summary_of, "stress of": _stress_of}
    kinds |= {"reference work": _reference_work, "speed of": lambda sections, _: speed(sections, SPEED)}
    return BLOCK.sub(lambda found: f"{found[1]}\n{kinds[found[2]](found[3].split(), folder)}\n\n{found[4]}", page)


def missing_corpora(page: str, folder: Path) -> list[str]:
    """Corpora with results for which a page has no table."""
    shown = {name for _, kind, names, _ in BLOCK.findall(page) if kind == "results of" for name in names.split()}
    return sorted({path.parts[-3] for path in folder.glob("*/*/*.json")} - shown)


def _load(pattern: str, folder: Path) -> list[dict]:
    files = sorted(folder.glob(f"{pattern}.json"))
    if not files:
        raise SerError(f"recipes/results/{pattern}.json: no such results; record them by `ser-hf cv ... --record`")
    return [json.loads(file.read_text()) for file in files]


def _reference(folder: Path) -> list[dict]:
    file = folder / "reference.json"
    return json.loads(file.read_text()) if file.exists() else []


def _results_of(corpora: list[str], folder: Path) -> str:
    """For each label set and protocol a caption, the systems, and the systems they were compared with."""
    groups: dict[tuple, list[dict]] = {}
    for name in corpora:
        for one in (json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}/*/*.json"))):
            key = (name, one["corpus"]["labels"], one["protocol"]["name"], one["corpus"]["utterances"])
            groups.setdefault(key, []).append(one)
    return "\n\n".join(_group(records, _reference(folder)) for records in groups.values()) or "Nothing is recorded yet."


def _group(records: list[dict], reference: list[dict]) -> str:
    # Figures with a mark stand below those without, which they cannot be compared with.
    task = task_of(records[0])
    main, columns = task.selected_by, task.summary[:3]
    records = sorted(records, key=lambda one: (one["marks"], -one["mean"]["over_seeds"][main]["mean"], one["system"]))
    first = records[0]
    corpus, protocol, pooled = first["corpus"], first["protocol"], first["pooled"]
    head = ["system", *map(shown, columns), f"pooled {shown(main)}", "seeds", "minutes", "commit"]
    rows = [
        [
            _named(one),
            *(_spread(one["mean"]["over_seeds"][metric]) for metric in columns),
            _interval(one, main),
            " ".join(map(str, one["seeds"])),
            "-" if one["minutes"] is None else f"{one['minutes']:.1f}",
            one["commit"] or "-",
        ]
        for one in records
    ]
    beside = [_reference_uar(one, reference) for one in records]
    if any(beside):
        head.append("reference work's UAR")
        rows = [[*row, cell] for row, cell in zip(rows, beside, strict=True)]
    missing = f" ({corpus['missing']} of {corpus['official']} missing)" if corpus["missing"] > 0 else ""
    machines = sorted({one["machine"]["accelerator"] or one["machine"]["processor"] for one in records})
    parts = [
        f"{escape(corpus['corpus'])}, {escape(corpus['labels'])}, protocol **{escape(protocol['name'])}** "
        f"({protocol['folds']} folds; {escape(protocol['source'])}): {corpus['utterances']} utterances{missing}, "
        f"{corpus['speakers'] or 'unknown'} speakers; chance {shown(main)} {pooled[f'chance_{main}']:.3f}; "
        f"intervals over {pooled['per_seed'][0]['intervals_over']}; minutes of training on {' and '.join(machines)}.",
        markdown_table(head, rows),
        _comparisons(records),
    ]
    return "\n\n".join(part for part in parts if part)


def _comparisons(records: list[dict]) -> str:
    """On the pooled predictions of each seed: every system that a recorded one was compared with."""
    metrics = task_of(records[0]).compared_by
    rows = [
        [one["system"], name.replace("_", " "), seed["seed"], *(cell for m in metrics for cell in (
            number(other["metrics"][m]), with_interval(other["difference"][m], other["difference_intervals"][m]),
        ))]
        for one in records
        for seed in one["pooled"]["per_seed"]
        for name, other in seed["comparisons"].items()
    ]  # fmt: skip
    figures = [head for m in metrics for head in (f"its {shown(m)}", f"{shown(m)} minus its")]
    head = ["system", "compared with", "seed", *figures]
    return markdown_table(head, rows) if rows else ""


def _summary_of(patterns: list[str], folder: Path) -> str:
    rows = [
        [
            f"{one['corpus']['corpus']}, {one['corpus']['labels']}",
            one["protocol"]["name"],
            _named(one),
            _spread(one["mean"]["over_seeds"]["uar"]),
            _interval(one, "uar"),
            _spread(one["mean"]["over_seeds"]["wa"]),
            f"{one['pooled']['chance_uar']:.3f}",
        ]
        for pattern in patterns
        for one in _load(pattern, folder)
        if task_of(one).problem_type == CLASSES
    ]
    head = ["corpus, labels", "protocol", "system", "UAR", "pooled UAR", "WA", "chance UAR"]
    return markdown_table(head, rows)


def task_of(one: dict) -> Task:
    """The task of a record; early ones are of classes and do not say so."""
    return TASKS[one.get("problem_type", CLASSES)]


def _named(one: dict) -> str:
    return one["system"] + "".join(f" ({mark})" for mark in one["marks"])


def _spread(figure: dict) -> str:
    """Mean over folds (and seeds) ± standard deviation over folds; with several seeds also that over seeds."""
    seeds = figure["sd_over_seeds"]
    return spread(figure) + ("" if seeds is None else f" (seeds ± {seeds:.3f})")


def _interval(one: dict, metric: str) -> str:
    """The pooled figure with its interval; with several seeds the mean, the lowest and the highest bound."""
    bounds = [seed["intervals"][metric] for seed in one["pooled"]["per_seed"]]
    low, high = min(bound[0] for bound in bounds), max(bound[1] for bound in bounds)
    return f"{one['pooled']['over_seeds']['metrics'][metric]:.3f} [{low:.3f}, {high:.3f}]"


def _reference_uar(one: dict, reference: list[dict]) -> str:
    """The reference work's UAR of the same kind of system on the same labels; empty if there is none."""
    settings = {"recipe": one["recipe"], "system": one["system"], **one["settings"]}
    same = [
        row
        for row in reference
        if (row["corpus"], row["labels"]) == (one["corpus"]["corpus"], one["corpus"]["labels"])
        and row["here"]  # the settings by which a system here is of that kind
        and row["here"].items() <= settings.items()
    ]
    return _printed(same, "uar")


def _stress_of(names: list[str], folder: Path) -> str:
    """What becomes of systems under each change, side by side, and the widest gap between groups by attribute."""
    reports = {name: one for name in names for one in _load(f"stress/{name}", folder)}
    head, recorded, about, gaps, made = ["change"], ["as recorded"], [], [], {}
    for name, one in reports.items():
        metric = one["metric"]
        head += [f"{name}: kept", shown(metric)]
        recorded += ["-", number(one["clean"]["metrics"][metric])]
        about.append(
            f"{name}: {one['corpus']} ({one['labels']}), {one['protocol']} fold {one['fold']}, {one['clips']} clips of "
            f"{one['speakers']} unseen speakers."
        )
        for change in one["changes"]:
            cells = [number(change["kept"]), number(change["metrics"].get(metric))]
            made.setdefault(key_of(change), {})[name] = cells
        for attribute, entry in one["groups"].items():
            if not entry["not_judged"]:
                widest = max(entry["groups"], key=lambda group: abs(group["gap"]))
                beyond = [
                    f"{group['group']}: {beyond_limit(group)}" for group in entry["groups"] if beyond_limit(group)
                ]
                figures = [number(widest[figure]) for figure in ("gap", "limit")]
                gaps.append([name, attribute, len(entry["groups"]), *figures, "; ".join(beyond) or "-"])
    rows = [[key, *(cell for name in reports for cell in cells.get(name, ["-", "-"]))] for key, cells in made.items()]
    of_gaps = ["system", "attribute", "groups", "widest gap of UAR", "its limit", "beyond chance"]
    return "\n\n".join([" ".join(about), markdown_table(head, [recorded, *rows]), markdown_table(of_gaps, gaps)])


def speed(sections: list[str], file: Path) -> str:
    """The figures that have a goal, of all sections, or of each named one the first, and what they were measured on."""
    if not file.exists():
        return "Nothing is recorded yet."
    runs = json.loads(file.read_text())
    goals = [one for one in figures_of(runs) if one["met"] is not None]
    if sections != ["everything"]:
        by_section = {one["section"]: one for one in reversed(goals)}
        goals = [by_section[name] for name in sections if name in by_section]
    rows = []
    for one in goals:
        figure = Figure(**{name: one[name] for name in Figure.__dataclass_fields__})
        value = f"{shortened(figure.value)} {figure.unit}".strip()
        goal, verdict = (
            figure.goal.replace(">=", "at least").replace("<=", "at most"),
            "met" if one["met"] else "missed",
        )
        rows.append([one["section"], figure.name.strip(), value, goal, verdict])
    if not rows:
        return "Nothing is recorded yet."
    shown = {one["section"] for one in goals}
    parts = [run for run in runs if shown & {one["section"] for one in run["figures"]}]
    about = [_measured(run, names=len(parts) > 1) for run in parts]
    return "\n\n".join([markdown_table(["section", "measure", "figure", "goal", ""], rows), *about])


def _measured(run: dict, names: bool) -> str:
    """When and where a run was, and, with `names`, of which sections."""
    machine, settings = run["machine"], run["settings"]
    sections = ", ".join(dict.fromkeys(one["section"] for one in run["figures"]))
    about = [
        *([sections] if names else []),
        f"{machine['processor']}, {machine['cores']} cores of which {machine['threads']} used",
        ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "transformers")),
        f"load {machine['load']:.1f} at the start and {machine['load_at_the_end']:.1f} at the end",
        f"rounds: {settings['rounds']}",
        machine["date"],
    ]
    return "; ".join(about) + "."


def _reference_work(_: list[str], folder: Path) -> str:
    """All figures of the reference work; the test sets of one system are in one row."""
    groups: dict[tuple, list[dict]] = {}
    for row in _reference(folder):
        groups.setdefault((row["corpus"], row["labels"], row["system"], row["n"]), []).append(row)
    rows = []
    for (corpus, labels, system, n), same in groups.items():
        test_sets = ", ".join(row["test_set"] for row in same if row["test_set"])
        figures = [_printed(same, metric) or "-" for metric in ("wa", "uar", "macro_f1")]
        command = " ".join(part for part in (same[0]["yaml"], same[0]["flags"]) if part)
        rows.append([f"{corpus}, {labels}", system, test_sets, n or "-", *figures, command, same[0]["note"] or ""])
    return markdown_table(["corpus, labels", "system", "test set", "n", "WA", "UAR", "macro F1", "here", "note"], rows)


def _printed(rows: list[dict], metric: str) -> str:
    """Figures with two digits, as the reference work prints them."""
    return " ".join(f"{row[metric]:.2f}".removeprefix("0") for row in rows if row[metric] is not None)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SerError as error:
        sys.exit(f"error: {error}")
