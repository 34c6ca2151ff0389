"""The user's own corpora, without a loading script: folders and tables of any layout, and datasets on the Hub.

Whatever the layout, it becomes one table (`layouts`), the table an index, which is kept, and the index a corpus; the
rest is `SpeechCorpus`'s.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import compress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ..errors import SerError
from ..files import folders, staged
from . import layouts
from .audio import MEDIA
from .cache import cache_home, source_hash
from .columns import SPLITS, Columns, plain
from .corpus import LEAVE_ONE_SPEAKER_OUT, RANDOM, SPEAKER_FOLDS, Protocol, SpeechCorpus, state_line
from .labels import is_labelled, label_set, one_spelling
from .layouts import Listing, Parts
from .schema import LABEL_SETS, OPTIONAL_COLUMNS, CorpusCard, LabelConfig
from .tables import as_text, is_missing


@dataclass(frozen=True)
class Index:
    """The rows of own data, and what a corpus class says of them."""

    title: str
    configs: list[LabelConfig]
    remarks: list[str]
    protocols: dict[str, Protocol]
    parts: dict[str, str]  # the fingerprint of each dataset that holds sound
    searched: bool  # as in `Listing`
    content: str  # hash of the rows
    rows: pa.Table  # a column for each key of `SpeechCorpus.utterances`


def folder_corpus(place: Path, columns: Columns) -> type[SpeechCorpus]:
    """A corpus class for a folder or a table file (absolute). SerError: it cannot be read, or as `index_of`."""
    if not place.exists():
        raise SerError(f"--dataset {place}: no such folder or file{layouts.near(str(place))}")
    if columns.streaming:
        raise SerError(f"--streaming true: --dataset {place} is on this machine, not on the Hub; leave it out")
    folder, file, opened = place if place.is_dir() else place.parent, _kept_file(place, columns), None
    index, state = _kept(file)
    if index is None or state != _state(place, index):
        listing = layouts.listing_in(place, columns)
        index, opened = index_of(folder.name, "labels", listing, columns, folder), listing.parts
        state = _state(place, index)
        _keep(file, index, state)
    return corpus_of(index, folder, lambda: opened or layouts.listing_in(place, columns).parts, state[-1])


def hub_corpus(name: str, labels: str | None, columns: Columns) -> type[SpeechCorpus]:
    """A corpus class for a dataset on the Hub (or in the cache): what `ser-hf push corpus` wrote, or any other. All its
    splits are read. SerError: not found, or as `index_of`."""
    builder, opened = layouts.hub_builder(name, labels), None
    if place := layouts.hub_files(name, builder, columns.streaming):
        return folder_corpus(place, columns)

    def read() -> Listing:
        return layouts.listing_in_parts(layouts.hub_parts(name, builder, columns.streaming), columns, name)

    file = _kept_file(name, labels, columns, builder.hash)
    index, _ = _kept(file)
    if index is None:
        here = labels if labels not in LABEL_SETS or labels == builder.config.name else None
        listing = read()
        index, opened = index_of(name, here or "default", listing, columns), listing.parts
        _keep(file, index, [])
    return corpus_of(index, None, lambda: opened or read().parts)


# ---- what is kept of it, so that a second load reads no table


def _kept_file(*what: object) -> Path:
    code = source_hash(*sorted(Path(__file__).parent.glob("*.py")))
    return cache_home() / f"own-{xxhash.xxh3_64(repr((code, *what)).encode()).hexdigest()}" / "index.arrow"


def _state(place: Path, index: Index) -> list[str]:
    """Two hashes: of what says which rows there are (the table; in a folder the names of all files, and the states of
    all that are no sound), and of the states of the files that the rows name."""
    tables, lines = [] if place.is_dir() else [str(place)], []
    if place.is_dir() or index.searched:
        for where, names in folders(place if place.is_dir() else place.parent):
            lines.append(f"{where} {names}\n")
            if place.is_dir():
                tables += [f"{where}/{name}" for name in names if not name.lower().endswith(tuple(MEDIA))]
    lines += map(_line, tables)
    named = map(_line, index.rows["audio"].unique().drop_null().to_pylist())
    return [xxhash.xxh3_64("".join(some).encode(errors="surrogatepass")).hexdigest() for some in (lines, named)]


def _line(path: str) -> str:
    try:
        return state_line(path, os.stat(path))
    except (OSError, ValueError):
        return f"{path} missing\n"


def _keep(file: Path, index: Index, state: list[str]) -> None:
    facts = {entry.name: getattr(index, entry.name) for entry in fields(index) if entry.name != "rows"}
    rows = index.rows.replace_schema_metadata({"index": json.dumps([facts, state], default=asdict)})
    with suppress(OSError), staged(file) as half, pa.ipc.new_file(half, rows.schema) as writer:
        writer.write_table(rows)  # where nothing can be kept, it is made again each time


def _kept(file: Path) -> tuple[Index | None, list[str]]:
    """What `_keep` wrote; the rows stay on the disk until they are used."""
    try:
        rows = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        facts, state = json.loads(rows.schema.metadata[b"index"])
    except (OSError, ValueError):  # nothing is kept yet, or it is damaged
        return None, []
    configs = [LabelConfig(**config) for config in facts["configs"]]
    protocols = {name: Protocol(**protocol) for name, protocol in facts["protocols"].items()}
    return Index(**facts | {"configs": configs, "protocols": protocols, "rows": rows}), state


# ---- from a table to a corpus


def index_of(title: str, config_name: str, listing: Listing, columns: Columns, folder: Path | None = None) -> Index:
    """The index of a table. SerError: no labels, a file (or its part) is named twice, or the groups are the labels."""
    table, remarks, size = listing.table, list(listing.remarks), len(listing.table["label"])
    if "audio" in table and not listing.parts and (nameless := table["audio"].count(None)):
        remarks.append(f"rows of {listing.where} that name no file: {nameless}; they are skipped")
        named = [path is not None for path in table["audio"]]
        table = {name: list(compress(cells, named)) for name, cells in table.items()}
        size -= nameless
    labels = label_set(title, config_name, table["label"], listing.order, listing.targets)
    rows = {name: table.get(name, [None] * size) for name in ("id", "audio", "text", "speaker", "label")}
    rows["text"] = [None if cell != cell or not str(cell or "").strip() else str(cell) for cell in rows["text"]]
    rows["speaker"], more = one_spelling([as_text(cell) for cell in rows["speaker"]], "speakers")
    remarks += [*labels.remarks, *more]
    rows |= {name: table[name] for name in ("named", "part", "index") if name in table}
    rows["problem"] = [None] * size
    for name in (name for name in layouts.TYPED if name in table):
        rows[name] = values = [_typed(name, cell) for cell in table[name]]
        pairs = zip(table[name], values, strict=True)
        if wrong := [cell for cell, value in pairs if value is None and not is_missing(cell)]:
            remarks.append(f"values of `{name}` that are not numbers: {len(wrong)}, such as {wrong[0]!r}; left empty")
    if "split" in table:
        words = [as_text(cell) for cell in table["split"]]
        rows["split"] = [word and SPLITS.get(plain(word), word) for word in words]
        if not _official(rows["split"], [], False):
            what = ", ".join(sorted({*rows["split"]} - {None})) or "nothing"
            remarks.append(f"the column of splits holds {what}, no train and test: the protocol is another")
        elif number := rows["split"].count(None):
            remarks.append(f"rows in no part of the split: {number}; `official` neither trains nor tests on them")
    if {"start", "end"} & {*table} and "audio" in table:
        _times(rows, table)
        if len({*map(str, rows["audio"])}) == size and any(rows["cut"]):
            remarks.append("each file is named once, and cut by `start` and `end`; rename these if it is cut already")
    _identify(rows, folder, listing)
    if "audio" not in table:
        lacking = zip(rows["problem"], rows["id"], rows["text"], strict=True)
        rows["problem"] = [problem if text else f"{id}: no text" for problem, id, text in lacking]
    if group := _groups(rows, table, columns, folder):
        rows["group"] = group
        words = [row["emotion"] for row in labels.rows]
        pairs = {(word, one) for word, one in zip(words, group, strict=True) if word is not None}
        if (columns.group_column or columns.group_by) and None not in group:
            if 1 < len(pairs) == len({word for word, _ in pairs}):
                flag = f"--group_column {columns.group_column}" if columns.group_column else "--group_by folder"
                raise SerError(f"{flag}: each label is in one group alone, so no group can test it; leave it out")
    del rows["label"]
    remarks += _few(rows["speaker"], labels, columns.min_per_class)
    labelled = list(map(is_labelled, labels.rows))
    people = list(compress(rows["speaker"], labelled))
    if 0 < people.count(None) < len(people):
        nobody = f"{people.count(None)} of {len(people)}"
        remarks.append(f"rows without a speaker: {nobody}; until all have one, speakers count as unknown")
    of_protocols = (rows.get(name) for name in ("split", "speaker", "group"))
    choices = own_protocols(*(cells and list(compress(cells, labelled)) for cells in of_protocols))
    rows |= {name: [row.get(name) for row in labels.rows] for name in labels.rows[0]}
    kinds = dict.fromkeys(("id", "audio", "text", "speaker", "named", "part", "problem", "emotion"), pa.string())
    kinds |= {name: datasets.Features({name: kind}).type[0].type for name, kind in OPTIONAL_COLUMNS.items()}
    table = pa.table({name: pa.array(cells, kinds.get(name)) for name, cells in rows.items()})
    parts = {part: data._fingerprint for part, data in listing.parts.items()}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = xxhash.xxh3_64(sink.getvalue()).hexdigest()
    return Index(title, labels.configs, remarks, choices, parts, listing.searched, content, table)


def corpus_of(index: Index, folder: Path | None, parts: Callable[[], Parts], state: str = "") -> type[SpeechCorpus]:
    """The corpus class of an index; `parts` opens the datasets that hold its sound, `state` is a hash of its files."""

    class OwnCorpus(SpeechCorpus):
        CARD = CorpusCard(
            title=index.title,
            languages=("und",),  # BCP-47: undetermined
            licence="unknown",
            redistributable=False,
            homepage="",
            how_to_get="It is the user's own.",
            layout=layouts.NEXT,
            citation="",
            utterances=sum(index.configs[0].counts.values()),
            speakers=pc.count_distinct(index.rows["speaker"]).as_py(),
            notes="The user's own data.",
        )
        BUILDER_CONFIGS = index.configs
        DEFAULT_CONFIG_NAME = index.configs[0].name
        OPTIONAL = tuple(name for name in OPTIONAL_COLUMNS if name in index.rows.column_names)
        REMARKS = tuple(index.remarks)
        opened: Parts | None = None

        @classmethod
        def protocols(cls) -> dict[str, Protocol]:
            return index.protocols

        @classmethod
        def generate(cls) -> Path | None:
            return folder

        @classmethod
        def state(cls, root: Path | None) -> Iterator[str]:
            yield from (index.content, state, *index.parts.values())

        def utterances(self, root: Path | None) -> list[dict]:
            return index.rows.to_pylist()

        def with_audio(self, block: list[dict]) -> list[dict]:
            if not index.parts:
                return block
            if self.opened is None:
                self.opened = parts()
            block = [{**row, "audio": layouts.as_audio(self.opened[row["part"]][row["index"]])} for row in block]
            return [row if row["audio"] else {**row, "problem": f"{row['id']}: no audio"} for row in block]

    return OwnCorpus


def _times(rows: dict[str, list], table: dict[str, list]) -> None:
    """Add `start` and `end` in seconds, and `cut` where one is given; a time that is none is the row's problem."""
    for name in ("start", "end"):
        cells = table.get(name, [None] * len(rows["id"]))
        rows[name] = [None if is_missing(cell) else seconds(cell) for cell in cells]
        for position, (cell, value) in enumerate(zip(cells, rows[name], strict=True)):
            if value is None and not is_missing(cell):
                rows["problem"][position] = f"{_row(rows, position)}: {name} {cell!r} is no time in seconds"
    times = list(zip(rows["start"], rows["end"], strict=True))
    rows["cut"] = [time != (None, None) for time in times]
    rows["start"] = [0.0 if start is None and end is not None else start for start, end in times]
    for position, (start, end) in enumerate(zip(rows["start"], rows["end"], strict=True)):
        if end is not None and end <= start:
            rows["problem"][position] = f"{_row(rows, position)}: ends at {end} s and starts at {start} s"


def _row(rows: dict[str, list], position: int) -> str:
    return str(rows["named"][position]) if "named" in rows else f"row {position + 1}"


def seconds(cell) -> float | None:
    """A time in seconds, also written `1:02.5` or `0:01:02.5`; None if it is none.

    >>> seconds("1.5"), seconds("1:02.5"), seconds("abc")
    (1.5, 62.5, None)
    """
    try:
        parts = [float(part) for part in str(cell).split(":")]
    except ValueError:
        return None
    value = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    return value if len(parts) < 4 and math.isfinite(value) and min(parts) >= 0 else None


def _identify(rows: dict[str, list], folder: Path | None, listing: Listing) -> None:
    """Complete `id`: as given, else the file's name without suffix (with it, where two files differ in nothing else)
    and the segment's times, else the row's number. SerError: two rows name one file, or one part of it."""
    made = [f"{number:06d}" for number in range(len(rows["id"]))]
    if "named" in rows:
        made = _names(rows["audio"], folder)
        if "cut" in rows:
            times = zip(rows["cut"], rows["start"], rows["end"], strict=True)
            parts = [f":{start:g}-{'' if end is None else f'{end:g}'}" if cut else "" for cut, start, end in times]
            made = [name + part for name, part in zip(made, parts, strict=True)]
        if twice := [name for name, number in Counter(made).items() if number > 1]:
            places = [position for position, name in enumerate(made) if name == twice[0]]
            problem = f"is named {len(places)} times (rows {places[0] + 1} and {places[1] + 1})"
            choice = "keep one, or say by columns `start` and `end` which part of it each is"
            raise SerError(f"{listing.where}: {rows['named'][places[0]]} {problem}; {choice}")
    ids = [as_text(own) or other for own, other in zip(rows["id"], made, strict=True)]
    if "split" in rows and len(set(ids)) < len(ids):  # each split may count from 0
        ids = [f"{split}/{id}" if split else id for split, id in zip(rows["split"], ids, strict=True)]
    rows["id"] = [_printable(id) for id in ids]
    for position, path in enumerate(rows["audio"]):
        if path is not None and _printable(path) != path:  # a table of Arrow cannot hold the name
            rows["problem"][position] = f"{rows['id'][position]}: its name is not UTF-8; rename the file"
            rows["audio"][position], rows["named"][position] = None, _printable(rows["named"][position])


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _names(paths: list[str], folder: Path | None) -> list[str]:
    """Names of files without suffix, relative to the folder, or outside it to what they share: no local path."""
    within = f"{folder}{os.sep}"
    outside = {os.path.dirname(path) for path in paths if not path.startswith(within)}
    base = os.path.commonpath(outside) if outside else ""
    # `relpath` is slow, and paths within the folder are plain
    names = [path[len(within) :] if path.startswith(within) else os.path.relpath(path, base) for path in paths]
    stems, files = [os.path.splitext(name)[0] for name in names], {}
    for stem, name in zip(stems, names, strict=True):
        files.setdefault(stem, set()).add(name)
    return [stem if len(files[stem]) == 1 else name for stem, name in zip(stems, names, strict=True)]


def _groups(rows: dict[str, list], table: dict[str, list], columns: Columns, folder: Path | None) -> list | None:
    """What stays together: --group_column, the file's folder, or the recording of which several rows are parts."""
    if "group" in table:
        return [as_text(cell) for cell in table["group"]]
    if "named" in rows and columns.group_by:
        return [os.path.dirname(str(name).replace("\\", "/")) or "." for name in rows["named"]]
    if "cut" in rows and len(set(rows["audio"])) < len(rows["audio"]):
        return _names(rows["audio"], folder) if "named" in rows else None
    return None


def _few(speakers: Sequence, labels, least: int) -> list[str]:
    """What classes of too few speakers mean."""
    words = [row["emotion"] for row in labels.rows]
    known = all(speaker is not None for speaker in speakers)
    pairs = {
        (word, speaker if known else position)
        for position, (word, speaker) in enumerate(zip(words, speakers, strict=True))
    }
    counts, what = Counter(word for word, _ in pairs if word is not None), "speakers" if known else "utterances"
    few = [f"`{word}` ({number})" for word, number in sorted(counts.items()) if number < least]
    meaning = "too few for train and test; correct the spelling, leave them out, or record more"
    return [f"labels of fewer than {least} {what}: {', '.join(few)}; {meaning}"] if few else []


def _typed(column: str, value) -> str | float | list | None:
    """A value of a column in the schema's type; None where it is missing or cannot be read."""
    if column == "votes":
        numbers = isinstance(value, list) and all(isinstance(x, int | float) for x in value)
        return [*map(float, value)] if numbers else None
    if not OPTIONAL_COLUMNS[column].dtype.startswith("float"):
        return as_text(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


# ---- how to split it

LEAKS = "official-leaks-speakers"
GROUP_FOLDS = Protocol(
    "group-folds",
    "five folds of whole groups: of known speakers, and of what belongs together (recordings, folders, equal clips)",
    by="groups-in-five",
)


def own_protocols(splits: list | None, speakers: list, groups: list | None) -> dict[str, Protocol]:
    """The protocols of own data by name, the default first, from the columns of its labelled rows (None where there is
    no such column). Speakers who share a recording are held out together."""
    known = bool(speakers) and None not in speakers
    by_group = replace(GROUP_FOLDS, speaker_independent=known, speakers_known=known)
    choices = [SPEAKER_FOLDS, LEAVE_ONE_SPEAKER_OUT] if known else [by_group]
    if known and groups:
        pairs = {(group, who) for group, who in zip(groups, speakers, strict=True) if group is not None}
        shared = len(pairs) > len({group for group, _ in pairs})
        choices = [by_group] if shared else [*choices, by_group]
    if splits:
        choices = [*_official(splits, speakers, known), *choices]
    choices.append(replace(RANDOM, speakers_known=known))
    return {protocol.name: protocol for protocol in choices}


def _official(splits: list, speakers: list, known: bool) -> list[Protocol]:
    """The protocol of a column `split` (parts, or each value a fold); and the leaking one, if parts share a speaker."""
    parts = {*splits} - {None}
    named = parts & {*SPLITS.values()}
    if named and not {"train", "test"} <= named or len(parts) < 2:
        return []
    official = Protocol(
        "official",
        "the data's own split",
        by="split",
        folds=(("test",),) if named else (),
        validation=("validation",) if "validation" in named else "carve",
        speaker_independent=known,
        speakers_known=known,
    )
    pairs = {pair for pair in zip(speakers, splits, strict=True) if pair[1] in (named or parts)} if known else set()
    if len(pairs) == len({speaker for speaker, _ in pairs}):
        return [official]
    hint = f"--protocol {LEAKS} tests so all the same and says so, --protocol {SPEAKER_FOLDS.name} keeps speakers apart"
    return [replace(official, hint=hint), replace(official, name=LEAKS, speaker_independent=False)]
