"""Results as data: `ser-hf cv ... --record` writes recipes/results/<corpus>/<protocol>/<system>.json, from which
`python -m benchmarks.results` writes the tables of the READMEs."""

import json
import re
from pathlib import Path
from typing import Any

from ..errors import SerError
from ..files import local_path, write

ROOT = Path(__file__).parents[3]  # of a checkout
ONLY = "only complete results of committed code are recorded"


def results_folder() -> Path:
    """`recipes/results` of this checkout. Raises SerError: an installed package, which has none."""
    if not (ROOT / "recipes" / "configs").is_dir():
        where = "work in a checkout of it, installed by `pip install -e .`"
        raise SerError(f"recipes/results is part of the repository; {where}")
    return ROOT / "recipes" / "results"


def check_request(name: str, partial: bool) -> None:
    """Raises SerError as `record`, before a cross-validation starts; `partial`: some folds are left out."""
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


def record(cv: dict[str, Any], name: str, folder: Path) -> Path:
    """Write `cv`, the content of a `cv.json`, as `<folder>/<corpus>/<protocol>/<name>.json`, where `folder` is
    `results_folder()` and `name` the system's, such as the stem of its YAML. The same `cv` gives the same bytes: keys
    are sorted, figures have four digits.

    Raises SerError: no file name, a partial cross-validation, uncommitted changes, a path of this machine in `cv`, or a
    file of other labels under this name (earlier results of the same labels are replaced).
    """
    _check_name(name)
    if problems := _problems(cv):
        raise SerError(f"--record {name}: {problems[0]}; {ONLY}")
    content = as_record(cv, name)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if path := local_path(text):
        raise SerError(f"--record {name}: {path} is a path of this machine; name it by a relative path")
    # What fits on one line stands on one line: a confusion matrix is read row by row.
    text = re.sub(r"([\[{])\n\s+([^\[\]{}]*?)\n\s+([\]}])", _on_one_line, text)
    place = folder / cv["corpus"]["corpus"].replace("/", "--") / cv["protocol"]["name"] / f"{name}.json"
    if place.exists() and (labels := json.loads(place.read_text())["corpus"]["labels"]) != content["corpus"]["labels"]:
        raise SerError(f"--record {name}: {place.name} holds the results of labels {labels!r}; choose another name")
    write(place, text + "\n")
    return place


def _on_one_line(match: re.Match) -> str:
    line = match[1] + re.sub(r",\n\s+", ", ", match[2]) + match[3]
    return line if len(line) <= 100 else match[0]


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
    from ..evaluation.tasks import CLASSES, TASKS

    def minutes(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds / 60, 2)

    corpus, pooled = cv["corpus"], cv["pooled"]
    seconds = [run["seconds"] for run in cv["runs"]]
    counts = ("corpus", "labels", "label_names", "utterances", "official", "missing", "speakers", "hours", "per_label")
    task = TASKS[cv["problem_type"]]
    of_pooled = ("seed", "utterances", "speakers", "metrics", "intervals", "intervals_over", task.table)
    of_pooled += ("confusion",) * (task.problem_type == CLASSES) + ("comparisons",)
    chance = f"chance_{task.selected_by}"
    of_run = ("seed", "fold", "utterances", "speakers", "metrics", chance, "absent", "selected_step")
    runs = [{key: run[key] for key in of_run} | {"minutes": minutes(run["seconds"])} for run in cv["runs"]]
    per_seed = [{key: one[key] for key in of_pooled} for one in pooled["per_seed"]]
    return {
        "system": name,
        "problem_type": task.problem_type,
        **{key: cv[key] for key in ("recipe", "command", "commit", "versions", "date", "machine", "settings")},
        "marks": warnings(cv),
        "corpus": {key: corpus[key] for key in counts} | {"unusable": len(corpus["problems"])},
        **({"mixed": cv["mixed"]} if cv.get("mixed") else {}),
        "protocol": {key: value for key, value in cv["protocol"].items() if key != "fold"},
        "model": {key: cv["model"].get(key) for key in ("class", "encoder", "details", "parameters")},
        "seeds": cv["seeds"],
        "folds": cv["folds"],
        "minutes": None if None in seconds else round(sum(seconds) / 60, 1),
        "mean": rounded({key: cv["mean"][key] for key in ("per_seed", "over_seeds")}),
        "pooled": rounded({key: pooled[key] for key in (chance, "over_seeds")} | {"per_seed": per_seed}),
        "runs": rounded(runs),
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
