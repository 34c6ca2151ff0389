"""CMU-MOSEI: segments cut from recordings, means over raters, two numberings, the official folds, MMSA's table."""

import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from fakes import cmu_mosei as fake
from fakes.cmu_mosei import BINARY, DASH, DIGITS, LONE, NO_FOLD, NO_WAV, SCORE, TIMES
from ser_hf.data.audio import cut, whole
from ser_hf.data.loading import corpus_class, find_source, load_corpus
from ser_hf.data.schema import SerError

REAL = Path(__file__).parents[2] / "shared" / "realdata" / "cmu_mosei"


@pytest.fixture
def load(tmp_path):
    def load(labels=None, folder=tmp_path / "corpus"):
        data, report = load_corpus("cmu_mosei", labels, folder, cache_dir=tmp_path / "cache", return_report=True)
        return {row["id"]: row for row in data}, report

    return load


@pytest.fixture
def raw(tmp_path):
    fake.make(tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def csd(tmp_path):
    pytest.importorskip("h5py")
    fake.make_csd(tmp_path / "corpus")
    return tmp_path / "corpus"


def samples(row):
    return sf.read(io.BytesIO(cut(*whole(row["audio"]["path"]))), dtype="int16")


def test_a_row_holds_its_segment_alone_and_every_sample_of_it(raw, load):
    rows, _ = load()
    folder = raw / "Raw" / "Audio" / "Full" / "WAV_16000"
    # id, video, and the frames of it at 16 kHz: 0.875 s are 14000
    for name, video, first, last in (
        (f"{DASH}_0", DASH, 0, 14000),  # from -0.4875 s
        (f"{DASH}_1", DASH, 12000, 24000),  # overlaps the one before
        (f"{SCORE}_3", SCORE, 4000, 16000),  # two channels
        (f"{NO_FOLD}_10", NO_FOLD, 2000, 10000),
        (f"{TIMES}_1", TIMES, 40000, 48000),  # to 9 s in a recording of 3 s
    ):
        whole, _ = sf.read(folder / f"{video}.wav", dtype="int16")
        part, rate = samples(rows[name])
        assert rate == 16000 and len(part) == last - first
        np.testing.assert_array_equal(part, whole[first:last])
        assert rows[name]["duration"] == (last - first) / 16000
    assert samples(rows[f"{SCORE}_3"])[0].shape == (12000, 2)


def test_labels_are_means_over_the_answers_given(raw, load):
    rows, _ = load()  # happy, sad, angry, surprised, disgust, fearful
    assert rows[f"{DASH}_0"]["label"] == pytest.approx([2 / 3, 0, 0, 0, 0, 0])
    assert rows[f"{DASH}_1"]["label"] == pytest.approx([0, 2, 1 / 3, 0, 0, 0])
    assert rows[f"{SCORE}_3"]["label"] == [0, 0, 2.5, 0, 0, 0]
    assert rows[f"{SCORE}_4"]["label"] == [0, 0, 0, 0.25, 0, 0]
    assert rows[f"{DIGITS}_0"]["label"] == pytest.approx([0, 0, 0, 0, 1 / 3, 0])
    assert rows[f"{NO_FOLD}_10"]["label"] == [0, 0, 0, 0, 0, 2]
    sentiment, _ = load("sentiment")
    assert {name: round(row["label"][0], 4) for name, row in sentiment.items()} == {
        f"{DASH}_0": 2.0,
        f"{DASH}_1": -0.6667,
        f"{DASH}_2": 0.0,
        f"{DIGITS}_0": -0.3333,
        f"{DIGITS}_1": 1.0,
        f"{SCORE}_3": -2.5,
        f"{SCORE}_4": 0.75,
        f"{NO_FOLD}_10": 0.0,
        f"{TIMES}_1": -1.5,
    }


def test_an_emotion_is_present_above_zero_and_a_class_is_the_only_one_present(raw, load):
    rows, _ = load("emotions_multi_label")
    assert rows[f"{DASH}_1"]["label"] == [0, 1, 1, 0, 0, 0]
    assert rows[f"{DASH}_2"]["label"] == [0, 0, 0, 0, 0, 0]
    assert rows[f"{SCORE}_4"]["label"] == [0, 0, 0, 1, 0, 0]
    rows, report = load("7class")
    words = {name: report.label_names[row["label"]] for name, row in rows.items()}
    assert words == {
        f"{DASH}_0": "happy",
        f"{DASH}_2": "neutral",
        f"{DIGITS}_0": "disgust",
        f"{SCORE}_3": "angry",
        f"{SCORE}_4": "surprised",
        f"{NO_FOLD}_10": "fearful",
        f"{TIMES}_1": "sad",
    }
    rows, report = load("4class")
    assert {name: report.label_names[row["label"]] for name, row in rows.items()} == {
        name: word for name, word in words.items() if word in ("angry", "happy", "neutral", "sad")
    }


def test_what_cannot_be_used_is_a_problem_that_says_why(raw, load):
    rows, report = load()
    # The rater's answers to no clip are no utterance.
    assert (report.utterances, report.outside_labels, len(report.problems)) == (8, 1, 6)
    no_line = "labelled, but no line of its transcript says when it is"
    wav = Path("Raw", "Audio", "Full", "WAV_16000")
    assert sorted(report.problems) == sorted(
        [
            f"{BINARY}_0: {no_line}",
            f"{LONE}_0: {no_line}",
            f"{DASH}_7: {no_line}",
            f"{wav / NO_WAV}.wav: unreadable audio (no such file)",
            f"{wav / TIMES}.wav: nothing between 1.0 s and 1.0 s",
            f"{wav / TIMES}.wav: nothing between 3.5 s and 4.0 s",
        ]
    )


def test_rows_are_as_written_by_hand(raw, load):
    rows, _ = load()
    for name, columns in fake.ROWS.items():
        assert {column: rows[name][column] for column in columns} == columns
    assert all(row["speaker"] == name.rpartition("_")[0] for name, row in rows.items())
    assert f"{NO_FOLD}_9" not in rows and f"{DASH}_3" not in rows  # in the transcripts, but nobody rated them


def test_the_csd_is_joined_by_time_never_by_number(csd, load):
    rows, report = load()
    # Position 0 of the .csd is clip 2 of the transcript, 1 is clip 0, and 2 is clip 1.
    assert rows[f"{DASH}_0"]["label"] == pytest.approx([2 / 3, 0, 0, 0, 0, 0])
    assert rows[f"{DASH}_0"]["text"] == "the first one starts before its recording"
    assert (rows[f"{DASH}_0"]["start"], rows[f"{DASH}_0"]["end"]) == (0.0, 0.875)
    assert rows[f"{DASH}_1"]["label"] == pytest.approx([0, 2, 1 / 3, 0, 0, 0])
    assert rows[f"{DASH}_1"]["text"] == "the second sentence" and rows[f"{DASH}_1"]["end"] == 1.4999
    assert rows[f"{DASH}_2"]["label"] == [0] * 6 and rows[f"{DASH}_2"]["start"] == 1.5001
    # Times that no line has: usable, without a text, under the SDK's name.
    assert rows[f"{DASH}[3]"]["label"] == [0, 0, 0, 1, 0, 0] and rows[f"{DASH}[3]"]["text"] is None
    assert rows[f"{BINARY}[0]"]["label"] == [1, 0, 0, 0, 0, 0]
    assert len(samples(rows[f"{BINARY}[0]"])[0]) == 16000
    assert (report.utterances, report.outside_labels, len(report.problems)) == (10, 1, 3)
    assert len(load("sentiment")[0]) == 11
    # The same segments as those of MTurk's answers, by the same names.
    assert set(rows) - {f"{DASH}[3]", f"{BINARY}[0]"} == set(fake.ROWS)


def test_the_csd_is_preferred_and_says_what_it_needs(raw, load, monkeypatch):
    (raw / "CMU_MOSEI_Labels.csd").write_bytes(b"not HDF5")
    monkeypatch.setitem(sys.modules, "h5py", None)  # as if it were not installed
    with pytest.raises(SerError, match="pip install h5py") as error:
        load()
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    pytest.importorskip("h5py")
    with pytest.raises(SerError, match="is not MOSEI's label file .* download it again"):
        load()


def test_recordings_and_transcripts_may_lie_elsewhere(raw, load):
    before, _ = load()
    (raw / "Raw" / "Audio" / "Full" / "WAV_16000").rename(raw / "Raw" / "Audio" / "WAV_16000")
    (raw / "Raw" / "Transcript" / "Segmented" / "Combined").rename(raw / "Raw" / "Transcript" / "Combined")
    (raw / "Raw").rename(raw.parent / "CMU-MOSEI")
    after, report = load(folder=raw.parent / "CMU-MOSEI")
    content = [{id: row | {"audio": None} for id, row in rows.items()} for rows in (before, after)]
    assert report.utterances == 8 and content[0] == content[1]


def test_segments_are_cut_a_block_at_a_time(raw):
    builder = corpus_class("cmu_mosei")(config_name="emotions", data_dir=str(raw), cache_dir=str(raw.parent / "cache"))
    rows = builder.utterances(raw)
    tables = builder._generate_tables(rows)
    assert sum(len(table) for _, table in tables) == len(rows) == 15
    assert all(isinstance(row["audio"], Path) for row in rows)  # no bytes are kept: MOSEI's are gigabytes


def test_mmsa(tmp_path, load):
    fake.make_mmsa(tmp_path / "corpus")
    rows, report = load("sentiment")
    assert {name: (row["label"], row["text"], row["split"]) for name, row in rows.items()} == {
        f"{DASH}_0": ([pytest.approx(7 / 3)], "well, THIS is one", "train"),
        f"{DIGITS}_12": ([-0.5], "ANOTHER", "validation"),
    }
    assert rows[f"{DASH}_0"]["audio"]["path"].endswith(f"Raw/{DASH}/0.wav")
    video, nowhere = report.problems
    assert video.endswith("3.mp4: a video; extract its sound first: ffmpeg -i 3.mp4 -ac 1 -ar 16000 3.wav")
    assert nowhere.endswith(f"Raw/{SCORE}/4.wav: unreadable audio (no such file)")
    with pytest.raises(SerError, match="no emotions, so not 'emotions': use --labels sentiment"):
        load()


def test_root(raw, tmp_path):
    root = corpus_class("cmu_mosei").root
    for folder in (raw, raw.parent, raw / "Raw", raw / "Raw" / "Audio", raw / "Raw" / "Labels"):
        assert root(folder) == raw
    assert find_source("cmu_mosei", data_dir=raw / "Raw").root == raw
    (tmp_path / "other" / "Labels").mkdir(parents=True)
    (tmp_path / "other" / "Labels" / "labels_consensus.csv").write_text("FileName,EmoClass\n")
    assert root(tmp_path / "other") is None
    fake.make_mmsa(tmp_path / "mmsa" / "MOSEI")
    assert root(tmp_path / "mmsa") == root(tmp_path / "mmsa" / "MOSEI" / "Raw") == tmp_path / "mmsa" / "MOSEI"
    # MOSI in MMSA's form: the same columns, other videos
    header = (tmp_path / "mmsa" / "MOSEI" / "label.csv").read_text().split("\n")[0]
    (tmp_path / "MOSI").mkdir()
    (tmp_path / "MOSI" / "label.csv").write_text(f"{header}\nnotinmosei1,1,TEXT,2.4,,,,Positive,train\n")
    assert root(tmp_path / "MOSI") is None


def test_official_folds():
    folds = Path(sys.modules[corpus_class("cmu_mosei").__module__].__file__).with_name("cmu_mosei_folds.json")
    assert folds.stat().st_size < 40_000
    videos = {part: ids.split() for part, ids in json.loads(folds.read_text())["folds"].items()}
    assert {part: len(set(ids)) for part, ids in videos.items()} == {"train": 2249, "validation": 300, "test": 678}
    assert len(set().union(*videos.values())) == 2249 + 300 + 678  # no video is in two


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real tables are not on this machine")
def test_official_folds_on_the_real_table():
    import pandas as pd

    module = sys.modules[corpus_class("cmu_mosei").__module__]
    table = pd.read_csv(REAL / "CMU_MOSEI_Labels.csv", dtype={"file": str}, keep_default_na=False)
    parts = Counter(module.FOLDS.get(video) for video in table["file"])
    assert parts == {"train": 16327, "validation": 1871, "test": 4662, None: 399}
    card = corpus_class("cmu_mosei").CARD
    assert (len(table), table["file"].nunique()) == (card.utterances, card.speakers) == (23259, 3293)
    hours = (table["end"] - table["start"].clip(lower=0)).sum() / 3600
    assert round(hours, 1) == card.hours == 49.1
    real = json.loads((REAL / "standard_folds.json").read_text())
    for ours, theirs in (("train", "train"), ("validation", "valid"), ("test", "test")):
        assert {video for video, part in module.FOLDS.items() if part == ours} == set(real[theirs])
