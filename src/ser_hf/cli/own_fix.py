"""The cleaned table of `ser-hf check PATH --fix OUT`: the rows that can be used, with misspelled words renamed."""

import json
import os
from collections import Counter
from pathlib import Path

import pandas as pd

from ..data.labels import is_labelled
from ..data.loading import Source
from ..data.schema import OPTIONAL_COLUMNS
from ..errors import SerError
from ..files import try_out, write


def fix_target(text: str) -> Path:
    """The file of `--fix`: a new csv, or metadata.csv in a new folder. SerError: it exists, or cannot be written."""
    out = Path(text).expanduser().absolute()
    if out.suffix and out.suffix.lower() != ".csv":
        raise SerError(f"--fix {text}: writes csv; name a file such as {out.with_suffix('.csv').name}, or a new folder")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        example = f", such as {out}/metadata.csv" if out.is_dir() else ""
        raise SerError(f"--fix {text}: exists, and nothing is written over; name a new folder or file{example}")
    file = out if out.suffix else out / "metadata.csv"
    try_out(file.parent, f"--fix {text}")
    return file


def reasons(rows: list[dict], report: dict) -> list[str | None]:
    """Why each row is left out of the cleaned table; None for those that stay."""
    torn = {id for one in report["duplicated"] if one["contradictory"] for id in one["ids"]}
    copies = {id for one in report["duplicated"] for id in one["ids"][1:]} - torn
    some = sum(row["speaker"] is not None for row in rows) * 2 >= len(rows)

    def reason(row: dict) -> str | None:
        if row["problem"]:
            return "files that are missing or cannot be used"
        if not is_labelled(row):
            return "without a label"
        if row["speaker"] is None and some:
            return "without a speaker"
        if row["id"] in torn:
            return "equal recordings of other speakers, labels or splits, all of them"
        return "copies of one recording, all but the first" if row["id"] in copies else None

    return [reason(row) for row in rows]


def cleaned(rows: list[dict], report: dict, targets: tuple[str, ...], folder: Path) -> pd.DataFrame:
    """The table of these rows, in the names that are found without flags: names of files below `folder` are relative to
    it, others absolute; of several labels a list, of votes an object, of values a column each."""
    labels, speakers = report["renamed"]["labels"], report["renamed"]["speakers"]

    def label(row: dict) -> str:
        if row.get("votes"):
            votes = Counter()
            for word, number in zip(sorted(report["classes"]), row["votes"], strict=True):
                votes[labels.get(word, word)] += number
            return json.dumps(votes)
        words = [labels.get(word, word) for word in row["classes"]]
        return words[0] if row["emotion"] is not None else json.dumps(words, ensure_ascii=False)

    def name(path: str) -> str:
        return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path

    table = []
    for row in rows:
        cells = {"file_name": name(row["audio"])} if row["audio"] else {}
        cells |= {target: row["scores"][target] for target in targets} or {"label": label(row)}
        cells |= {"speaker": speakers.get(row["speaker"], row["speaker"]), "text": row["text"], "id": row["id"]}
        cells |= {column: row[column] for column in OPTIONAL_COLUMNS if column != "votes" and column in row}
        table.append(cells)
    return pd.DataFrame(table).dropna(axis=1, how="all")


def fix(source: Source, rows: list[dict], report: dict, file: Path, out: str) -> list[str]:
    """Write the cleaned table; returns what was left out. SerError: the recordings are no files; no row is left."""
    if any("part" in row for row in rows):
        raise SerError(f"--fix: the recordings of {source.shown} are in the dataset, and a csv can only name files")
    why = reasons(rows, report)
    kept = [row for row, reason in zip(rows, why, strict=True) if reason is None]
    if not kept:
        raise SerError(f"--fix: no row of {source.shown} can be used; nothing was written")
    values = source.config.targets if source.config.problem_type == "regression" else ()
    frame = cleaned(kept, report, values, file.parent)
    write(file, frame.to_csv(index=False))
    lost = [f"{reason} ({number})" for reason, number in Counter(filter(None, why)).items()]
    renamed = [f"{word} = {other}" for names in report["renamed"].values() for word, other in names.items()]
    flags = [f"--label_columns {' '.join(values)}"] * bool({*values} - {"label", "arousal", "valence", "dominance"})
    flags += ["--group_column group"] * ("group" in frame and not any(row.get("cut") for row in kept))
    return [
        f"wrote {file}: {len(kept)} of {len(rows)} rows" + (f"; left out: {', '.join(lost)}" if lost else ""),
        *([f"renamed: {', '.join(renamed)}"] if renamed else []),
        " ".join([f"next: --dataset {out}", *flags]),
    ]
