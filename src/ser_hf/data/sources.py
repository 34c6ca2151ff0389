"""The user's own corpora, without a loading script: a folder with a `metadata.csv`, and a dataset on the Hub.

The folder follows `datasets`' audiofolder convention (which needs torchcodec even to build): the columns `file_name`
(relative to the folder) and `label`, and optionally `text`, `speaker` and any optional column of `schema`.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..errors import SerError
from .corpus import SpeechCorpus, state_line
from .schema import OPTIONAL_COLUMNS, CorpusCard, LabelConfig

METADATA = "metadata.csv"


def folder_corpus(folder: Path) -> type[SpeechCorpus]:
    """A corpus class for a folder (absolute) with a `metadata.csv`. An id is the file's path without suffix, or with it
    where two files differ in nothing else. SerError: no `metadata.csv`, a column is missing, no label, or a file is
    named twice."""
    import pandas as pd

    path = folder / METADATA
    if not path.is_file():
        raise SerError(f"--dataset {folder}: no {METADATA} there; it needs the columns file_name and label")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")  # a short row's cells are NaN
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SerError(f"{path}: not a csv file ({str(error).splitlines()[0]})") from None
    if missing := [column for column in ("file_name", "label") if column not in table]:
        raise SerError(f"{path}: no column {' and '.join(missing)}; it has {', '.join(table)}")
    nameless = int((table["file_name"] == "").sum())
    table = table[table["file_name"] != ""]
    files = table["file_name"].map(lambda name: os.path.normpath(folder / name))
    if files.duplicated().any():
        same = table["file_name"][files == files[files.duplicated()].iloc[0]]
        raise SerError(f"{path}: {same.iloc[0]} is named {len(same)} times; name it once")
    outside = [file for file in files if not Path(file).is_relative_to(folder)]
    base = os.path.commonpath(map(os.path.dirname, outside)) if outside else ""  # ids name no folder of this machine
    names = files.map(lambda file: os.path.relpath(file, folder if Path(file).is_relative_to(folder) else base))
    stems = names.map(lambda name: os.path.splitext(name)[0])
    ids = names.where(stems.duplicated(keep=False), stems)
    rows = table.assign(id=ids, audio=files, label=_parsed(list(table["label"]))).to_dict("records")
    remarks = [f"rows of {METADATA} that name no file: {nameless}; they are skipped"] if nameless else []
    optional = tuple(name for name in OPTIONAL_COLUMNS if name in table and name != "votes")

    class FolderCorpus(_own_corpus(folder.name, "labels", rows, optional, remarks=remarks)):
        @classmethod
        def generate(cls) -> Path:
            return folder

        @classmethod
        def state(cls, root: Path) -> Iterator[str]:
            yield from super().state(root)
            yield from (state_line(file, os.stat(file)) for file in filter(os.path.isfile, outside))

    return FolderCorpus


def _parsed(cells: list[str]) -> list:
    """Labels of a csv, which knows text only: numbers, or lists such as `[0, 1]`, if all of them are."""
    try:
        values = [json.loads(cell) if cell else None for cell in cells]
    except ValueError:
        return cells
    return values if all(value is None or type(value) in (int, float, list) for value in values) else cells


def hub_corpus(name: str, labels: str | None = None) -> type[SpeechCorpus]:
    """A corpus class for a dataset on the Hub (or in the cache): what `ser-hf push corpus` wrote, or any dataset with
    `audio` and `label`. All its splits are read; the name of each goes into the column `split`. SerError: not found,
    without the two columns, or without a label."""
    rows, audio, missing = [], {}, []
    try:
        parts = datasets.load_dataset(name, labels)
        for part, data in parts.items():
            missing = missing or [column for column in ("audio", "label") if column not in data.features]
            if not missing:
                audio[part] = data.select_columns("audio").cast_column("audio", datasets.Audio(decode=False))
    except Exception as error:  # the client raises a dozen classes that all mean: not available
        raise SerError(f"--dataset {name}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    if missing:
        columns = ", ".join(next(iter(parts.values())).features)
        raise SerError(f"--dataset {name}: no column {' and '.join(missing)}; it has {columns}")
    classes = {part: tuple(getattr(data.features["label"], "names", None) or ()) for part, data in parts.items()}
    order = next(iter(classes.values())) if len({*classes.values()}) == 1 else ()
    for part, data in parts.items():
        columns = [name for name in ("id", "label", "text", "speaker", *OPTIONAL_COLUMNS) if name in data.features]
        for index, row in enumerate(data.select_columns(columns).to_list()):
            if classes[part] and row["label"] is not None:  # -1 is the Hub's way to say: no label
                row["label"] = classes[part][row["label"]] if row["label"] >= 0 else None
            id = _text(row.get("id")) or f"{len(rows):06d}"
            split = {"split": part} if len(parts) > 1 else {}
            rows.append({**split, **row, "id": id, "audio": None, "part": part, "index": index})
    if len(parts) > 1 and len({row["id"] for row in rows}) < len(rows):  # each split may count from 0
        rows = [{**row, "id": f"{row['part']}/{row['id']}"} for row in rows]
    optional = tuple(column for column in OPTIONAL_COLUMNS if any(column in row for row in rows))

    class HubCorpus(_own_corpus(name, labels or "default", rows, optional, order)):
        @classmethod
        def state(cls, root: None) -> Iterator[str]:
            yield from (f"{part} {data._fingerprint}\n" for part, data in parts.items())

        def with_audio(self, rows: list[dict]) -> list[dict]:
            rows = [{**row, "audio": audio[row["part"]][row["index"]]["audio"]} for row in rows]
            return [{**row, "problem": None if row["audio"] else f"{row['id']}: no audio"} for row in rows]

    return HubCorpus


def _own_corpus(
    title: str,
    config_name: str,
    rows: list[dict],
    optional: tuple[str, ...],
    order: tuple[str, ...] = (),
    remarks: Sequence[str] = (),
) -> type[SpeechCorpus]:
    """The corpus class of these rows, whose columns are converted to the schema's types."""
    config, targets = label_set(title, config_name, [row["label"] for row in rows], order)
    table = [
        {name: row.get(name) for name in ("id", "audio", "part", "index")}
        | {name: _typed(name, row.get(name)) for name in ("text", "speaker", *optional)}
        | target
        for row, target in zip(rows, targets, strict=True)
    ]
    remarks = list(remarks)
    for name in optional:
        values = [row.get(name) for row, new in zip(rows, table, strict=True) if new[name] is None]
        if wrong := [value for value in values if not _is_missing(value)]:
            remarks.append(f"values of `{name}` that are not numbers: {len(wrong)}, such as {wrong[0]!r}; left empty")

    class OwnCorpus(SpeechCorpus):
        CARD = CorpusCard(
            title=title,
            languages=("und",),  # BCP-47: undetermined
            licence="unknown",
            redistributable=False,
            homepage="",
            how_to_get=f"A folder with a {METADATA}.",
            layout=f"{METADATA} with the columns file_name and label, and the files it names",
            citation="",
            utterances=sum(config.counts.values()),
            speakers=len({row["speaker"] for row in table} - {None}),
            notes="The user's own data.",
        )
        BUILDER_CONFIGS = [config]
        DEFAULT_CONFIG_NAME = config.name
        OPTIONAL = optional
        REMARKS = tuple(remarks)

        def utterances(self, root: Path) -> list[dict]:
            return table

    return OwnCorpus


def label_set(title: str, name: str, values: list, order: tuple[str, ...] = ()) -> tuple[LabelConfig, list[dict]]:
    """The label configuration that a column of labels makes, and the `emotion` or `scores` of each of its rows.

    Words, booleans and whole numbers are classes, in the given `order` of names if any. Fractions are one value to
    regress; lists of numbers, all of one length, are a vector: several labels if they hold only 0 and 1, else values to
    regress. None, NaN and "" are no label. SerError: no row has a label; lists of several lengths, or not of numbers.

    >>> config, rows = label_set("calls", "labels", [10, 9, None])
    >>> config.label_names, [row["emotion"] for row in rows]
    (['9', '10'], ['10', '9', None])
    """
    values = [None if _is_missing(value) else value for value in values]
    present = [value for value in values if value is not None]
    if not present:
        raise SerError(f"--dataset {title}: no row has a label; fill the column `label`")
    fractions = any(isinstance(value, float) and not value.is_integer() for value in present)
    if fractions or any(isinstance(value, list) for value in present):
        vectors = [[value] if fractions and value is not None else value for value in values]
        lengths = {len(vector) if isinstance(vector, list) else None for vector in vectors if vector is not None}
        numbers = [x for vector in vectors if isinstance(vector, list) for x in vector if not _is_missing(x)]
        if len(lengths) > 1 or lengths & {None, 0} or not all(isinstance(x, int | float) for x in numbers):
            raise SerError(f"--dataset {title}: labels that are lists must hold numbers and have one length")
        targets = ("label",) if fractions else tuple(str(index) for index in range(lengths.pop()))
        kind = "regression" if fractions or {*numbers} - {0, 1} else "multi_label_classification"
        complete = [None if vector is None or any(map(_is_missing, vector)) else vector for vector in vectors]
        scores = [dict(zip(targets, vector or (), strict=vector is not None)) for vector in complete]
        config = LabelConfig(name, targets=targets, problem_type=kind, counts={"": sum(map(bool, scores))})
        return config, [{"emotion": None, "scores": score} for score in scores]
    if not order and all(isinstance(value, int | float) for value in present):
        order = tuple(dict.fromkeys(_text(value) for value in sorted(present)))
    words = [_text(value) for value in values]
    counts = Counter(word for word in words if word is not None)
    config = LabelConfig(name, counts={word: counts[word] for word in order or sorted(counts)}, order=order)
    return config, [{"emotion": word} for word in words]


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN, as pandas writes a missing number


def _text(value: Any) -> str | None:
    if _is_missing(value):
        return None
    # pandas makes floats of integers where one is missing
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _typed(column: str, value: Any) -> str | float | list | None:
    """A value of a column in the schema's type; None where it is missing or cannot be read."""
    if column == "votes":
        return value if isinstance(value, list) else None
    if column not in OPTIONAL_COLUMNS or not OPTIONAL_COLUMNS[column].dtype.startswith("float"):
        return _text(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
