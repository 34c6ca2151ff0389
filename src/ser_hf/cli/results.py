"""Measured results: write the tables of recipes/README.md and README.md from the files of recipes/results.

`ser-hf cv ... --record` writes recipes/results/<corpus>/<protocol>/<system>.json. A table stands between two comments,
each on a line of its own, and everything outside them is written by hand:

    <!-- results of CORPUS -->              every system that was measured on a corpus
    <!-- summary of CORPUS/PROTOCOL/SYSTEM ... -->  one line for each of these results
    <!-- reference work -->                 the figures of recipes/results/reference.json
    <!-- end -->
"""

import json
import re
from pathlib import Path
from typing import Any

from ..errors import SerError
from ..evaluation.tables import escape, markdown_table
from ..files import write
from .console import Parser
from .cv_report import spread

ROOT = Path(__file__).parents[3]  # of a checkout
PAGES = ("recipes/README.md", "README.md")  # where tables are; the first must show every corpus with results
ONLY = "only complete results of committed code are recorded"
BLOCK = re.compile(r"(<!-- (results of|summary of|reference work)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
# The folder of a file on some machine: an absolute path or one from a home folder, but no web address.
LOCAL_PATH = re.compile(r"(?<![\w./:}\])])(?:~|[A-Za-z]:)?[/\\][\w.@+-]+[/\\][^\s'\"]*")


def main(argv: list[str]) -> int:
    """Write the tables, or with `--check` only compare them. Returns the exit status: 1 if `--check` finds a change.

    Raises:
        SerError: no checkout, or a table of results that do not exist.
    """
    parser = Parser("results", __doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 if a table is not up to date"
    )
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
            print(f"{page}: the tables are not those of recipes/results; run `ser-hf results`")
        else:
            write(ROOT / page, rendered[page])
            print(f"{page}: tables written")
    if not changed:
        print("the tables are up to date")
    return 1 if check and changed else 0


def results_folder() -> Path:
    """`recipes/results` of this checkout.

    Raises:
        SerError: an installed package, which has none.
    """
    if not (ROOT / "recipes" / "configs").is_dir():
        raise SerError(
            "recipes/results is part of the repository; work in a checkout of it, installed by `pip install -e .`"
        )
    return ROOT / "recipes" / "results"


# ---- recording


def check_request(name: str, partial: bool) -> None:
    """Check that a cross-validation that is about to start can be recorded.

    Args:
        name: Of the system, as in `record`.
        partial: Whether some folds are left out.

    Raises:
        SerError: as `record`.
    """
    from ..training.record import commit

    results_folder()
    _check_name(name)
    if partial:
        raise SerError(f"--record {name}: --folds leaves folds out; {ONLY}")
    if (commit() or "").endswith("+"):
        raise SerError(f"--record {name}: the checkout has uncommitted changes; {ONLY}")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise SerError(f"--record {name}: must be a name of letters, digits, '_', '-' and '.'")


def record(cv: dict[str, Any], name: str, folder: Path, anyway: bool = False) -> Path:
    """Write the results of a cross-validation as `<folder>/<corpus>/<protocol>/<name>.json`.

    The same `cv` always gives the same bytes: keys are sorted, figures have four digits.

    Args:
        cv: The content of `cv.json` (`cv_report.about` and `cv_report.summarise`).
        name: Of the system, such as the stem of its YAML.
        folder: `results_folder()`.
        anyway: Record a partial cross-validation, or one of uncommitted changes, too; its rows say so.

    Raises:
        SerError: no file name, a partial cross-validation, uncommitted changes, a path of this machine in `cv`, or a
            file of other labels under this name (earlier results of the same labels are replaced).
    """
    _check_name(name)
    problems = _problems(cv)
    if problems and not anyway:
        raise SerError(f"--record {name}: {problems[0]}; {ONLY}")
    content = as_record(cv, name)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if path := LOCAL_PATH.search(text):
        raise SerError(f"--record {name}: {path[0]} is a path of this machine; name it by a relative path")
    # What fits on one line stands on one line: a confusion matrix is read row by row.
    text = re.sub(r"([\[{])\n\s+([^\[\]{}]*?)\n\s+([\]}])", _on_one_line, text)
    place = folder / cv["corpus"]["corpus"].replace("/", "--") / cv["protocol"]["name"] / f"{name}.json"
    if place.exists() and (labels := json.loads(place.read_text())["corpus"]["labels"]) != content["corpus"]["labels"]:
        raise SerError(f"--record {name}: {place.name} holds the results of labels {labels!r}; choose another name")
    write(place, text + "\n")
    return place


def _on_one_line(found: re.Match) -> str:
    line = found[1] + re.sub(r",\n\s+", ", ", found[2]) + found[3]
    return line if len(line) <= 100 else found[0]


def _problems(cv: dict) -> list[str]:
    """Why results should not be recorded."""
    problems, tested = [], cv["coverage"]
    if cv["partial"]:
        problems.append(f"PARTIAL, {len(cv['folds'])} of {cv['protocol']['folds']} folds")
    if not tested["exactly_once"]:
        problems.append("NOT every utterance of the test sets was tested exactly once")
    if "+" in (cv["commit"] or ""):
        problems.append("UNCOMMITTED CHANGES")
    return problems


def as_record(cv: dict[str, Any], name: str) -> dict[str, Any]:
    """The content of a results file: `cv.json` without what belongs to one machine, and with rounded figures."""
    from ..evaluation.report import warnings

    corpus, pooled = cv["corpus"], cv["pooled"]
    seconds = [run["seconds"] for run in cv["runs"]]
    counts = ("corpus", "labels", "label_names", "utterances", "official", "missing", "speakers", "hours", "per_label")
    of_pooled = ("seed", "utterances", "speakers", "metrics", "intervals", "intervals_over", "per_class", "confusion")
    of_run = ("seed", "fold", "utterances", "speakers", "metrics", "chance_uar", "absent", "selected_step")
    return {
        "system": name,
        **{key: cv[key] for key in ("recipe", "command", "commit", "versions", "date", "machine", "settings")},
        "marks": [*warnings(cv), *_problems(cv)],
        "corpus": {key: corpus[key] for key in counts} | {"unusable": len(corpus["problems"])},
        "protocol": {key: value for key, value in cv["protocol"].items() if key != "fold"},
        "model": {key: cv["model"].get(key) for key in ("class", "encoder", "details", "parameters")},
        "seeds": cv["seeds"],
        "folds": cv["folds"],
        "minutes": None if None in seconds else round(sum(seconds) / 60, 1),
        "mean": rounded({key: cv["mean"][key] for key in ("per_seed", "over_seeds")}),
        "pooled": {
            "chance_uar": rounded(pooled["chance_uar"]),
            "per_seed": [
                rounded({key: one[key] for key in of_pooled} | {"comparisons": one["comparisons"]})
                for one in pooled["per_seed"]
            ],
            "over_seeds": rounded(pooled["over_seeds"]),
        },
        "runs": [
            rounded({key: run[key] for key in of_run})
            | {"minutes": None if run["seconds"] is None else round(run["seconds"] / 60, 2)}
            for run in cv["runs"]
        ],
    }


def rounded(value: Any) -> Any:
    """Figures at any depth, to four digits.

    >>> rounded({"uar": 0.123456, "seed": 42, "interval": [0.1, 2 / 3]})
    {'uar': 0.1235, 'seed': 42, 'interval': [0.1, 0.6667]}
    """
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


# ---- rendering


def render(page: str, folder: Path) -> str:
    """A page with the tables between its comments written anew.

    Raises:
        SerError: a comment names results that do not exist.
    """
    kinds = {"results of": _results_of, "summary of": _summary_of, "reference work": _reference_work}
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
    records = sorted(records, key=lambda one: (one["marks"], -one["mean"]["over_seeds"]["uar"]["mean"], one["system"]))
    first = records[0]
    corpus, protocol, pooled = first["corpus"], first["protocol"], first["pooled"]
    head = ["system", "UAR", "WA", "macro F1", "pooled UAR", "seeds", "minutes", "commit"]
    rows = [
        [
            _named(one),
            *(_spread(one["mean"]["over_seeds"][metric]) for metric in ("uar", "wa", "macro_f1")),
            _interval(one, "uar"),
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
    machines = {one["machine"]["accelerator"] or one["machine"]["processor"] for one in records}
    parts = [
        f"{escape(corpus['corpus'])}, {escape(corpus['labels'])}, protocol **{escape(protocol['name'])}** "
        f"({protocol['folds']} folds; {escape(protocol['source'])}): {corpus['utterances']} utterances{missing}, "
        f"{corpus['speakers'] or 'unknown'} speakers; chance UAR {pooled['chance_uar']:.3f}; intervals over "
        f"{pooled['per_seed'][0]['intervals_over']}; minutes on {' and '.join(sorted(machines))}.",
        markdown_table(head, rows),
        _comparisons(records),
    ]
    return "\n\n".join(part for part in parts if part)


def _comparisons(records: list[dict]) -> str:
    """On the pooled predictions of each seed: every system that a recorded one was compared with."""
    rows = [
        [one["system"], name.replace("_", " "), seed["seed"], *(cell for m in ("uar", "macro_f1") for cell in (
            f"{other['metrics'][m]:.3f}",
            "{:.3f} [{:.3f}, {:.3f}]".format(other["difference"][m], *other["difference_intervals"][m]),
        ))]
        for one in records
        for seed in one["pooled"]["per_seed"]
        for name, other in seed["comparisons"].items()
    ]  # fmt: skip
    head = ["system", "compared with", "seed", "its UAR", "UAR minus its", "its macro F1", "F1 minus its"]
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
    ]
    head = ["corpus, labels", "protocol", "system", "UAR", "pooled UAR", "WA", "chance UAR"]
    return markdown_table(head, rows)


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
