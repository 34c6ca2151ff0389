"""`ser-hf check` of one's own data: every finding by number, and a cleaned table that loads."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from datasets import Audio, Dataset

from fakes import babble
from ser_hf import load_corpus
from ser_hf.cli import main, own_page
from ser_hf.evaluation.bootstrap import expected_interval

SPEAKERS, LABELS = ("anna", "ben", "cleo", "dora", "emil", "finn"), ("angry", "sad")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Six speakers, two labels and two clips of each: 24 rows with which nothing is wrong."""
    root = tmp_path_factory.mktemp("own") / "calls"
    root.mkdir()
    rows = [(f"{s}_{label}_{n}.wav", label, s, f"text {s} {n}") for s in SPEAKERS for label in LABELS for n in (0, 1)]
    for seed, (name, *_) in enumerate(rows):
        sf.write(root / name, babble(seed, 1.0), 16000)
    return root, rows


@pytest.fixture
def checked(capsys, tmp_path):
    """Check a folder: (exit status, screen, the JSON report)."""

    def check(folder, *flags):
        capsys.readouterr()
        status = main(["check", str(folder), "--json", str(tmp_path / "report.json"), *map(str, flags)])
        out = capsys.readouterr()
        assert status < 2, out.err
        return status, out.out, json.loads((tmp_path / "report.json").read_text())

    return check


def table(root: Path, rows: list, head=("file_name", "label", "speaker", "text"), sep: str = ",") -> Path:
    (root / "metadata.csv").write_text("\n".join(sep.join(map(str, row)) for row in (head, *rows)) + "\n")
    return root


def copied(clean, tmp_path) -> tuple[Path, list]:
    root, rows = clean
    return shutil.copytree(root, tmp_path / "calls"), [list(row) for row in rows]


def numbers(report: dict) -> dict[str, int]:
    return {one["what"]: len(one["items"]) for one in report["findings"]}


def rows_of(place, **columns) -> list[tuple]:
    corpus = load_corpus(str(place), **columns)
    names = getattr(corpus.features["label"], "names", None)
    labels = [names[label] for label in corpus["label"]] if names else corpus["label"]
    return list(zip(corpus["id"], labels, corpus["speaker"], corpus["audio_hash"], strict=True))


def test_a_clean_folder_needs_nothing(clean, checked, tmp_path):
    root, rows = copied(clean, tmp_path)
    status, out, report = checked(table(root, rows))
    assert status == 0 and out.endswith("\nnothing needs you\n") and report["findings"] == []
    assert report["classes"] == {label: {speaker: 2 for speaker in SPEAKERS} for label in LABELS}
    assert [line.split() for line in out.splitlines() if line.startswith("sad")] == [
        ["sad", "12", "6", "2", "2", "2", "2", "2", "2"]
    ]
    assert report["test"]["protocol"] == "speaker-folds" and report["test"]["folds"] == [[2, 8], *[[1, 4]] * 4]
    low, high = report["test"]["interval"]
    assert f"UAR 0.70 would be reported with about [{low:.2f}, {high:.2f}]" in out and 0.2 < high - low < 0.45
    assert "24 clips: WAV, 16000 Hz, channels: 1" in out
    assert report["sound"]["quantiles"]["duration"] == [1.0] * 5
    assert checked(root, "--num_proc", 2) == (status, out, report)


def test_everything_that_can_be_wrong_is_found_and_the_fixed_table_loads(clean, checked, tmp_path):
    root, rows = copied(clean, tmp_path)
    rows[0][1] = "agnry"  # misspelled
    rows[4][2] = ""  # no speaker
    rows[5][1] = "nan"  # no label
    rows[6][0] = "ben_sad_O.wav"  # not there; ben_sad_0.wav is
    rows[8][2] = "cloe"  # a speaker who looks like cleo
    whole = (root / rows[9][0]).read_bytes()
    (root / rows[9][0]).write_bytes(whole[: len(whole) // 2])
    sf.write(root / "zero.wav", np.zeros(16000), 16000)
    rows.append(["zero.wav", "sad", "anna", ""])
    same = sf.read(root / rows[12][0])[0]
    sf.write(root / "same.flac", same, 16000)
    rows.append(["same.flac", "sad", "emil", ""])  # of dora, angry
    sf.write(root / "soft.wav", 0.1 * babble(13, 1.0), 16000)
    rows.append(["soft.wav", "angry", "finn", rows[1][3]])  # of dora, with anna's text
    sf.write(root / "twice.flac", sf.read(root / rows[16][0])[0], 16000)
    rows.append(["twice.flac", "angry", "emil", ""])  # emil's own
    sf.write(root / "loud.wav", np.clip(3 * babble(50, 1.0), -1, 1), 16000)
    rows.append(["loud.wav", "sad", "finn", ""])
    sf.write(root / "faint.wav", 3e-3 * babble(51, 1.0), 16000)
    rows.append(["faint.wav", "sad", "finn", ""])
    sf.write(root / "phone.wav", soxr.resample(babble(52, 1.0), 16000, 8000), 8000)
    rows.append(["phone.wav", "sad", "finn", ""])
    (root / "README").write_text("not a table")
    table(root, rows, sep=";")
    before = {path: path.read_bytes() for path in root.rglob("*")}
    status, out, report = checked(root, "--fix", tmp_path / "fixed")
    assert status == 1 and {path: path.read_bytes() for path in root.rglob("*")} == before
    assert numbers(report) == {
        "files that are named and not there": 1,
        "files that are cut off or damaged": 1,
        "silent files": 1,
        "labels that look misspelled": 1,
        "speakers that look misspelled": 1,
        "rows without a label": 1,
        "rows without a speaker": 1,
        "equal recordings of other speakers, labels or splits": 1,
        "nearly equal recordings of other speakers, labels or splits (listen to them)": 1,
        "equal recordings of one speaker and label": 1,
        "clipped recordings": 1,
        "recordings fainter than -50 dBFS": 1,
        "several sampling rates: if labels differ in them, a model may learn the rate": 2,
        "texts of several speakers (of no matter for audio; a text model knows them)": 2,
        "audio files that no row names": 1,
    }
    for said in (
        "ben_sad_O.wav: unreadable audio (no such file); there is ben_sad_0.wav, which no row names",
        "agnry (1): angry?",
        "cloe (1): cleo?",
        f"{rows[9][0]}: unreadable audio (cut off after 50% of what its header announces)",
        "dora_angry_0 = same",
        "dora_angry_1 = soft",
        "loud.wav: ",
        "8000 Hz: 1 clips; sad 1",
        "'text anna 1': 2 speakers",
        "metadata.csv is separated by semicolons",
        "needs you: 9; --fix OUT writes",
        "wrote " + str(tmp_path / "fixed" / "metadata.csv"),
        "renamed: agnry = angry, cloe = cleo",
    ):
        assert said in out, said
    # 4 no speaker, 5 no label, 6 not there, 9 cut off, 12 contradictory; of those added zero, same and twice
    kept = [row for number, row in enumerate(rows) if number not in (4, 5, 6, 9, 12, 24, 25, 27)]
    mended = {"agnry": "angry", "cloe": "cleo"}
    loaded = rows_of(tmp_path / "fixed")
    assert [row[:3] for row in loaded] == [
        (Path(name).stem, mended.get(label, label), mended.get(speaker, speaker)) for name, label, speaker, _ in kept
    ]
    status, _, report = checked(tmp_path / "fixed")
    assert {one["what"].split(" (")[0] for one in report["findings"] if one["needs_you"]} == {
        "nearly equal recordings of other speakers, labels or splits"  # to be listened to: --fix takes no side
    }


@pytest.mark.parametrize("place", ["new folder", "table.csv", "calls/metadata.csv"])
def test_fix_writes_where_it_is_told_and_the_rows_are_the_same(clean, checked, tmp_path, place):
    """Names are relative below the table and absolute elsewhere; both load with the ids, labels and clips as before."""
    root, rows = copied(clean, tmp_path)
    table(root, rows).joinpath("metadata.csv").rename(root / "mine.csv")
    before = rows_of(root)
    _, out, _ = checked(root, "--fix", tmp_path / place)
    text = (tmp_path / place / "metadata.csv" if place == "new folder" else tmp_path / place).read_text()
    assert f"next: --dataset {tmp_path / place}" in out and (str(tmp_path) in text) == (place == "new folder")
    assert rows_of(tmp_path / place) == before
    if place == "calls/metadata.csv":
        assert rows_of(root) == before


LISTS = [(f"{s}_{label}_{n}.wav", s) for s in SPEAKERS for label in LABELS for n in (0, 1)]
KINDS = {  # the columns of labels, their cells for even and odd rows, flags
    "several": (("label",), (("angry|calm",), ("sad",)), {}),
    "none of several": (("label",), (('"[""sad"", ""calm""]"',), ("[]",)), {}),
    "values": (("arousal", "valence"), ((1.5, 2), (3, 0)), {}),
    "values and gaps": (("arousal", "valence"), ((1.5, 2), ("", "")), {}),
    "other values": (("warmth", "valence"), ((1.5, 2), (3, 0)), {"label_columns": ["warmth", "valence"]}),
    "fractions": (("label",), ((1.5,), (2,)), {}),
    "numbers": (("label",), ((10,), (9,)), {}),
    "votes": (("angry", "sad"), ((3, 1), (0, 2)), {"label_columns": ["angry", "sad"]}),
    "segments": (("label", "start", "end"), (("angry", 0.1, 0.5), ("sad", 0, 0.4)), {}),
    "split": (("label", "split"), (("angry", "train"), ("sad", "test")), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind_survive(clean, checked, tmp_path, kind):
    root, _ = copied(clean, tmp_path)
    head, cells, columns = KINDS[kind]
    table(root, [(*row, *cells[n % 2]) for n, row in enumerate(LISTS)], ("file_name", "speaker", *head))
    flags = [word for name, values in columns.items() for word in (f"--{name}", *values)]
    _, out, report = checked(root, "--fix", tmp_path / "fixed", *flags)
    said = next(line for line in out.splitlines() if line.startswith("next: "))
    again = {"label_columns": said.split("--label_columns ")[1].split()} if "--label_columns" in said else {}
    assert ("--label_columns" in said) == (kind == "other values")
    assert rows_of(tmp_path / "fixed", **again) == rows_of(root, **columns)
    values = {**dict.fromkeys(("values", "values and gaps"), ["arousal", "valence"]), "fractions": ["label"]}
    values |= {"other values": ["warmth", "valence"]}
    assert list(report["values"]) == values.get(kind, []) and bool(report["classes"]) == (kind not in values)
    if kind == "values":
        assert (
            report["values"]["arousal"] == [1.5, 1.5, 2.25, 3.0, 3.0]
            and "arousal    1.5  1.5    2.25     3     3" in out
        )
    if kind == "split":
        assert report["splits"] == {part: {"clips": 12, "speakers": 6} for part in ("test", "train")}
        found = {one["what"]: one["items"] for one in report["findings"]}
        assert len(found["speakers in several parts of your split"]) == 6
        assert "--protocol official-leaks-speakers tests so all the same" in found["a run would stop"][0]


def test_rows_without_values_need_you(clean, checked, tmp_path):
    root, _ = copied(clean, tmp_path)
    cells = [("", 2) if n < 3 else (1.5, 2) for n in range(len(LISTS))]
    rows = [(*row, *cell) for row, cell in zip(LISTS, cells, strict=True)]
    table(root, rows, ("file_name", "speaker", "arousal", "valence"))
    _, out, report = checked(root, "--fix", tmp_path / "fixed")
    assert numbers(report)["rows without a label"] == 3 and "left out: without a label (3)" in out
    assert len(rows_of(tmp_path / "fixed")) == len(LISTS) - 3


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "aiff", "ogg"])
def test_cut_off_files_are_told(clean, checked, tmp_path, kind):
    """Every one of five shares, from 25 to 95 %, and no whole file."""
    root, rows = copied(clean, tmp_path)
    for number, share in enumerate((1, 0.95, 0.9, 0.75, 0.5, 0.25)):
        path = root / f"part{number}.{kind}"
        sf.write(path, babble(60 + number, 3.0), 16000)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        rows.append([path.name, "sad", "finn", ""])
    _, _, report = checked(table(root, rows))
    (found,) = report["findings"]
    assert found["what"] == "files that are cut off or damaged"
    assert [item.split(":")[0] for item in found["items"]] == [f"part{n}.{kind}" for n in range(1, 6)]


def test_segments_that_end_after_their_file(clean, checked, tmp_path):
    root, _ = copied(clean, tmp_path)
    rows = [(*row, LABELS[n % 2], 0.2, 1.5 if n == 3 else 0.9) for n, row in enumerate(LISTS)]
    status, out, report = checked(table(root, rows, ("file_name", "speaker", "label", "start", "end")))
    assert status == 1 and numbers(report) == {"segments that end after their file": 1}
    assert "anna_sad_1:0.2-1.5: ends at 1.5 s, 0.80 s were there" in out


def test_unknown_speakers_and_one_speaker_need_you(clean, checked, tmp_path):
    root, rows = copied(clean, tmp_path)
    status, out, report = checked(table(root, [row[:2] for row in rows], ("file_name", "label")))
    assert status == 1 and numbers(report) == {"speakers are not known": 1}
    assert report["test"]["warning"] == "SPEAKERS UNKNOWN" and "add a column `speaker`" in out
    status, out, report = checked(table(root, [(*row[:2], "me") for row in rows], ("file_name", "label", "speaker")))
    assert status == 1 and numbers(report) == {"one speaker alone": 1, "a run would stop": 1}
    assert "--dataset corpus+PATH --test_on PATH" in out


def test_nothing_that_can_be_used(checked, tmp_path):
    (tmp_path / "calls").mkdir()
    table(tmp_path / "calls", [("a.wav", "sad", "ann"), ("b.wav", "angry", "ben")], ("file_name", "label", "speaker"))
    status, out, report = checked(tmp_path / "calls")
    assert status == 1 and numbers(report) == {"files that are named and not there": 2, "no row can be used": 1}


def test_data_that_holds_its_sound_is_checked_and_not_fixed(clean, checked, capsys, tmp_path):
    """As a dataset on the Hub: `save_to_disk`."""
    root, rows = clean
    data = Dataset.from_dict(
        {
            "audio": [{"bytes": (root / row[0]).read_bytes(), "path": row[0]} for row in rows],
            "label": [row[1] for row in rows],
            "speaker": [row[2] for row in rows],
        }
    )
    data.cast_column("audio", Audio(decode=False)).save_to_disk(str(tmp_path / "saved"))
    status, _, report = checked(tmp_path / "saved")
    assert status == 0 and (report["usable"], report["speakers"]) == (24, 6)
    assert report["sound"]["quantiles"]["duration"] == [1.0] * 5
    assert main(["check", str(tmp_path / "saved"), "--fix", str(tmp_path / "out")]) == 2
    assert "are in the dataset, and a csv can only name files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fix_writes_over_nothing(clean, capsys, tmp_path):
    root, rows = copied(clean, tmp_path)
    table(root, rows)
    for flags, said in (
        (
            ("--fix", root),
            f"nothing is written over; name a new folder or file, such as {root}/metadata.csv",
        ),
        (("--fix", root / "metadata.csv"), "exists, and nothing is written over"),
        (("--fix", tmp_path / "x.xlsx"), "writes csv; name a file such as x.csv, or a new folder"),
        (("--near_duplicates",), "own data is always compared; leave it out"),
    ):
        assert main(["check", str(root), *map(str, flags)]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert main(["check", "emodb", "--fix", str(tmp_path / "new")]) == 2
    assert "--fix" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize("speakers, clips", [(10, 60), (40, 20), (100, 10)])
def test_the_interval_is_that_of_the_formula(speakers, clips):
    """The variance of a mean over speakers and clips, p (1 - p) / n + s² / speakers, times 1.96² (Student's factor for
    few speakers is left out); the bootstrap and its percentiles may differ from it by a fifth."""
    who = np.repeat(np.arange(speakers), clips).astype(str).tolist()
    low, high = expected_interval([n % 4 for n in range(len(who))], who, 4)
    half = 1.96 * math.sqrt(0.7 * 0.3 / len(who) + 0.1**2 / speakers)
    assert (high - low) / 2 == pytest.approx(half, rel=0.2)


def test_many_speakers_are_cut_to_those_of_most_clips():
    classes = {"sad": {f"s{n}": n for n in range(1, 101)}, "angry": {"s100": 1, "": 3}}
    head, sad, angry = own_page.class_table(classes)
    assert head.split() == "label clips speakers s100 s99 s98 s97 s96 s95 s94 s93 92 others unknown".split()
    assert sad.split() == ["sad", "5050", "100", *map(str, range(100, 92, -1)), str(92 * 93 // 2), "0"]
    assert angry.split() == ["angry", "4", "1", "1", *["0"] * 8, "3"] and len(head) < 120
