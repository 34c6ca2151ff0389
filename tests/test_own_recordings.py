"""Everything that people call their data: layouts and oddities as a table, each loaded and compared, or refused."""

import io
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pandas as pd
import pyarrow as pa
import pytest
import soundfile as sf
from datasets import ClassLabel, Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import voice
from ser_hf import SerError, load_corpus, split
from ser_hf.data.audio import scan
from ser_hf.data.columns import Columns
from ser_hf.data.corpus import SPEAKER_FOLDS
from ser_hf.data.layouts import Stream
from ser_hf.data.loading import find_source
from ser_hf.data.mixing import add_to_train, find_mixture, load_mixture
from ser_hf.data.sources import folder_corpus
from ser_hf.data.splits import check_disjoint, folds_of

# Clip, label and speaker: what every layout says, if nothing else is written beside it.
SAY = [(0, "angry", "anna"), (1, "sad", "anna"), (2, "angry", "ben"), (3, "sad", "ben"), (4, "angry", "cleo")]
SAY += [(5, "sad", "cleo")]
LONG = 6  # a recording of 2 s
CLIPS = {f"clips/{clip}.wav": clip for clip, _, _ in SAY}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Seven clips, and the number of each by its hash."""
    root = tmp_path_factory.mktemp("clips")
    paths = [voice(root / f"{number}.wav", 0.2 if number < LONG else 2.0, seed=number) for number in range(7)]
    return paths, {scan(path)["audio_hash"]: number for number, path in enumerate(paths)}


def csv(sep: str = ",", head=("file_name", "label", "speaker"), rows=None, end: str = "\n") -> str:
    rows = [(f"clips/{clip}.wav", label, speaker) for clip, label, speaker in SAY] if rows is None else rows
    return end.join(sep.join(map(str, row)) for row in (head, *rows)) + end


def jsonl(**names: str) -> str:
    """Names of columns for `audio`, `label` and `speaker`."""
    keys = {"audio": "file_name", "label": "label", "speaker": "speaker", **names}
    rows = [
        {keys["audio"]: f"clips/{clip}.wav", keys["label"]: label, keys["speaker"]: speaker}
        for clip, label, speaker in SAY
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def frame(**columns) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(csv()), dtype=str).assign(**columns)


def excel(*sheets: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    with pd.ExcelWriter(buffer) as book:
        for number, sheet in enumerate(sheets):
            sheet.to_excel(book, sheet_name=f"s{number}", index=False)
    return buffer.getvalue()


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def sounds(paths: list, **columns) -> Dataset:
    """The six clips as a dataset with their bytes."""
    rows = {"audio": [{"bytes": path.read_bytes(), "path": path.name} for path in paths[:6]]}
    rows |= {"label": [label for _, label, _ in SAY], "speaker": [speaker for _, _, speaker in SAY], **columns}
    return Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))


def saved(make: Callable[[list], Dataset | DatasetDict]) -> Callable:
    return lambda root, paths: make(paths).save_to_disk(str(root))


def halves(data: Dataset) -> DatasetDict:
    return DatasetDict(train=data.select(range(4)), test=data.select(range(4, 6)))


@dataclass
class Case:
    """`files`: their content, the number of a clip, or what writes them. `rows`: clip, label, speaker. `said`: parts of
    the lines of the report. `refused`: the error instead."""

    files: dict[str, str | bytes | int | Callable] = field(default_factory=dict)
    rows: list = field(default_factory=lambda: SAY)
    said: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    columns: dict = field(default_factory=dict)
    place: str = ""  # what is loaded, in the folder
    names: list | None = None  # label names
    kind: str = "single_label_classification"
    protocol: str = "speaker-folds"
    ids: list | None = None
    problems: tuple[str, ...] = ()
    make: Callable | None = None


def meta(content: str | bytes, name: str = "metadata.csv", **options) -> Case:
    return Case({**CLIPS, name: content}, **options)


def with_label(cells: list, rows: list, **options) -> Case:
    """A table whose labels are `cells`; `rows` are the labels that come out, None for none."""
    table = csv(rows=[(f"clips/{c}.wav", cell, s) for (c, _, s), cell in zip(SAY, cells, strict=True)])
    expected = [(c, label, s) for (c, _, s), label in zip(SAY, rows, strict=True) if label is not None]
    return meta(table, rows=expected, **options)


def with_columns(head: tuple, cells: list, rows: list, **options) -> Case:
    lines = [(f"clips/{c}.wav", s, *cell) for (c, _, s), cell in zip(SAY, cells, strict=True)]
    expected = [(c, label, s) for (c, _, s), label in zip(SAY, rows, strict=True) if label is not None]
    return meta(csv(head=("file_name", "speaker", *head), rows=lines), rows=expected, **options)


def renamed(change: Callable[[str], str], files: dict | None = None, **options) -> Case:
    """Names of files that are written otherwise than the files are called."""
    rows = [(change(f"clips/{c}.wav"), label, s) for c, label, s in SAY]
    return Case({**(files or CLIPS), "metadata.csv": csv(rows=rows)}, **options)


def bad(name: str, problem: str = "", said: str = "", **files) -> Case:
    """One more row whose file cannot be read."""
    rows = [(f"clips/{c}.wav", label, s) for c, label, s in SAY] + [(name, "sad", "anna")]
    case = meta(csv(rows=rows), problems=(problem,) if problem else (), said=(said,) if said else ())
    case.files |= files
    return case


def cut_off(root: Path, paths: list) -> None:
    lay(
        root,
        paths,
        {**CLIPS, "metadata.csv": csv(rows=[*(r.split(",") for r in csv().split()[1:]), ("t.wav", "sad", "x")])},
    )
    (root / "t.wav").write_bytes(paths[0].read_bytes()[:2000])


SEGMENTS = ("file_name", "label", "speaker", "start", "end")
SIX, ONE = "multi_label_classification", "regression"

CASES = {
    # --- tables
    "csv": meta(csv(), ids=[f"clips/{clip}" for clip in range(6)]),
    "semicolons": meta(csv(";"), said=("separated by semicolons",)),
    "tabs in a csv": meta(csv("\t"), said=("separated by tabs",)),
    "bars": meta(csv("|"), said=("separated by bars",)),
    "tsv": meta(csv("\t"), "metadata.tsv"),
    "utf-8 with a mark": meta(csv().encode("utf-8-sig")),
    "utf-16": meta(csv().encode("utf-16"), said=("UTF-16",)),
    "utf-16 without a mark": meta(csv().encode("utf-16-le"), said=("UTF-16",)),
    "utf-32": meta(csv().encode("utf-32"), said=("UTF-32",)),
    "latin-1": meta(
        csv().replace("ben", "jörg").encode("latin-1"),
        said=("Latin-1",),
        rows=[(c, label, s.replace("ben", "jörg")) for c, label, s in SAY],
    ),
    "windows line ends": meta(csv(end="\r\n")),
    "old line ends": meta(csv(end="\r")),
    "blanks around cells": meta(csv(" , ")),
    "blank lines": meta(csv(end="\n\n")),
    "quotes": meta(
        csv(
            head=("text", "file_name", "label", "speaker"),
            rows=[('"well, ""no""\nno"', *r.split(",")) for r in csv().split()[1:]],
        )
    ),
    "a row of more cells": meta(csv() + "clips/0.wav,sad,anna,really\n", said=("more cells than its header: 1",)),
    "a row of fewer cells": meta(
        csv().replace("5.wav,sad,cleo", "5.wav,sad"), rows=[*SAY[:5], (5, "sad", None)], protocol="group-folds"
    ),
    "a last row of nothing": meta(csv() + ",,\n", said=("that name no file: 1",)),
    "jsonl": meta(jsonl(), "metadata.jsonl"),
    "jsonl with a broken line": meta(jsonl() + '{"file_name": \n', "metadata.jsonl", said=("no JSON object: 1",)),
    "json of rows": meta(frame().to_json(orient="records"), "metadata.json"),
    "json of columns": meta(json.dumps(frame().to_dict("list")), "metadata.json"),
    "parquet": meta(parquet(frame()), "metadata.parquet"),
    "parquet of any name": meta(parquet(frame()), "mine.parquet"),
    "excel": meta(excel(frame()), "metadata.xlsx"),
    "excel of two sheets, speakers as numbers": meta(
        excel(frame(speaker=[1, 1, 2, 2, 3, None]), frame()),
        "metadata.xlsx",
        said=("its first sheet 's0' was read, 1 more",),
        rows=[(c, label, s) for (c, label, _), s in zip(SAY, ["1", "1", "2", "2", "3", None], strict=True)],
        protocol="group-folds",
    ),
    "excel called csv": meta(excel(frame())),
    "excel cut off": meta(excel(frame())[:2000], "metadata.xlsx", refused=("no Excel file, or a damaged one",)),
    "no excel": meta(b"PK nothing", "metadata.xlsx", refused=("metadata.xlsx: cannot be read as a table",)),
    "an empty table": meta("", refused=("cannot be read as a table (it is empty)",)),
    "a header alone": meta(csv(rows=[]), refused=("no row has a label",)),
    "no header": meta("\n".join(csv().split("\n")[1:]), refused=("its first line must name the columns",)),
    "another name of the table": meta(csv(), "labels.csv", said=("the table is labels.csv",)),
    "the table itself": meta(csv(), "labels.csv", place="labels.csv"),
    "two tables": Case(
        {**CLIPS, "a.csv": csv(), "b.csv": csv()}, refused=("which table? it has a.csv, b.csv; name one",)
    ),
    "well-known names": meta(
        csv(head=("path", "emotion", "speaker_id")), said=("audio = `path`, label = `emotion`, speaker = `speaker_id`",)
    ),
    "names in another spelling": meta(csv(head=("File Name", "LABEL", "Speaker-ID")), said=("speaker = `Speaker-ID`",)),
    "names that nobody knows, files found": meta(csv(head=("x", "label", "speaker")), said=("audio = `x`",)),
    "names by flags": meta(
        csv(head=("x", "y", "z")), columns={"audio_column": "x", "label_column": "Y", "speaker_column": "z"}
    ),
    "a flag with a typo": meta(
        csv(head=("file_name", "mood", "speaker")),
        columns={"label_column": "moood"},
        refused=("; did you mean mood?",),
    ),
    "no label": meta(csv(head=("file_name", "x", "speaker")), refused=("no column label", "name it by --label_column")),
    "nothing known": meta("who,label\nanna,sad\n", refused=("no column for audio or text; it has who, label",)),
    "an index column": meta(
        csv(
            head=("", *("file_name", "label", "speaker")),
            rows=[(i, *r.split(",")) for i, r in enumerate(csv().split()[1:])],
        )
    ),
    # --- names of files
    "backslashes": renamed(lambda name: name.replace("/", "\\"), said=("another spelling or folder: 6",)),
    "of another machine": renamed(
        lambda name: f"C:\\Users\\Anna\\{name}", said=("folder: 6, such as .../0.wav = clips/0.wav",)
    ),
    "absolute, of another machine": renamed(lambda name: f"/home/anna/data/{name}", said=("another spelling",)),
    "without suffix": renamed(lambda name: name[:-4], said=("such as clips/0 = clips/0.wav",)),
    "in another case": renamed(str.upper, said=("such as CLIPS/0.WAV = clips/0.wav",)),
    "without their folder": renamed(lambda name: name[6:], said=("such as 0.wav = clips/0.wav",)),
    "with blanks": renamed(lambda name: f"  {name} "),
    "in macOS's form": renamed(
        lambda name: f"ä{name[6:]}",
        {unicodedata.normalize("NFD", f"ä{clip}.wav"): clip for clip in range(6)},
        said=("another spelling or folder: 6",),
    ),
    "with a plus and a hash": renamed(lambda name: f"a+b #1/{name[6:]}", {f"a+b #1/{c}.wav": c for c in range(6)}),
    "in a folder of another name": Case(
        {**{f"audio/{c}.wav": c for c in range(6)}, "metadata.csv": csv() + "clips/9.wav,sad,x\n"},
        said=("another spelling or folder: 6, such as clips/0.wav = audio/0.wav",),
        problems=("clips/9.wav: unreadable audio (no such file)",),
    ),
    "in a folder of another name, of which two fit": Case(
        {f"{place}/{c}.wav": c for place in "ab" for c in range(6)} | {"metadata.csv": csv()},
        refused=("no usable utterance",),
    ),
    "two files fit": Case(
        {"a/0.wav": 0, "b/0.wav": 1, "metadata.csv": csv(rows=[("0.wav", "sad", "x")])},
        refused=("no usable utterance",),
    ),
    "not there": bad("gone.wav", "gone.wav: unreadable audio (no such file)"),
    "too long": bad("n" * 300 + ".wav", "no such file"),
    "no name": bad("", said="that name no file: 1"),
    "a point": bad(".", "unreadable audio (a folder)"),
    "a slash": bad("/", "unreadable audio (a folder)"),
    "two points": bad("..", "unreadable audio (a folder)"),
    "a zero byte": bad("a\0b.wav", "no such file"),
    "a pipe": Case(
        make=lambda root, paths: (lay(root, paths, bad("p.wav").files), os.mkfifo(root / "p.wav")),
        problems=("not a regular file",),
    ),
    "links to itself": Case(
        make=lambda root, paths: (lay(root, paths, meta(csv()).files), [os.symlink(".", root / x) for x in "abc"])
    ),
    "class folders with links to themselves": Case(
        make=lambda root, paths: (
            lay(root, paths, {f"{label}/{c}.wav": c for c, label, _ in SAY}),
            [os.symlink(".", root / x) for x in "xyz"],
        ),
        rows=[(c, label, None) for c, label, _ in SAY],
        protocol="group-folds",
    ),
    "raw": bad("x.raw", "x.raw: unreadable audio", **{"x.raw": b"\0\1" * 400}),
    "video": bad("x.amr", "Convert it to WAV or FLAC", **{"x.amr": b"#!AMR\n" + b"\0" * 400}),
    "empty file": bad("x.wav", "x.wav: unreadable audio", **{"x.wav": b""}),
    "cut off": Case(make=cut_off, problems=("t.wav: unreadable audio (cut off after",)),
    "named twice": meta(
        csv() + "clips/0.wav,sad,anna\n", refused=("clips/0.wav is named 2 times (rows 1 and 7); keep one",)
    ),
    "named twice in two ways": meta(csv() + "clips/./0.wav,sad,anna\n", refused=("is named 2 times",)),
    "of one stem": Case(
        {
            "k.wav": 0,
            "k.mp3.wav": 1,
            "k.flac": 2,
            "metadata.csv": csv(rows=[("k.wav", "sad", "x"), ("k.flac", "angry", "y")]),
        },
        rows=[(0, "sad", "x"), (2, "angry", "y")],
        ids=["k.wav", "k.flac"],
    ),
    # --- labels
    "whole numbers": with_label([10, 9, 10, 9, 10, 9], ["10", "9"] * 3, names=["9", "10"]),
    "numbers below zero": with_label(
        [-2, -1, 0, 1, -1, ""], ["-2", "-1", "0", "1", "-1", None], names=["-2", "-1", "0", "1"]
    ),
    "-1 beside 0 and 1": with_label(
        [-1, 0, 1] * 2,
        [None, "0", "1"] * 2,
        said=("say nothing: `-1` (2); left out; if -1 is a class, give it a name",),
    ),
    "a word among fractions": with_label(
        [0.5, 1.5, "?", 2, 0.25, "nan"],
        [[0.5], [1.5], None, [2], [0.25], None],
        kind=ONE,
        names=["label"],
        said=("not all numbers: 1, such as '?'; left out",),
    ),
    "fractions with a comma": meta(
        csv(";", rows=[(f"clips/{c}.wav", f"{c},5", s) for c, _, s in SAY]),
        rows=[(c, [c + 0.5], s) for c, _, s in SAY],
        kind=ONE,
        said=("with a comma were read as decimals",),
    ),
    "ratings": with_label([3, 1, 2] * 2, ["3", "1", "2"] * 2, said=("labels are 3 whole numbers, taken as classes",)),
    "truth": with_label(["True", "False"] * 3, ["True", "False"] * 3),
    "fractions": with_label([0.5, -1, 1, 0, "", 2], [[0.5], [-1], [1], [0], None, [2]], kind=ONE, names=["label"]),
    "missing": with_label(
        ["angry", "sad", "nan", "-1", "N/A", ""],
        ["angry", "sad", None, None, None, None],
        said=("labels that say nothing: `nan` (1), `-1` (1), `N/A` (1); left out", "4 utterances carry no label"),
    ),
    "spellings": with_label(
        ["Angry", " sad", "angry", "SAD", "angry", "sad"], ["angry", "sad"] * 3, said=("`Angry` = angry, `SAD` = sad",)
    ),
    "the vocabulary": with_label(["anger", "sadness"] * 3, ["angry", "sad"] * 3, said=("`anger` = angry",)),
    "IEMOCAP's codes": with_label(["ang", "exc"] * 3, ["angry", "excited"] * 3),
    "unknown words": with_label(["Complaint", "praise", "complaint"] * 2, ["complaint", "praise", "complaint"] * 2),
    "lists of 0 and 1": with_label(['"[0, 1]"', '"[1, 1]"'] * 3, [[0, 1], [1, 1]] * 3, kind=SIX, names=["0", "1"]),
    "lists of numbers": with_label(['"[0, 1.5]"', '"[3, 1]"'] * 3, [[0, 1.5], [3, 1]] * 3, kind=ONE),
    "lists of unequal length": with_label(['"[0, 1]"', "[1]"] * 3, [None] * 6, refused=("have one length",)),
    "words with bars": with_label(["angry|sad", "sad"] * 3, [[1, 1], [0, 1]] * 3, kind=SIX, names=["angry", "sad"]),
    "lists of words": with_label(
        ["\"['anger', 'sad']\"", "\"['sad']\""] * 3, [[1, 1], [0, 1]] * 3, kind=SIX, names=["angry", "sad"]
    ),
    "votes in lists": with_label(
        ["\"['anger', 'sad', 'anger']\"", "\"['sad']\"", "\"['sad', 'angry']\""] * 2,
        ["angry", "sad", None] * 2,
        said=("without one word of most votes: 2",),
    ),
    "votes in objects": with_label(['"{""anger"": 3, ""sad"": 1}"', '"{""sad"": 2}"'] * 3, ["angry", "sad"] * 3),
    "columns of 0 and 1": with_columns(
        ("a", "b"),
        [(0, 1), (1, 1)] * 3,
        [[0, 1], [1, 1]] * 3,
        kind=SIX,
        names=["a", "b"],
        columns={"label_columns": ["a", "b"]},
    ),
    "columns of values": with_columns(
        ("arousal", "mood"),
        [(1.5, 2), (3, "?")] * 3,
        [[1.5, 2], None] * 3,
        kind=ONE,
        columns={"label_columns": ["arousal", "mood"]},
        said=("not all numbers: 3, such as '?'",),
    ),
    "values without a flag": with_columns(
        ("arousal", "valence"),
        [(1, 2), (3, 5)] * 3,
        [[1, 2], [3, 5]] * 3,
        kind=ONE,
        said=("the values arousal, valence",),
    ),
    "columns of votes": with_columns(
        ("anger", "sad"),
        [(3, 1), (0, 2), (1, 1)] * 2,
        ["angry", "sad", None] * 2,
        columns={"label_columns": ["anger", "sad"]},
        said=("votes of raters: `anger`, `sad`", "most votes: 2"),
    ),
    "a word among values": with_columns(
        ("label", "age", "valence"),
        [("angry", 41, '"3,5"'), ("sad", "unknown", 2)] * 3,
        ["angry", "sad"] * 3,
        said=("`age` that are not numbers: 3, such as 'unknown'", "`valence` that are not numbers: 3, such as '3,5'"),
    ),
    "no label anywhere": with_label([""] * 6, [None] * 6, refused=("no row has a label",)),
    "a class of one speaker": with_label(
        ["angry", "calm", "angry", "sad", "angry", "sad"],
        ["angry", "calm", "angry", "sad", "angry", "sad"],
        said=("labels of fewer than 2 speakers: `calm` (1)",),
    ),
    # --- speakers
    "speakers in two spellings": meta(csv().replace("0.wav,angry,anna", "0.wav,angry,Anna "), said=("`Anna` = anna",)),
    "no speakers": meta(
        csv(head=("file_name", "label", "x")), rows=[(c, label, None) for c, label, _ in SAY], protocol="group-folds"
    ),
    "speakers as numbers": meta(
        csv(rows=[(f"clips/{c}.wav", label, ("anna", "ben", "cleo").index(s)) for c, label, s in SAY]),
        rows=[(c, label, str(("anna", "ben", "cleo").index(s))) for c, label, s in SAY],
    ),
    # --- folders
    "class folders": Case(
        {f"{label}/{c}.wav": c for c, label, _ in SAY},
        [(c, label, None) for c, label, _ in SAY],
        said=("labels are the names of folders",),
        protocol="group-folds",
        ids=["angry/0", "angry/2", "angry/4", "sad/1", "sad/3", "sad/5"],
    ),
    "class folders as groups": Case(
        {f"{label}/{c}.wav": c for c, label, _ in SAY},
        columns={"group_by": "folder"},
        refused=("--group_by folder: each label is in one group alone",),
    ),
    "class folders of speakers": Case(
        {f"{s}/{label}/{c}.wav": c for c, label, s in SAY},
        [(c, label, None) for c, label, _ in SAY],
        said=("`folder2` of 2 levels", "folders anna, ben, cleo may be speakers: then --speaker_column folder1"),
        protocol="group-folds",
    ),
    "class folders of named speakers": Case(
        {f"{s}/{label}/{c}.wav": c for c, label, s in SAY}, columns={"speaker_column": "folder1"}
    ),
    "class folders of Actor_01": Case(
        {f"{label}/Actor_{s}/{c}.wav": c for c, label, s in SAY},
        [(c, label, f"Actor_{s}") for c, label, s in SAY],
        said=("speakers are the names of folders, `folder2`",),
    ),
    "class folders of unknown words": Case(
        {f"{s}/{label[:2]}/{c}.wav": c for c, label, s in SAY},
        refused=(
            "which folders are the labels? --label_column folder1 (anna, ben, cleo) or --label_column folder2 (an, sa)",
        ),
    ),
    "class folders with more in them": Case(
        {
            **{f"anger/{c}.wav": c for c in range(5)},
            "anger/._0.wav": b"x",
            "__MACOSX/anger/0.wav": b"x",
            "sad/x.mov": b"film",
            "sad/5.wav": 5,
            "sad/notes.doc": "",
            "0.mkv": b"film",
        },
        [(c, "sad" if c == 5 else "angry", None) for c in range(6)],
        protocol="group-folds",
        problems=("sad/x.mov: unreadable",),
    ),
    "a name that is no UTF-8": Case(
        make=lambda root, paths: (
            lay(root, paths, {f"{label}/{c}.wav": c for c, label, _ in SAY}),
            shutil.copy(paths[0], os.fsencode(root) + b"/sad/\xe4.wav"),
        ),
        rows=[(c, label, None) for c, label, _ in SAY],
        protocol="group-folds",
        problems=("its name is not UTF-8; rename the file",),
    ),
    "a label that is no UTF-8": Case(
        make=lambda root, paths: [
            (os.makedirs(place, exist_ok=True), shutil.copy(paths[c], place + b"/x.wav"))
            for c, place in ((0, os.fsencode(root) + b"/sad"), (1, os.fsencode(root) + b"/\xe4"))
        ],
        rows=[(0, "sad", None)],
        protocol="group-folds",
        problems=("its name is not UTF-8; rename the file",),
    ),
    "half a character": meta(
        jsonl().replace("anna", "an\\ud800na"),
        "metadata.jsonl",
        rows=[(c, label, s.replace("anna", "an\\ud800na")) for c, label, s in SAY],
    ),
    "files alone": Case(
        {f"{c}.wav": c for c in range(6)}, refused=("no metadata.csv there to say the labels of its 6 files",)
    ),
    "nothing": Case({"readme.md": "hello"}, refused=("no metadata.csv there, and no sound in 1 files",)),
    # --- splits
    "split folders": Case(
        {f"{'test' if c > 3 else 'train'}/{label}/Actor_{s}/{c}.wav": c for c, label, s in SAY},
        [(c, label, f"Actor_{s}") for c, label, s in SAY],
        protocol="official",
    ),
    "split folders with tables": Case(
        {
            **{f"{'test' if c > 3 else 'train'}/{c}.wav": c for c in range(6)},
            "train/metadata.csv": csv(rows=[(f"{c}.wav", label, s) for c, label, s in SAY[:4]]),
            "test/metadata.jsonl": jsonl(audio="path").replace("clips/", "").split("\n", 4)[4],
        },
        protocol="official",
        said=("audio = `path`",),
    ),
    "a column of splits": meta(
        csv(
            head=("file_name", "label", "speaker", "split"),
            rows=[(f"clips/{c}.wav", label, s, "Eval" if c > 3 else "training") for c, label, s in SAY],
        ),
        protocol="official",
    ),
    "a column of folds": meta(
        csv(
            head=("file_name", "label", "speaker", "fold"),
            rows=[(f"clips/{c}.wav", label, s, s[0]) for c, label, s in SAY],
        ),
        protocol="official",
        said=("split = `fold`",),
    ),
    "a set that is no split": with_columns(("label", "set"), [("angry", "A"), ("sad", "B")] * 3, ["angry", "sad"] * 3),
    "a set that is a split": meta(
        csv(
            head=("file_name", "label", "speaker", "set"),
            rows=[
                (f"clips/{c}.wav", label, s, "dev" if c > 3 else "train" if c > 1 else "test") for c, label, s in SAY
            ],
        ),
        protocol="official",
        said=("split = `set`",),
    ),
    "a column of splits without a test": meta(
        csv(
            head=("file_name", "label", "speaker", "split"),
            rows=[(f"clips/{c}.wav", label, s, "train") for c, label, s in SAY],
        ),
        said=("the column of splits holds train, no train and test",),
    ),
    # --- datasets
    "saved": Case(make=saved(sounds)),
    "saved in splits": Case(make=saved(lambda paths: halves(sounds(paths))), protocol="official"),
    "saved with a path in it": Case(
        make=lambda root, paths: Dataset.from_dict(
            {"file": [str(p) for p in paths[:6]], "emotion": [x[1] for x in SAY], "speaker": [x[2] for x in SAY]}
        ).save_to_disk(str(root)),
        said=("audio = `file`, label = `emotion`",),
    ),
    "saved as numbers": Case(
        make=saved(
            lambda paths: Dataset.from_dict(
                {
                    "audio": [
                        {"array": sf.read(path)[0], "sampling_rate": sf.info(path).samplerate} for path in paths[:6]
                    ],
                    "label": [x[1] for x in SAY],
                    "speaker": [x[2] for x in SAY],
                }
            )
        )
    ),
    "saved as bytes": Case(
        make=saved(
            lambda paths: Dataset.from_dict(
                {
                    "wav": [p.read_bytes() for p in paths[:6]],
                    "label": [x[1] for x in SAY],
                    "speaker": [x[2] for x in SAY],
                }
            )
        )
    ),
    "classes of a dataset": Case(
        make=saved(
            lambda paths: sounds(paths, label=[0, 1, -1, None, 0, 1]).cast_column(
                "label", ClassLabel(names=["sad", "anger"])
            )
        ),
        rows=[(0, "sad", "anna"), (1, "angry", "anna"), (4, "sad", "cleo"), (5, "angry", "cleo")],
        names=["sad", "angry"],
    ),
    "whole numbers of a dataset": Case(
        make=saved(lambda paths: sounds(paths, label=[10, 9] * 3, speaker=[1, 1, 2, 2, 3, 3])),
        rows=[(c, ("10", "9")[c % 2], str(c // 2 + 1)) for c in range(6)],
        names=["9", "10"],
    ),
    "shards": Case(
        make=lambda root, paths: [sounds(paths).shard(2, i).to_parquet(str(root / f"x-{i}.parquet")) for i in range(2)]
    ),
    "shards of splits": Case(
        make=lambda root, paths: [
            d.to_parquet(str(root / "data" / f"{n}-00000-of-00001.parquet")) for n, d in halves(sounds(paths)).items()
        ],
        protocol="official",
    ),
    "shards with names of files": Case(
        make=lambda root, paths: (
            lay(root, paths, CLIPS),
            frame(file_name=[{"bytes": None, "path": name} for name in CLIPS]).to_parquet(root / "x.parquet"),
        ),
        ids=[f"clips/{clip}" for clip in range(6)],
    ),
    "saved one by one": Case(
        make=lambda root, paths: [d.save_to_disk(str(root / n)) for n, d in halves(sounds(paths)).items()],
        protocol="official",
    ),
    "shards in folders of splits": Case(
        make=lambda root, paths: [
            ((root / n).mkdir(), d.to_parquet(str(root / n / "0000.parquet"))) for n, d in halves(sounds(paths)).items()
        ],
        protocol="official",
    ),
    "one part saved and one of files": Case(
        make=lambda root, paths: (
            halves(sounds(paths))["train"].save_to_disk(str(root / "train")),
            lay(root, paths, {"test/sad/0.wav": 0}),
        ),
        refused=("only some of test, train hold sound; save all in one way",),
    ),
    "lists of classes of a dataset": Case(
        make=saved(
            lambda paths: sounds(paths, label=[[0], [1]] * 3).cast_column(
                "label", datasets.List(ClassLabel(names=["sad", "anger"]))
            )
        ),
        rows=[(c, [float(c % 2), float(1 - c % 2)], s) for c, _, s in SAY],
        names=["angry", "sad"],
        kind=SIX,
    ),
    "a damaged dataset": Case(
        {"state.json": "{}", "dataset_info.json": "{}"}, refused=("cannot be loaded", "save it again")
    ),
    # --- segments
    "segments": Case(
        {
            "call.wav": LONG,
            "metadata.csv": csv(
                head=SEGMENTS,
                rows=[
                    ("call.wav", "sad", "x", 0, 0.5),
                    ("call.wav", "angry", "y", "0:00.5", 1.25),
                    ("call.wav", "sad", "x", 1.25, ""),
                ],
            ),
        },
        [
            ((0.5, "call:0-0.5"), "sad", "x"),
            ((0.75, "call:0.5-1.25"), "angry", "y"),
            ((0.75, "call:1.25-"), "sad", "x"),
        ],
        protocol="group-folds",
    ),
    "times of files that are cut already": meta(
        csv(head=SEGMENTS, rows=[(f"clips/{c}.wav", label, s, c, c + 0.1) for c, label, s in SAY]),
        rows=[((0.1, "clips/0:0-0.1"), "angry", "anna")],
        problems=("nothing between",) * 5,
        said=("each file is named once, and cut by `start` and `end`; rename these if it is cut already",),
    ),
    "times that are none": meta(
        csv(
            head=SEGMENTS,
            rows=[(f"clips/{c}.wav", label, s, "", "") for c, label, s in SAY]
            + [
                ("clips/0.wav", "sad", "x", "abc", 0.1),
                ("clips/0.wav", "sad", "x", 0.1, 0.05),
                ("clips/0.wav", "sad", "x", 7, 8),
            ],
        ),
        problems=("start 'abc' is no time", "ends at 0.05 s and starts at 0.1 s", "nothing between 7.0 s and 8.0 s"),
        protocol="group-folds",
    ),
    # --- texts
    "texts": Case(
        {
            "metadata.csv": csv(
                head=("text", "emotion", "user"),
                rows=[(f"text {c}", label, s) for c, label, s in SAY] + [("", "sad", "x")],
            )
        },
        [(f"text {c}", label, None) for c, label, _ in SAY],
        problems=("000006: no text",),
        protocol="group-folds",
        ids=[f"00000{c}" for c in range(6)],
    ),
    "texts beside files that are not there": meta(
        csv(head=("text", "file_name", "label", "speaker"), rows=[(f"text {c}", "", label, s) for c, label, s in SAY]),
        rows=[(f"text {c}", label, s) for c, label, s in SAY],
    ),
    # --- ids
    "ids": meta(
        csv(
            head=("file_name", "label", "speaker", "id"),
            rows=[(f"clips/{c}.wav", label, s, f"u{c}") for c, label, s in SAY],
        ),
        ids=[f"u{c}" for c in range(6)],
    ),
    "ids twice": meta(
        csv(
            head=("file_name", "label", "speaker", "id"),
            rows=[(f"clips/{c}.wav", label, s, "u") for c, label, s in SAY],
        ),
        refused=("6 utterances have only 1 ids, 'u' occurs 6 times",),
    ),
    "ids that count from 0 in each split": Case(
        make=saved(lambda paths: halves(sounds(paths, id=[0, 1, 2, 3, 0, 1]))),
        protocol="official",
        ids=["train/0", "train/1", "train/2", "train/3", "test/0", "test/1"],
    ),
}


def lay(root: Path, paths: list, files: dict) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            shutil.copy(paths[content], path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def key(row: dict, numbers: dict):
    """What a row is: the number of its clip, its length and id where it is a part of one, or its text."""
    if row["audio"] is None:
        return row["text"]
    return numbers.get(row["audio_hash"], (round(float(row["duration"]), 3), row["id"]))


def test_the_table_is_long_enough():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_layout(name, clips, tmp_path):
    case, (paths, numbers) = CASES[name], clips
    root = tmp_path / "own"
    root.mkdir()
    case.make(root, paths) if case.make else lay(root, paths, case.files)
    place = str(root / case.place)
    before = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*"))

    def load():
        return load_corpus(place, cache_dir=tmp_path / "cache", return_report=True, **case.columns)

    if case.refused:
        with pytest.raises(SerError) as caught:
            load()
        assert "\n" not in str(caught.value)
        for part in case.refused:
            assert part in str(caught.value)
        return
    rows, report = load()
    label = (lambda x: report.label_names[x]) if isinstance(rows[0]["label"], int) else (lambda x: x)
    found = sorted(((key(row, numbers), label(row["label"]), row["speaker"]) for row in rows), key=str)
    assert found == sorted(case.rows, key=str)
    assert report.problem_type == case.kind and (case.names is None or report.label_names == case.names)
    assert case.ids is None or rows["id"][:] == case.ids
    lines = "\n".join(report.lines())
    for part in case.said:
        assert part in lines
    assert len(report.problems) == len(case.problems)
    for part, problem in zip(case.problems, report.problems, strict=True):
        assert part in problem
    assert find_source(place, columns=Columns(**case.columns)).protocol.name == case.protocol
    assert sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*")) == before


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(clips, tmp_path):
    """(rows of a table, head, keywords) -> the folder's dataset and its protocol of that name."""

    def load(rows: list, head: tuple, protocol: str | None = None, **columns):
        lay(tmp_path / "own", clips[0], {**CLIPS, "call.wav": LONG, "metadata.csv": csv(head=head, rows=rows)})
        place = str(tmp_path / "own")
        data = load_corpus(place, cache_dir=tmp_path / "cache", **columns)
        return data, find_source(place, protocol=protocol, columns=Columns(**columns)).protocol

    return load


def parts_of(data, protocol, fold: int = 0, **options) -> DatasetDict:
    parts = split(data, "./own", protocol, fold, **options)
    check_disjoint(parts, protocol.speaker_independent, protocol.validation, protocol.hint)
    return parts


HEAD = ("file_name", "label", "speaker", "split")


def test_an_official_split_is_the_default(own):
    of = {"anna": "train", "ben": "dev", "cleo": "test"}
    data, protocol = own([(f"clips/{c}.wav", label, s, of[s]) for c, label, s in SAY], HEAD)
    parts = parts_of(data, protocol)
    assert {part: {*rows["speaker"]} for part, rows in parts.items()} == {
        "train": {"anna"},
        "validation": {"ben"},
        "test": {"cleo"},
    }
    assert split(data, "./own")["test"]["id"][:] == parts["test"]["id"][:]  # in Python without `find_source`


def test_an_official_split_that_leaks_is_refused(own):
    rows = [(f"clips/{c}.wav", label, s, "test" if c > 2 else "train") for c, label, s in SAY]
    data, protocol = own(rows, HEAD)
    with pytest.raises(SerError) as caught:
        parts_of(data, protocol, validation_fraction=0)
    assert str(caught.value).startswith(
        "leak: train and test share the speakers ben; --protocol official-leaks-speakers"
    )
    data, protocol = own(rows, HEAD, "official-leaks-speakers")
    assert protocol.warning == "LEAKS SPEAKERS" and len(parts_of(data, protocol)["test"]) == 3
    data, protocol = own(rows, HEAD, "speaker-folds")
    assert parts_of(data, protocol, validation_fraction=0)


def test_an_official_split_of_unknown_speakers(own):
    rows = [(f"clips/{c}.wav", label, "test" if c > 2 else "train") for c, label, s in SAY]
    data, protocol = own(rows, ("file_name", "label", "split"))
    assert (protocol.name, protocol.warning) == ("official", "SPEAKERS UNKNOWN")
    assert sorted(map(len, parts_of(data, protocol).values())) == [1, 2, 3]


def test_a_column_of_folds(own):
    data, protocol = own(
        [(f"clips/{c}.wav", label, s, s) for c, label, s in SAY], ("file_name", "label", "speaker", "fold")
    )
    assert len(folds_of(data, protocol)) == 3
    for fold in range(3):
        parts = parts_of(data, protocol, fold, validation_fraction=0)
        assert (len(parts["train"]), len(parts["test"])) == (4, 2)


def test_utterances_in_no_fold_are_left_out(own):
    rows = [(f"clips/{c}.wav", label, s, "" if s == "ben" else s) for c, label, s in SAY]
    data, protocol = own(rows, HEAD)
    assert len(folds_of(data, protocol)) == 2
    for fold in range(2):
        assert {*parts_of(data, protocol, fold, validation_fraction=0)["train"]["speaker"]} <= {"anna", "cleo"}


def test_validation_of_an_official_split_tears_no_recording_apart(own):
    """Two people in each call: neither is in validation without the other."""
    turns = [
        (
            f"clips/{c}.wav",
            ("angry", "sad")[half],
            f"{'ab'[half]}{c}",
            0.1 * half,
            0.1 * half + 0.1,
            ("train", "test")[c > 3],
        )
        for c in range(6)
        for half in (0, 1)
    ]
    data, protocol = own(turns, (*SEGMENTS, "split"))
    assert protocol.name == "official"
    for seed in range(5):
        parts = parts_of(data, protocol, seed=seed)
        assert {part: len(rows) for part, rows in parts.items()} == {"train": 6, "validation": 2, "test": 4}


def test_groups_of_some_utterances(own):
    """Those without a group share nothing by it: speakers can still be held out."""
    rows = [(f"clips/{c}.wav", label, s, "call" if s == "anna" else "") for c, label, s in SAY]
    _, protocol = own(rows, ("file_name", "label", "speaker", "call"), group_column="call")
    assert protocol.name == "speaker-folds"


def test_parts_of_a_recording_stay_together(own):
    """Calls of two people each: whoever shares a call is held out together, in every protocol."""
    turns = [
        (f"clips/{c}.wav", ("angry", "sad")[half], f"{'ab'[half]}{c}", 0.1 * half, 0.1 * half + 0.1)
        for c in range(6)
        for half in (0, 1)
    ]
    data, protocol = own(turns, SEGMENTS)
    assert (protocol.name, protocol.warning, len(folds_of(data, protocol))) == ("group-folds", "", 5)
    assert "speaker-folds" not in find_source(str(Path(data[0]["audio"]["path"]).parents[1])).corpus.protocols()
    for chosen in (protocol, find_source(str(Path(data[0]["audio"]["path"]).parents[1]), protocol="random").protocol):
        for fold in range(5):
            parts = parts_of(data, chosen, fold)
            calls = [{path["path"].split("#")[0] for path in rows["audio"]} for rows in parts.values()]
            assert sum(map(len, calls)) == 6 and not set.intersection(*calls[:2]) and not set.intersection(*calls[1:])
    assert all(audio["bytes"] is None for audio in data["audio"])  # no samples are copied


def test_parts_of_one_recording_alone(own):
    data, protocol = own([("call.wav", "sad", "x", i / 4, (i + 1) / 4) for i in range(8)], SEGMENTS)
    with pytest.raises(SerError, match="speaker-folds: ./own has one speaker, x, .*--protocol random"):
        parts_of(data, protocol)
    data, protocol = own([("call.wav", "sad", "xy"[i % 2], i / 4, (i + 1) / 4) for i in range(8)], SEGMENTS)
    with pytest.raises(SerError, match="group-folds: all utterances of ./own belong together"):
        parts_of(data, protocol)


def test_a_split_that_tears_a_recording_apart_is_refused(own):
    rows = [("call.wav", "sad", "xy"[i % 2], i / 4, (i + 1) / 4, ("train", "test")[i % 2]) for i in range(8)]
    data, protocol = own(rows, (*SEGMENTS, "split"))
    assert protocol.name == "official"
    with pytest.raises(SerError, match="leak: train and test share parts of call; keep each in one of them"):
        parts_of(data, protocol, validation_fraction=0)


@pytest.mark.parametrize("columns", [{"group_by": "folder"}, {"group_column": "day"}])
def test_groups_where_speakers_are_unknown(clips, tmp_path, columns):
    days = [c % 3 for c in range(6)]
    files = {f"day{day}/{c}.wav": c for c, day in enumerate(days)}
    rows = [(name, SAY[c][1], f"d{days[c]}") for c, name in enumerate(files)]
    lay(tmp_path / "own", clips[0], {**files, "metadata.csv": csv(head=("file_name", "label", "day"), rows=rows)})
    data = load_corpus(str(tmp_path / "own"), cache_dir=tmp_path / "cache", **columns)
    protocol = find_source(str(tmp_path / "own"), columns=Columns(**columns)).protocol
    assert (protocol.name, protocol.warning, len(folds_of(data, protocol))) == ("group-folds", "SPEAKERS UNKNOWN", 3)
    for fold in range(3):
        groups = [{*rows["group"]} for rows in parts_of(data, protocol, fold).values()]
        assert list(map(len, groups)) == [1, 1, 1] and len(set.union(*groups)) == 3


# --- what else must be right ------------------------------------------------------------------------------------------


def test_replaced_files_and_changed_labels_are_seen(clips, tmp_path):
    """Files outside the folder, of equal size and time; and labels alone."""
    paths, numbers = clips
    lay(tmp_path / "far", paths, {f"{c}.wav": c for c in range(6)})
    table = csv(rows=[(f"../far/{c}.wav", label, s) for c, label, s in SAY])
    lay(tmp_path / "own", paths, {"metadata.csv": table})

    def load():
        return load_corpus(str(tmp_path / "own"), cache_dir=tmp_path / "cache")

    first = load()
    old = (tmp_path / "far/0.wav").stat()
    shutil.copy(paths[1], tmp_path / "new.wav")
    os.utime(tmp_path / "new.wav", ns=(old.st_atime_ns, old.st_mtime_ns))
    os.replace(tmp_path / "new.wav", tmp_path / "far/0.wav")
    assert (tmp_path / "far/0.wav").stat().st_size == old.st_size
    second = load()
    assert [numbers[h] for h in first["audio_hash"]] == [0, 1, 2, 3, 4, 5]
    assert [numbers[h] for h in second["audio_hash"]] == [1, 1, 2, 3, 4, 5] and second["label"][:] == first["label"][:]
    (tmp_path / "own/metadata.csv").write_text(table.replace("0.wav,angry", "0.wav,sad"))
    assert load()["label"][:] == [1, *first["label"][1:]]


def test_one_clip_of_two_speakers_is_a_leak_with_a_next_step(clips, tmp_path):
    files = {**CLIPS, "copy.wav": 0, "metadata.csv": csv() + "copy.wav,angry,dora\n"}
    lay(tmp_path / "own", clips[0], files)
    data = load_corpus(str(tmp_path / "own"), cache_dir=tmp_path / "cache")
    protocol = find_source(str(tmp_path / "own")).protocol
    with pytest.raises(SerError, match="clips/0 = copy; leave one of each two out|copy = clips/0; leave one of each"):
        for fold in range(4):
            parts_of(data, protocol, fold)


def test_a_replaced_shard_is_seen(clips, tmp_path):
    """Of equal size and time; and a file that a shard names."""
    paths, numbers = clips
    place = tmp_path / "own"
    place.mkdir()

    def write(order: list[int]):
        sounds([paths[number] for number in order]).to_parquet(str(tmp_path / "new"))
        os.utime(tmp_path / "new", (1e9, 1e9))
        os.replace(tmp_path / "new", place / "x.parquet")
        data = load_corpus(str(place), cache_dir=tmp_path / "cache")
        return [numbers[h] for h in data["audio_hash"]], (place / "x.parquet").stat().st_size

    first, second = write([0, 1, 2, 3, 4, 5]), write([1, 0, 2, 3, 4, 5])
    assert first == ([0, 1, 2, 3, 4, 5], second[1]) and second[0] == [1, 0, 2, 3, 4, 5]
    lay(tmp_path, paths, {"far/0.wav": 0})
    frame(file_name=[{"bytes": None, "path": "../far/0.wav"}] + [None] * 5).to_parquet(place / "x.parquet")
    for number in (0, 3):
        shutil.copy(paths[number], tmp_path / "far/0.wav")
        data = load_corpus(str(place), cache_dir=tmp_path / "cache")
        assert [numbers[h] for h in data["audio_hash"]] == [number]


@pytest.fixture
def no_reading(monkeypatch):
    """A call after which no table and no clip can be read."""

    def stop():
        for place in ("layouts.listing_in", "tables.read_table", "layouts.read_table", "corpus.scan_row"):
            monkeypatch.setattr(f"ser_hf.data.{place}", None)

    return stop


KEPT = "csv, the table itself, without their folder, class folders, segments, fractions, columns of votes, saved, texts"


@pytest.mark.parametrize("name", [*KEPT.split(", "), "shards of splits", "ids that count from 0 in each split"])
def test_a_second_load_reads_no_table_and_no_clip(name, clips, tmp_path, no_reading):
    """It has the same rows, report, label sets and protocols."""
    case, place = CASES[name], tmp_path / "own" / CASES[name].place
    (tmp_path / "own").mkdir()
    case.make(tmp_path / "own", clips[0]) if case.make else lay(tmp_path / "own", clips[0], case.files)

    def load():
        rows, report = load_corpus(str(place), cache_dir=tmp_path / "cache", return_report=True, **case.columns)
        source = find_source(str(place), columns=Columns(**case.columns))
        return rows.to_list(), report, source.protocol, source.corpus.protocols(), source.corpus.BUILDER_CONFIGS

    first = load()
    no_reading()
    assert load() == first


@pytest.mark.parametrize("name", ["csv", "saved in splits"])
def test_what_is_kept_is_enough_to_scan_again(name, clips, tmp_path):
    """In several processes too, where the scan's own cache is gone."""
    (tmp_path / "own").mkdir()
    case = CASES[name]
    case.make(tmp_path / "own", clips[0]) if case.make else lay(tmp_path / "own", clips[0], case.files)
    hashes = [
        load_corpus(str(tmp_path / "own"), cache_dir=tmp_path / str(number), num_proc=number)["audio_hash"][:]
        for number in (1, 2)
    ]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 6


def test_a_stream_is_used_as_a_dataset_is(clips, tmp_path):
    """Columns and rows, in any order, of several files."""
    data = sounds(clips[0], embedding=[[0.5]] * 6)
    for shard in range(2):
        data.shard(2, shard).to_parquet(str(tmp_path / f"{shard}.parquet"))
    files = {"train": str(tmp_path / "*.parquet")}
    stream = Stream(datasets.load_dataset_builder("parquet", data_files=files, cache_dir=str(tmp_path)), "train")
    read = stream.select_columns(["label", "speaker"])
    assert [*read.features] == ["label", "speaker"] == [*read.data.features]
    assert read.to_dict() == data.select_columns(["label", "speaker"]).to_dict()
    sound = stream.select_columns("audio").cast_column("audio", datasets.Audio(decode=False))
    for index in (0, 1, 2, 5, 3, 4, 0):
        assert sound[index]["audio"]["bytes"] == clips[0][index].read_bytes()


MORE = "clips/9.wav,sad,dora\n"


@pytest.mark.parametrize(
    ("files", "place", "change", "number"),
    [
        ({**CLIPS, "metadata.csv": csv()}, "", {"clips/9.wav": 0, "metadata.csv": csv() + MORE}, 7),
        ({**CLIPS, "metadata.csv": csv() + MORE}, "", {"clips/9.wav": 6}, 7),  # a file that was missing
        ({**CLIPS, "l.csv": csv() + MORE}, "l.csv", {"far/clips/9.wav": 6}, 7),  # now found elsewhere
        ({**CLIPS, "l.csv": csv()}, "l.csv", {"clips/0.wav": None}, 5),
        ({**CLIPS, "l.csv": csv()}, "", {"metadata.csv": csv(rows=[("clips/0.wav", "sad", "x")])}, 1),
        ({f"{label}/{c}.wav": c for c, label, _ in SAY}, "", {"sad/6.wav": 6}, 7),
        ({f"{label}/{c}.wav": c for c, label, _ in SAY}, "", {"calm/6.wav": 6}, 7),
        ({f"{label}/{c}.wav": c for c, label, _ in SAY}, "", {"sad/5.wav": None}, 5),
    ],
)
def test_what_changed_since_the_first_load_is_seen(files, place, change, number, clips, tmp_path):
    lay(tmp_path / "own", clips[0], files)
    for _ in range(2):
        before = load_corpus(str(tmp_path / "own" / place), cache_dir=tmp_path / "cache")
    for name in [name for name, content in change.items() if content is None]:
        (tmp_path / "own" / name).unlink()
    lay(tmp_path / "own", clips[0], {name: content for name, content in change.items() if content is not None})
    assert len(before) != number == len(load_corpus(str(tmp_path / "own" / place), cache_dir=tmp_path / "cache"))


def test_what_is_kept_may_be_damaged_or_impossible_to_keep(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "kept"))
    lay(tmp_path / "own", clips[0], meta(csv()).files)
    (tmp_path / "file").write_text("")
    for place in ("kept", "kept", "file"):
        monkeypatch.setenv("SER_CACHE", str(tmp_path / place))
        assert len(load_corpus(str(tmp_path / "own"), cache_dir=tmp_path / "cache")) == 6
        for kept in tmp_path.glob("kept/own-*/index.arrow"):
            kept.write_bytes(kept.read_bytes()[:500])


@pytest.mark.parametrize("folder", ["calls", "my calls+more"])
def test_own_recordings_mix_with_corpora(fake_corpus, clips, tmp_path, folder):
    """As the tested part with their own words, and as the added one."""
    table = csv().replace("angry", "anger").replace("cleo", "03")
    lay(tmp_path / folder, clips[0], {**CLIPS, "metadata.csv": table + "clips/gone.wav,complaint,anna\n"})
    place, names = str(tmp_path / folder), f"{tmp_path / folder}+emodb"
    tested = find_mixture(names, data_dir=fake_corpus("emodb").parent, test_on=folder)
    assert tested.tested.shown == f"./{folder}" and tested.add_labels == ("angry", "complaint", "sad")
    rows, report, mixed = load_mixture(replace(tested, added=(find_source("emodb", "7class", fake_corpus("emodb")),)))
    words = {report.label_names[label] for label in mixed.rows["label"]}
    assert len(rows) == 6 and words == {"angry", "sad"} and "03" not in mixed.rows["speaker"][:]
    assert (
        find_mixture(place).tested.config.name == "labels"
        and find_mixture(place, "4class").tested.config.name == "4class"
    )


def test_groups_of_two_mixed_folders_are_not_the_same(clips, tmp_path):
    head, days = ("file_name", "label", "speaker", "day"), [(*row, f"d{row[2]}") for row in SAY]
    for name, gap in (("one", 0), ("two", 1)):
        rows = [(f"{c}.wav", label, s, day) for c, label, s, day in days]
        lay(tmp_path / name, clips[0], {"metadata.csv": csv(head=head, rows=rows)})
        for c in range(6):
            voice(tmp_path / name / f"{c}.wav", 0.2, seed=10 * gap + c)
    mixture = find_mixture(f"{tmp_path}/one+{tmp_path}/two", test_on="one", columns=Columns(group_column="day"))
    rows, _, mixed = load_mixture(mixture)
    parts = add_to_train(split(rows, "./one", mixture.tested.protocol, validation_fraction=0), mixed)
    check_disjoint(parts)
    assert {*parts["train"]["group"]} == {"dben", "dcleo", "./two/danna", "./two/dben", "./two/dcleo"}


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("{}/cals", {}, ("no such folder or file", "did you mean {}/calls?")),
        ("cals/", {}, ("/cals: no such folder or file",)),
        ("emodb", {"label_column": "x"}, ("--label_column: does nothing for emodb",)),
        ("{}/calls", {"streaming": True}, ("--streaming true: --dataset {}/calls is on this machine",)),
        ("{}/calls", {"data_dir": "{}"}, ("already says where the data is",)),
        ("{}/calls", {"labels": "8class"}, ("has no label set '8class': choose one of labels, 3class, 4class",)),
    ],
)
def test_mistakes(clips, tmp_path, name, options, parts):
    lay(
        tmp_path / "calls",
        clips[0],
        {**CLIPS, "metadata.csv": csv(rows=[*(r.split(",") for r in csv().split()[1:]), ("x.wav", "happy", "x")])},
    )
    with pytest.raises(SerError) as caught:
        load_corpus(name.format(tmp_path), **options)
    for part in parts:
        assert part.format(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def as_layouts(rows: Dataset, words: list[str], root: Path) -> dict[str, dict]:
    """A corpus in eight layouts, each with the keywords that it needs: `words` are its labels."""
    table = pd.DataFrame({"file_name": [f"wav/{Path(a['path']).name}" for a in rows["audio"]], "emotion": words})
    table["speaker"], table["text"] = rows["speaker"][:], rows["text"][:]
    files = [(Path(audio["path"]), name) for audio, name in zip(rows["audio"], table["file_name"], strict=True)]
    for name in ("csv", "semicolons", "jsonl", "xlsx"):
        (root / name / "wav").mkdir(parents=True)
        for source, file in files:
            shutil.copy(source, root / name / file)
    table.to_csv(root / "csv" / "metadata.csv", index=False)
    table.to_csv(root / "semicolons" / "metadata.csv", index=False, sep=";", encoding="utf-16")
    table.to_json(root / "jsonl" / "metadata.jsonl", orient="records", lines=True)
    table.to_excel(root / "xlsx" / "metadata.xlsx", index=False)
    for (source, _), word, speaker in zip(files, words, table["speaker"], strict=True):
        for place in (
            root / "folders" / word / f"speaker{speaker}",
            root / "split" / "train test".split()[int(speaker) % 2] / word / speaker,
        ):
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place / source.name)
    sound = [{"bytes": source.read_bytes(), "path": source.name} for source, _ in files]
    data = Dataset.from_dict(
        {"audio": sound, **{name: table[name].tolist() for name in ("emotion", "speaker", "text")}}
    )
    data.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(str(root / "saved"))
    data.to_parquet(str(root / "shards" / "data" / "train-00000-of-00001.parquet"))
    return dict.fromkeys(("csv", "semicolons", "jsonl", "xlsx", "saved", "shards"), {}) | {
        "folders": {"speaker_column": "folder2"},
        "split": {"speaker_column": "folder2"},
    }


def folds_by_clip(place: Path, columns: dict, cache: Path) -> tuple[list, list]:
    """The rows of own data by their clips, and the clips of each test set of `speaker-folds`."""
    data, report = load_corpus(str(place), cache_dir=cache, return_report=True, **columns)
    speakers = [name.removeprefix("speaker") for name in data["speaker"]]
    rows = sorted(zip(data["audio_hash"], [report.label_names[x] for x in data["label"]], speakers, strict=True))
    folds = [sorted(data["audio_hash"][int(row)] for row in test) for test in folds_of(data, SPEAKER_FOLDS)]
    return rows, folds


def test_one_corpus_in_eight_layouts(fake_corpus, tmp_path):
    data, report = load_corpus("emodb", data_dir=fake_corpus("emodb"), cache_dir=tmp_path / "c", return_report=True)
    words = [report.label_names[label] for label in data["label"]]
    rows = sorted(zip(data["audio_hash"], words, data["speaker"], strict=True))
    folds = [sorted(data["audio_hash"][int(row)] for row in test) for test in folds_of(data, SPEAKER_FOLDS)]
    layouts = as_layouts(data, words, tmp_path / "own")
    assert len(layouts) == 8
    for name, columns in layouts.items():
        assert folds_by_clip(tmp_path / "own" / name, columns, tmp_path / "c") == (rows, folds), name


CELLS = [
    "0.wav",
    "1.wav",
    "2.wav",
    "./0.wav",
    "",
    "nan",
    "-1",
    "1",
    "0.5",
    "inf",
    "angry",
    "Angry ",
    "a|b",
    "[0, 1]",
    "[1",
]
CELLS += [
    "['sad', 'sad']",
    '{"a": 1}',
    '{"a": "x"}',
    "[[1]]",
    "true",
    "\0",
    "é",
    "/",
    "..",
    "1:2",
    "train",
    "test",
    '"',
    ";",
]
NAMES = [
    "file_name",
    "label",
    "speaker",
    "text",
    "split",
    "fold",
    "start",
    "end",
    "id",
    "age",
    "valence",
    "votes",
    "session",
]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_any_table_is_a_corpus_or_one_line(data):
    """Whatever the cells hold: rows that Arrow can store, with an id each, or an error of one line."""
    head = ["file_name", "label", *data.draw(st.lists(st.sampled_from(NAMES), max_size=4))]
    cells = st.sampled_from(CELLS)
    rows = data.draw(st.lists(st.tuples(cells, cells, *[cells] * (len(head) - 2)), min_size=1, max_size=5))
    columns = Columns(label_columns=[data.draw(st.sampled_from(head))] if data.draw(st.booleans()) else None)
    with TemporaryDirectory() as folder:
        if data.draw(st.booleans()):
            Path(folder, "metadata.csv").write_text(csv(data.draw(st.sampled_from(",;\t|")), head, rows))
        else:
            lines = [json.dumps(dict(zip(head, row, strict=True))) for row in rows]
            Path(folder, "metadata.jsonl").write_text("\n".join(lines))
        try:
            corpus = folder_corpus(Path(folder), columns)
        except SerError as error:
            assert "\n" not in str(error)
            return
        builder = corpus(cache_dir=folder, config_name=corpus.DEFAULT_CONFIG_NAME, data_dir=folder)
        found = builder.utterances(Path(folder))
        table = [builder.columns(row, {"problem": row["problem"]}) for row in found]
        assert len(pa.Table.from_pylist(table, schema=builder.info.features.arrow_schema)) == len(found) > 0
        assert all(row["id"] for row in found) and list(corpus.state(Path(folder))) and corpus.protocols()
