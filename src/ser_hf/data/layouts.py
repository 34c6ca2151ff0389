"""The user's own data of any layout as one table in this project's columns, with what had to be assumed to read it."""

import copy
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from difflib import get_close_matches
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath

import datasets
import huggingface_hub
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SerError
from ..files import walk
from .audio import MEDIA
from .cache import content_hash
from .columns import KNOWN, SPLITS, VAGUE, Columns, existing, find_columns, plain
from .corpus import state_line
from .schema import LABEL_SETS, OPTIONAL_COLUMNS, SPELLINGS
from .tables import SUFFIXES, as_text, is_missing, read_table, tidy

METADATA = tuple(f"metadata{suffix}" for suffix in (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".json"))
TYPED = tuple(name for name in OPTIONAL_COLUMNS if name not in ("start", "end", "group", "split"))
NEXT = "a table (metadata.csv with file_name, label, speaker), or one folder for each label (angry/x.wav)"
# A folder's name that says who speaks.
SPEAKER = re.compile(r"(actor|speaker|spk|subject|participant)[\s_-]?\w+", re.IGNORECASE)


@dataclass
class Listing:
    """A table in this project's columns: `audio` (a path as it is written, absolute once resolved), `label` (or a list,
    of the columns `targets`), `text`, `speaker`, `split`, `start`, `end`, `id`, `group`, and `schema`'s optional ones.
    Rows of a `datasets.Dataset` have their sound in the only column of `parts[row["part"]]`, at `row["index"]`."""

    table: dict[str, list]
    remarks: list[str]
    where: str = ""  # the table's name in messages
    targets: tuple[str, ...] = ()
    order: tuple[str, ...] = ()  # the classes in the dataset's own order
    parts: "Parts" = field(default_factory=dict)
    searched: bool = False  # whether other files in the folder may change what a name means


# ---- one table, whatever the layout


def listing_in(place: Path, columns: Columns) -> Listing:
    """The rows of a folder or a table file. SerError: there is none; a flag names a column that is not there."""
    if place.is_file():
        return _of_table(place, columns)
    names = {entry.name for entry in place.iterdir()}
    if names & {"dataset_dict.json", "state.json"}:
        return _saved(place, columns)
    if name := next((name for name in METADATA if name in names), None):
        return _of_table(place / name, columns)
    splits = sorted(name for name in names if plain(name) in SPLITS and (place / name).is_dir())
    if len(splits) > 1:
        each = {split: listing_in(place / split, columns) for split in splits}
        if len({bool(listing.parts) for listing in each.values()}) > 1:
            raise SerError(f"--dataset {place}: only some of {', '.join(splits)} hold sound; save all in one way")
        return _together({split: _in_split(listing, split) for split, listing in each.items()})
    tables = sorted(name for name in names if name[0] != "." and Path(name).suffix.lower() in SUFFIXES)
    shards = [name for name in tables if name.endswith(".parquet")] or sorted(place.glob("data/*.parquet"))
    if shards and len(tables) in (0, len(shards)) and (listing := _shards(place, shards, columns)):
        return listing
    tables = [name for name in tables if not name.endswith(".txt")] or tables
    if len(tables) == 1:
        listing = _of_table(place / tables[0], columns)
        return changed(listing, remarks=[f"the table is {tables[0]}", *listing.remarks])
    if len(tables) > 1:
        raise SerError(f"--dataset {place}: which table? it has {', '.join(tables)}; name one: {place / tables[0]}")
    return _of_folders(place, columns)


def _in_split(listing: Listing, name: str) -> Listing:
    split = SPLITS.get(plain(name), name)
    return changed(listing, table=listing.table | {"split": [split] * len(listing.table["label"])})


def _together(each: dict[str, Listing]) -> Listing:
    """The tables one after the other; the parts of each (`train` may be in several) get its name before theirs."""
    names = dict.fromkeys(name for listing in each.values() for name in listing.table)
    table = {name: [] for name in names}
    for key, listing in each.items():
        for name, cells in table.items():
            more = listing.table.get(name, [None] * len(listing.table["label"]))
            cells += [f"{key}/{part}" for part in more] if name == "part" else more
    remarks = list(dict.fromkeys(remark for listing in each.values() for remark in listing.remarks))
    orders = {listing.order for listing in each.values()}
    parts = {f"{key}/{name}": data for key, listing in each.items() for name, data in listing.parts.items()}
    first = next(iter(each.values()))
    return Listing(table, remarks, first.where, first.targets, orders.pop() if len(orders) == 1 else (), parts)


def _of_table(path: Path, columns: Columns) -> Listing:
    cells, remarks = read_table(path)
    return _resolved(listing_of(cells, columns, str(path), remarks), path.parent, path.name)


def listing_of(
    cells: pd.DataFrame, columns: Columns, where: str, remarks: Sequence[str] = (), audio: str | None = None
) -> Listing:
    """The table in this project's columns; `audio` names the column that holds sound. Errors name all of `where`, and
    remarks, which are published, its last part. SerError: a column is missing (labels, audio or text, a flag's)."""
    names, remarks, short = list(cells.columns), list(remarks), Path(where).name
    others = [name for name in names if plain(name) in VAGUE and not {*map(plain, cells[name])} & SPLITS.keys()]
    uses, assumed = find_columns(names, columns, where, others)
    if audio:
        uses["audio"] = audio
    elif "audio" not in uses or not _names_files(cells[uses["audio"]]) and not columns.audio_column:
        if name := next((name for name in names if _names_files(cells[name])), None):
            uses["audio"] = name
            assumed = [f"{assumed[0]}, audio = `{name}`" if assumed else f"columns of {short}: audio = `{name}`"]
        elif "audio" in uses and "text" in uses and not any(map(as_text, cells[uses["audio"]])):
            del uses["audio"]
    targets = tuple(existing(name, names, "--label_columns", where) for name in columns.label_columns or ())
    if not targets and "label" not in uses:
        targets = tuple(name for name in names if plain(name) in ("arousal", "valence", "dominance"))
        assumed += [f"labels of {short}: the values {', '.join(targets)}"] if targets else []
    lacking = {} if {"audio", "text"} & uses.keys() else {"for audio or text": "--audio_column or --text_column"}
    lacking |= {} if "label" in uses or targets else {"label": "--label_column"}
    if lacking:
        hint = f"name it by {' and '.join(lacking.values())}"
        if any(Path(name).suffix.lower() in MEDIA for name in names):
            hint = "its first line must name the columns, such as file_name,label,speaker"
        raise SerError(f"{where}: no column {' and '.join(lacking)}; it has {', '.join(names) or 'none'}; {hint}")
    table = {use: cells[name].tolist() for use, name in uses.items()}
    if targets:
        table["label"] = cells[list(targets)].to_numpy(dtype=object).tolist()
    if columns.group_column:
        table["group"] = cells[existing(columns.group_column, names, "--group_column", where)].tolist()
    for name in names:
        if (plain(name) in TYPED or plain(name) == "sex") and name not in uses.values():
            table[{"sex": "gender"}.get(plain(name), plain(name))] = cells[name].tolist()
    return Listing(table, remarks + assumed, short, targets)


def _names_files(column: pd.Series) -> bool:
    """Whether a column's cells look like names of sound files."""
    some = [cell for cell in column.head(100) if isinstance(cell, str) and cell]
    return sum(os.path.splitext(cell)[1].lower() in MEDIA for cell in some) > len(some) / 2


def _resolved(listing: Listing, folder: Path, where: str) -> Listing:
    """With absolute names of files, and as they are written in `named`; unchanged where no files are named. A name that
    is no file may differ from one in blanks, case, separators, Unicode form or the folders above it; it is taken where
    one file alone fits. So is a folder that is called otherwise."""
    if "audio" not in listing.table:
        return listing
    names = [as_text(cell) for cell in listing.table["audio"]]
    paths = [name and os.path.normpath(os.path.join(folder, name)) for name in names]
    there = [path is not None and os.path.exists(path) for path in paths]
    taken, similar = {path for path, exists in zip(paths, there, strict=True) if exists}, {}
    searched = any(name and not exists for name, exists in zip(names, there, strict=True))
    if searched:
        files = defaultdict(list)  # by the last part of their names, with and without suffix
        for path, _ in walk(folder):
            if str(path) not in taken:
                parts = _parts(os.path.relpath(path, folder))
                for last in {parts[-1], os.path.splitext(parts[-1])[0]}:
                    files[last].append(([*parts[:-1], last], str(path)))
        left = defaultdict(list)  # by the folder they are said to be in
        for position, (name, exists) in enumerate(zip(names, there, strict=True)):
            if name and not exists:
                asked = _parts(name)
                fits = {path for parts, path in files.get(asked[-1], ()) if _tail(parts, asked)}
                if len(fits) == 1:
                    similar[position] = fits.pop()
                elif not os.path.isdir(os.path.dirname(paths[position])):
                    left[tuple(asked[:-1])].append((position, asked[-1]))
        used = {*similar.values()}
        for missing in left.values():  # a folder that is not there: another one, if it alone has most of its files
            free = [[path for _, path in files.get(last, ()) if path not in used] for _, last in missing]
            fits = [{os.path.dirname(path): path for path in some} for some in free]
            whole = [place for place, number in Counter(chain(*fits)).items() if 2 <= number > len(missing) / 2]
            if len(whole) == 1:
                pairs = zip(missing, fits, strict=True)
                similar |= {position: fit[whole[0]] for (position, _), fit in pairs if whole[0] in fit}
    paths = [similar.get(position, path) for position, path in enumerate(paths)]
    remarks = list(listing.remarks)
    if similar:
        position = min(similar)
        name, file = names[position], os.path.relpath(similar[position], folder)
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():  # remarks are published
            name = f".../{PureWindowsPath(name).name}"
        what = f"names in {where} that are a file's in another spelling or folder: {len(similar)}"
        remarks.append(f"{what}, such as {name} = {file}")
    return changed(listing, table=listing.table | {"named": names, "audio": paths}, remarks=remarks, searched=searched)


def _parts(name: str) -> list[str]:
    name = unicodedata.normalize("NFC", name).casefold().replace("\\", "/")
    return [part.strip() for part in name.split("/") if part.strip() not in ("", ".")] or [""]


def _tail(one: list[str], other: list[str]) -> bool:
    """Whether the shorter of two names is the end of the longer."""
    least = min(len(one), len(other))
    return one[-least:] == other[-least:]


def _of_folders(root: Path, columns: Columns) -> Listing:
    """Class folders: every file of sound below `root`, with the names of its folders as columns."""
    files, seen = [], 0
    for path, _ in walk(root):
        seen += 1
        relative = path.relative_to(root)
        hidden = any(part[0] == "." or part == "__MACOSX" for part in relative.parts)
        if relative.suffix.lower() in MEDIA and not hidden:
            files.append((str(path), *relative.parts[:-1]))
    if not files:
        raise SerError(f"--dataset {root}: no metadata.csv there, and no sound in {seen} files; it needs {NEXT}")
    depth = max(map(len, files)) - 1
    names = [f"folder{level}" for level in range(1, depth + 1)]
    cells = pd.DataFrame(files, columns=["file_name", *names], dtype=object)
    cells = cells.where(cells.notna(), None)
    cells[names] = cells[names].map(tidy)
    if not depth:
        problem = f"no metadata.csv there to say the labels of its {len(files)} files"
        raise SerError(f"--dataset {root}: {problem}: it needs {NEXT}")
    known = {name: sum(str(cell).casefold() in SPELLINGS for cell in cells[name]) for name in names}
    label, remarks = max(known, key=known.get), []
    if columns.label_column is None and columns.label_columns is None:
        if depth > 1 and known[label] < len(cells) / 2:
            levels = " or ".join(f"--label_column {name} ({', '.join(_some(cells[name]))})" for name in names)
            raise SerError(f"--dataset {root}: no metadata.csv there; which folders are the labels? {levels}")
        columns = changed(columns, label_column=label)
        remarks.append(f"labels are the names of folders{f', `{label}` of {depth} levels' if depth > 1 else ''}")
    if columns.speaker_column is None:
        rest = [name for name in names if name not in (columns.label_column, columns.group_column)]
        speakers = [name for name in rest if all(SPEAKER.fullmatch(str(cell)) for cell in cells[name])]
        columns = changed(columns, speaker_column=speakers[0]) if speakers else columns
        if speakers:
            remarks.append(f"speakers are the names of folders, `{speakers[0]}`")
        elif rest and not {*map(plain, cells[rest[0]])} <= SPLITS.keys():
            some = ", ".join(_some(cells[rest[0]]))
            remarks.append(f"folders {some} may be speakers: then --speaker_column {rest[0]}")
    listing = listing_of(cells, columns, root.name, remarks)
    named = [os.path.relpath(path, root) for path in cells["file_name"]]
    return changed(listing, table=listing.table | {"named": named})


def _some(cells: Sequence) -> list[str]:
    values = list(dict.fromkeys(str(cell) for cell in cells if cell is not None))
    return values[:3] + ["..."] * (len(values) > 3)


# ---- datasets: saved, in shards, on the Hub


def _saved(place: Path, columns: Columns) -> Listing:
    try:
        data = datasets.load_from_disk(str(place))
    except Exception as error:  # whatever a damaged folder raises
        raise SerError(f"--dataset {place}: cannot be loaded ({_one_line(error)}); save it again") from None
    return listing_in_parts(data if isinstance(data, dict) else {"all": data}, columns, place.name, place)


def _shards(place: Path, shards: list, columns: Columns) -> Listing | None:
    """Parquet files that hold sound, by the split their names begin with; None where they hold names of files."""
    files = defaultdict(list)
    for shard in shards:
        word = re.split(r"[-_.0-9]", Path(shard).name)[0]
        files[word if plain(word) in SPLITS else "train"].append(str(place / shard))
    try:
        # `datasets` would take files of equal names and times for the same.
        state = content_hash(*(state_line(path, os.stat(path)) for paths in files.values() for path in paths))
        data = datasets.load_dataset("parquet", state, data_files=dict(files))
    except Exception as error:  # damaged, or of several schemas
        raise SerError(f"--dataset {place}: its parquet files cannot be loaded ({_one_line(error)})") from None
    if len(shards) == 1 and not any(_is_sound(kind) for kind in next(iter(data.values())).features.values()):
        return None  # a table that names files
    return listing_in_parts(data, columns, place.name, place)


def hub_builder(name: str, labels: str | None) -> datasets.DatasetBuilder:
    """The builder of a dataset on the Hub or in the cache. SerError: not found, or `labels` must choose a table."""
    try:
        try:
            return datasets.load_dataset_builder(name, labels)
        except ValueError:
            if labels not in LABEL_SETS:  # which its words may be mapped to
                raise
            return datasets.load_dataset_builder(name)
    except Exception as error:  # the client raises a dozen classes that all mean: not available
        if tables := re.search(r"(?:available configs|Available): (\[.*?\])", str(error)):
            raise SerError(f"--dataset {name}: it has several tables; name one by --labels: {tables[1]}") from None
        why = f"cannot be loaded ({_one_line(error)}), and no folder here has that name"
        raise SerError(f"--dataset {name}: {why}{near(name)}") from None


def hub_files(name: str, builder: datasets.DatasetBuilder, streaming: bool) -> Path | None:
    """The folder of a dataset on the Hub that consists of sound files; None for others. SerError: no download."""
    if not type(builder).__module__.endswith(".audiofolder"):
        return None
    if streaming:
        raise SerError(f"--streaming true: --dataset {name} is files of sound, which are downloaded; leave it out")
    try:
        return Path(huggingface_hub.snapshot_download(name, repo_type="dataset", revision=builder.hash))
    except Exception as error:
        raise SerError(f"--dataset {name}: cannot be downloaded ({_one_line(error)})") from None


def hub_parts(name: str, builder: datasets.DatasetBuilder, streaming: bool) -> "Parts":
    """All splits of a dataset on the Hub. SerError: it cannot be loaded."""
    try:
        if streaming:
            return {part: Stream(builder, part) for part in builder.as_streaming_dataset()}
        builder.download_and_prepare()
        return builder.as_dataset()
    except Exception as error:
        raise SerError(f"--dataset {name}: cannot be loaded ({_one_line(error)})") from None


def near(name: str) -> str:
    """What a mistyped path may have meant, as a question."""
    folder = Path(name).parent
    close = get_close_matches(Path(name).name, os.listdir(folder) if folder.is_dir() else [], n=1)
    return f"; did you mean {folder / close[0]}?" if close else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _is_sound(kind) -> bool:
    """Whether a column of this type holds sound."""
    if isinstance(kind, dict):
        return "bytes" in kind or {"array", "sampling_rate"} <= kind.keys()
    return isinstance(kind, datasets.Audio) or getattr(kind, "dtype", "") in ("binary", "large_binary")


class Stream:
    """A split of a dataset on the Hub, of which nothing is kept: as much of `datasets.Dataset` as is used here. Rows
    that are asked for in order are read once."""

    def __init__(self, builder: datasets.DatasetBuilder, part: str):
        self.builder, self.part, self.next, self._fingerprint = builder, part, None, builder.hash
        self.features = builder.as_streaming_dataset(part)._resolve_features().features

    def select_columns(self, columns: str | list[str]) -> "Stream":
        """With these columns alone; of parquet files nothing else is fetched."""
        columns = [columns] if isinstance(columns, str) else columns
        chosen, builder = copy.copy(self), copy.deepcopy(self.builder)
        if hasattr(builder.config, "columns"):
            builder.config.columns = columns
        chosen.features = datasets.Features({name: self.features[name] for name in columns})
        chosen.data = builder.as_streaming_dataset(self.part).select_columns(columns)
        return chosen

    def cast_column(self, column: str, kind: datasets.Audio) -> "Stream":
        chosen = copy.copy(self)
        chosen.data = self.data.cast_column(column, kind)
        return chosen

    def to_dict(self) -> dict[str, list]:
        columns = {name: [] for name in self.features}
        for batch in self.data.with_format("arrow").iter(1000):
            for name, cells in columns.items():
                cells += batch[name].to_pylist()
        return columns

    def __getitem__(self, index: int) -> dict:
        if index != self.next:
            self.rows = iter(self.data.skip(index))
        self.next = index + 1
        return next(self.rows)


Parts = dict[str, datasets.Dataset | Stream]  # by the names of splits


def listing_in_parts(parts: Parts, columns: Columns, where: str, folder: Path | None = None) -> Listing:
    """The rows of a dataset, with the splits' names; names of files are relative to `folder`."""
    each = {}
    for part, data in parts.items():
        kinds = data.features
        sounds = [name for name, kind in kinds.items() if _is_sound(kind)]
        fitting = [name for name in sounds if columns.audio_column in (None, name)]
        sound = next((name for name in fitting if plain(name) == "audio"), None) or next(iter(fitting), None)
        read = [name for name, kind in kinds.items() if name not in sounds and _is_read(name, kind, columns)]
        cells = data.select_columns(read).to_dict()
        number = len(next(iter(cells.values()), ()))
        for name, kind in ((name, kinds[name]) for name in read):
            if isinstance(kind, datasets.ClassLabel):
                cells[name] = [None if is_missing(cell) else kind.names[cell] for cell in cells[name]]
            elif isinstance(getattr(kind, "feature", None), datasets.ClassLabel):  # a list of them
                cells[name] = [cell and [kind.feature.names[index] for index in cell] for cell in cells[name]]
        cells |= {sound: [None] * number} if sound else {}
        frame = pd.DataFrame(cells, dtype=object).map(tidy)
        listing = listing_of(frame, changed(columns, audio_column=None) if sound else columns, where, audio=sound)
        if sound and folder and (paths := _paths(data, sound)):
            listing = changed(listing, table=listing.table | {"audio": paths})
        elif sound:
            alone = data.select_columns(sound)
            is_audio = isinstance(kinds[sound], datasets.Audio)
            alone = alone.cast_column(sound, datasets.Audio(decode=False)) if is_audio else alone
            table = listing.table | {"part": [part] * number, "index": list(range(number))}
            listing = changed(listing, table=table, parts={part: alone})
        if not listing.parts:
            listing = _resolved(listing, folder or Path.cwd(), where)
        if len(parts) > 1 and "split" not in listing.table:
            listing = _in_split(listing, part)
        labels = kinds.get(find_columns(list(kinds), columns, where)[0].get("label"))
        each[part] = changed(listing, order=tuple(labels.names) if isinstance(labels, datasets.ClassLabel) else ())
    return _together(each)


def _is_read(name: str, kind: object, columns: Columns) -> bool:
    """Whether a column may say something of a row. Images, embeddings and the like are not read."""
    wanted = {*KNOWN["label"], "votes", *map(plain, filter(None, columns.named().values()))}
    wanted |= {*map(plain, columns.label_columns or ()), plain(columns.group_column or "votes")}
    return isinstance(kind, datasets.Value | datasets.ClassLabel) or plain(name) in wanted


def _paths(data: datasets.Dataset, column: str) -> list[str | None] | None:
    """The names of files in a column of sound that holds no sound itself; None for others."""
    cells = data.select_columns(column).with_format("arrow")[:][column]
    if not pa.types.is_struct(cells.type) or not {"bytes", "path"} <= {field.name for field in cells.type}:
        return None
    holds_sound = pc.struct_field(cells, "bytes").null_count < len(cells)
    return None if holds_sound else pc.struct_field(cells, "path").to_pylist()


def as_audio(row: dict) -> dict | None:
    """The sound of a row of `Listing.parts` as `{"bytes", "path"}`."""
    (value,) = row.values()
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, dict) and value.get("array") is not None:
        import io

        import numpy as np
        import soundfile as sf

        buffer, samples = io.BytesIO(), np.asarray(value["array"], dtype=np.float32)
        sf.write(buffer, samples, int(value["sampling_rate"]), "FLOAT", format="WAV")
        return {"bytes": buffer.getvalue(), "path": None}
    if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    return None
