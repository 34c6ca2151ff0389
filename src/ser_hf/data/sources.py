"""Corpora nobody wrote a loading script for: a folder with a `metadata.csv`, and a dataset on the Hub.

The folder follows `datasets`' audiofolder convention: a column `file_name` (relative to the folder) and `label`, and
optionally `text`, `speaker` and any optional column of `schema`. `datasets`' own audiofolder needs torchcodec even to
build; this does not.
"""

from pathlib import Path

import datasets

from ..errors import SerError
from .audio import scan
from .corpus import CorpusReport, SpeechCorpus
from .schema import COLUMNS, OPTIONAL_COLUMNS, CorpusCard, LabelConfig, features

METADATA = "metadata.csv"


def _card(title: str, utterances: int, speakers: int) -> CorpusCard:
    return CorpusCard(
        title=title,
        languages=("und",),  # BCP-47: undetermined
        licence="unknown",
        redistributable=False,
        homepage="",
        how_to_get=f"A folder with a {METADATA}.",
        layout=f"{METADATA} with the columns file_name and label, and the files it names",
        citation="",
        utterances=utterances,
        speakers=speakers,
        hours=None,
        folders=(),
        notes="The user's own data.",
    )


def folder_corpus(folder: Path) -> type[SpeechCorpus]:
    """A corpus class for a folder with a `metadata.csv`; everything else (scan, cache, report) is the base's.

    Raises:
        SerError: no `metadata.csv`, a column is missing, or a file is named twice.
    """
    import pandas as pd

    path = folder / METADATA
    if not path.is_file():
        raise SerError(f"--dataset {folder}: no {METADATA} there; it needs the columns file_name and label")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SerError(f"{path}: not a csv file ({str(error).splitlines()[0]})") from None
    missing = [column for column in ("file_name", "label") if column not in table]
    if missing:
        raise SerError(f"{path}: no column {' and '.join(missing)}; it has {', '.join(table)}")
    twice = table["file_name"][table["file_name"].duplicated()]
    if len(twice):
        raise SerError(f"{path}: {twice.iloc[0]} is named {1 + sum(twice == twice.iloc[0])} times; once is enough")
    words = [word for word in table["label"] if word]
    counts = {word: words.count(word) for word in sorted(set(words))}
    optional = tuple(name for name in OPTIONAL_COLUMNS if name in table and name != "votes")
    speakers = len(set(table["speaker"]) - {""}) if "speaker" in table else 0

    class FolderCorpus(SpeechCorpus):
        CARD = _card(folder.name, len(words), speakers)
        BUILDER_CONFIGS = [
            LabelConfig(name="labels", version="1.0.0", label_map={word: word for word in counts}, counts=counts)
        ]
        DEFAULT_CONFIG_NAME = "labels"
        OPTIONAL = optional

        @classmethod
        def root(cls, place: Path) -> Path | None:
            return place if (place / METADATA).is_file() else None

        @classmethod
        def generate(cls) -> Path | None:
            return folder.absolute()

        def utterances(self, root: Path) -> list[dict]:
            rows = []
            for row in table.to_dict("records"):
                kept = {name: row[name] or None for name in optional}
                for name in optional:
                    if kept[name] is not None and OPTIONAL_COLUMNS[name].dtype.startswith("float"):
                        kept[name] = float(kept[name])
                rows.append(
                    {
                        **kept,
                        "id": str(Path(row["file_name"]).with_suffix("")),
                        "audio": root / row["file_name"],
                        "emotion": row["label"] or None,
                        "text": row.get("text") or None,
                        "speaker": row.get("speaker") or None,
                    }
                )
            return rows

    return FolderCorpus


def load_hub(name: str, labels: str | None = None) -> tuple[datasets.Dataset, CorpusReport]:
    """A dataset on the Hub (or in the cache) in the columns of `schema`: what `ser-hf push corpus` wrote, or any
    with `audio` and `label`. All its splits are read; the name of each goes into `split`.

    Raises:
        SerError: not found, or without the two columns.
    """
    try:
        parts = datasets.load_dataset(name, labels)
    except Exception as error:  # the client raises a dozen classes that all mean: it could not be had
        raise SerError(f"--dataset {name}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    for part, rows in parts.items():
        missing = [column for column in ("audio", "label") if column not in rows.column_names]
        if missing:
            columns = ", ".join(rows.column_names)
            raise SerError(f"--dataset {name}: no column {' and '.join(missing)}; it has {columns}")
        rows = rows.cast_column("audio", datasets.Audio(decode=False))
        if "split" not in rows.column_names and len(parts) > 1:
            rows = rows.add_column("split", [part] * len(rows))
        parts[part] = rows
    found = datasets.concatenate_datasets(list(parts.values()))
    if found.features["label"].dtype == "string":
        found = found.class_encode_column("label")
    scans = [scan(audio) for audio in found["audio"]]
    keep = [i for i, result in enumerate(scans) if result["problem"] is None]
    filled = {
        "id": found["id"] if "id" in found.column_names else [f"{i:06d}" for i in range(len(found))],
        "duration": [result["duration"] for result in scans],
        "audio_hash": [result["audio_hash"] for result in scans],
    }
    for column in ("text", "speaker"):
        filled[column] = found[column] if column in found.column_names else [None] * len(found)
    for column, values in filled.items():
        if column in found.column_names:
            found = found.remove_columns(column)
        found = found.add_column(column, list(values), feature=COLUMNS[column])
    optional = tuple(column for column in OPTIONAL_COLUMNS if column in found.column_names)
    usable = found.select(keep).select_columns([*COLUMNS, *optional])
    names = usable.features["label"].names
    target = features(LabelConfig(name="hub", label_map={word: word for word in names}), optional)
    if list(names) == target["label"].names:  # another order of labels is the dataset's own and stays
        usable = usable.cast(target)
    speakers = len(set(usable["speaker"]) - {None})
    card = _card(name, len(found), speakers)
    report = CorpusReport(
        corpus=name,
        labels=labels or "default",
        label_names=list(names),
        problem_type="single_label_classification",
        utterances=len(usable),
        official=len(found),
        hours=round(sum(usable["duration"]) / 3600, 4),
        speakers=speakers,
        per_label={word: list(usable["label"]).count(index) for index, word in enumerate(names)},
        problems=[result["problem"] for result in scans if result["problem"]],
        card=card,
    )
    return usable, report
