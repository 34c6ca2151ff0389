"""A fake CMU-MOSEI: the raw zip with MTurk's answers (`make`), with the .csd (`make_csd`), MMSA's table (`make_mmsa`).

Three of its ids are real, because the official folds are lists of ids; all that is said and rated is made up.
"""

import csv
from pathlib import Path

import numpy as np
import soundfile as sf

from . import voice

DASH, SCORE, DIGITS = "-3g5yACwYnA", "_0efYOjQYRc", "101787"  # in train, test and validation
NO_FOLD, BINARY, LONE, NO_WAV, TIMES = "nofold_0001", "binary_0001", "lone__00001", "nowav_00001", "times_00001"

# Lines are in no order of time, overlap, and hold segments that nobody labelled; a text may hold the separator.
TRANSCRIPTS = {
    DASH: [
        "1___0.75___1.5___the second sentence",
        "0___-0.4875___0.875___the first one starts before its recording",
        "2___1.5___2.25___he said _____ and ___7___ left   ",
        "3___2.0___2.5___nobody rated this",
    ],
    SCORE: ["3___0.25___1.0___two channels", "4___1.0___2.0___caf\udce9"],  # a byte that is not UTF-8
    DIGITS: ["0___0.0___0.5___a video called by a number", "1___0.5___1.0___half rated"],
    NO_FOLD: ["10___0.125___0.625___ten", "9___1e-05___0.5___nine"],
    NO_WAV: ["0___0.0___1.0___its recording is missing"],
    TIMES: ["0___1.0___1.0___no time", "1___2.5___9.0___longer than the recording", "2___3.5___4.0___after its end"],
}

# Input.VIDEO_ID, Input.CLIP, and the answers of one rater: sentiment, happy, sad, anger, surprise, disgust, fear
RATINGS = {
    "5000_batch_raw.csv": [
        (DASH, 0, 1, 1, 0, 0, 0, 0, 0),
        (DASH, 0, 2, 0, 0, 0, 0, 0, 0),
        (DASH, 0, 3, 1, 0, 0, 0, 0, 0),  # happy 2/3, sentiment 2
        (DASH, 1, -1, 0, 1, 0, 0, 0, 0),
        (DASH, 1, -1, 0, 2, 1, 0, 0, 0),
        (DASH, 1, 0, 0, 3, 0, 0, 0, 0),  # sad 2, angry 1/3, sentiment -2/3
        (DASH, 2, 0, 0, 0, 0, 0, 0, 0),  # neutral
        (DASH, 7, 0, 0, 0, 0, 0, 0, 0),  # a clip that its transcript does not have
        (DIGITS, 0, -1, 0, 0, 0, 0, 1, 0),
        (DIGITS, 0, 0, 0, 0, 0, 0, 0, 0),
        (DIGITS, 0, 0, 0, 0, 0, 0, 0, 0),  # disgust 1/3, sentiment -1/3
        (DIGITS, 1, 1, 0, 0, 0, 0, 0, ""),
        (DIGITS, 1, 1, 0, 0, 0, 0, 0, ""),  # no answer on fear: only its sentiment, 1, is known
        ("", "", 3, 3, 3, 3, 3, 3, 3),  # answers to no clip
        (BINARY, 0, 1, 1, 0, 0, 0, 0, 0),
        (LONE, 0, -1, 0, 1, 0, 0, 0, 0),
        (NO_WAV, 0, 1, 1, 0, 0, 0, 0, 0),
        (TIMES, 0, -1, 0, 1, 0, 0, 0, 0),
        (TIMES, 1, -1, 0, 1, 0, 0, 0, 0),
        (TIMES, 1, -2, 0, 0, 0, 0, 0, 0),  # sad 0.5, sentiment -1.5
        (TIMES, 2, -1, 0, 0, 1, 0, 0, 0),
    ],
    "pom_extra_sqa_mono_results.csv": [  # writes dir/<video>, and its columns are in another order
        (f"17/{SCORE}", 3, -3, 0, 0, 3, 0, 0, 0),
        (f"17/{SCORE}", 3, "", "", "", "", "", "", ""),
        (f"17/{SCORE}", 3, -2, "", 0, 2, 0, 0, 0),  # angry 2.5, sentiment -2.5: of two answers
        (f"17/{SCORE}", 4, 1, 0, 0, 0, 1, 0, 0),
        (f"17/{SCORE}", 4, 1, 0, 0, 0, 0, 0, 0),
        (f"17/{SCORE}", 4, 1, 0, 0, 0, 0, 0, 0),
        (f"17/{SCORE}", 4, 0, 0, 0, 0, 0, 0, 0),  # four raters: surprised 0.25, sentiment 0.75
        (NO_FOLD, "10.0", 0, 0, 0, 0, 0, 0, 2),  # fearful 2, sentiment 0
    ],
}
ANSWERS = ("sentiment", "happiness", "sadness", "anger", "surprise", "disgust", "fear")
# MTurk's own columns come first and others lie between: only names tell which is which.
COLUMNS = ["HITId", "Title", "WorkerId", "Input.VIDEO_ID", "Input.CLIP", "Answer.anger", "Answer.disgust"]
COLUMNS += ["Answer.fear", "Answer.gender", "Answer.happiness", "Answer.sadness", "Answer.sentiment", "Answer.surprise"]


def recording(path: Path) -> None:
    """Three seconds; one video has two channels that differ."""
    voice(path, 3.0, seed=path.stem)
    if path.stem == SCORE:
        mono, rate = sf.read(path, dtype="int16")
        sf.write(path, np.stack([mono, np.flip(mono)], axis=1), rate)


def _raw(raw: Path) -> None:
    for video in (DASH, SCORE, DIGITS, NO_FOLD, BINARY, LONE, TIMES):
        recording(raw / "Audio" / "Full" / "WAV_16000" / f"{video}.wav")
    texts = raw / "Transcript" / "Segmented" / "Combined"
    texts.mkdir(parents=True)
    for video, lines in TRANSCRIPTS.items():
        text = "".join(f"{video}___{line}\n" for line in lines)
        (texts / f"{video}.txt").write_text(text, "utf-8", errors="surrogateescape")
    (texts / f"{BINARY}.txt").write_bytes(bytes(range(256)) * 4)
    (texts / f"{LONE}.txt").write_text("1234567")
    (texts / f"._{DASH}.txt").write_bytes(b"\x00\x05\x16\x07")


def make(root: Path) -> None:
    _raw(root / "Raw")
    folder = root / "Raw" / "Labels"
    folder.mkdir()
    for number, (name, ratings) in enumerate(RATINGS.items()):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS[::-1] if number else COLUMNS, restval="x")
            table.writeheader()
            for video, clip, *values in ratings:
                answers = {f"Answer.{answer}": value for answer, value in zip(ANSWERS, values, strict=True)}
                table.writerow({"Input.VIDEO_ID": video, "Input.CLIP": clip, **answers})
    (folder / "._5000_batch_raw.csv").write_bytes(b"\x00\x05\x16\x07")
    # s3prl's table of classes, which calls segments without any emotion happy, is not read.
    (folder / "CMU_MOSEI_Labels.csv").write_text(
        f",file,index,start,end,label2a,label2b,label6,label7,split\n0,{DASH},0,0.75,1.5,1,1,0,1,0\n"
    )


# The same segments in the .csd: other numbers (positions), other order, times a little off.
# Video -> (start, end, sentiment, happy, sad, anger, surprise, disgust, fear)
LABELS = {
    DASH: [
        (1.5001, 2.25, 0, 0, 0, 0, 0, 0, 0),
        (-0.4875, 0.875, 2, 2 / 3, 0, 0, 0, 0, 0),
        (0.75, 1.4999, -2 / 3, 0, 2, 1 / 3, 0, 0, 0),
        (0.75, 1.625, 1, 0, 0, 0, 1, 0, 0),  # no line of the transcript: too far from both that overlap it
    ],
    SCORE: [(0.25, 1.0, -2.5, 0, 0, 2.5, 0, 0, 0), (1.0, 2.0, 0.75, 0, 0, 0, 0.25, 0, 0)],
    DIGITS: [(0.0, 0.5, -1 / 3, 0, 0, 0, 0, 1 / 3, 0), (0.5, 1.0, 1, 0, 0, 0, 0, 0, float("nan"))],
    NO_FOLD: [(0.125, 0.625, 0, 0, 0, 0, 0, 0, 2)],
    BINARY: [(0.0, 1.0, 1, 1, 0, 0, 0, 0, 0)],
    NO_WAV: [(0.0, 1.0, 1, 1, 0, 0, 0, 0, 0)],
    TIMES: [(1.0, 1.0, -1, 0, 1, 0, 0, 0, 0), (2.5, 9.0, -1.5, 0, 0.5, 0, 0, 0, 0), (3.5, 4.0, -1, 0, 0, 1, 0, 0, 0)],
}


def make_csd(root: Path) -> None:
    """The raw data in a folder that was renamed, and the official means beside it. Needs h5py."""
    import h5py

    _raw(root)
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "w") as file:
        for video, rows in LABELS.items():
            rows = np.array(rows)
            file[f"All Labels/data/{video}/intervals"] = rows[:, :2]
            file[f"All Labels/data/{video}/features"] = rows[:, 2:].astype(np.float32)


def make_mmsa(root: Path) -> None:
    """MMSA's table: three clips of which one still is a video, and one that is nowhere."""
    voice(root / "Raw" / DASH / "0.wav", seed=1)
    voice(root / "Raw" / DIGITS / "12.wav", seed=2)
    (root / "Raw" / DIGITS / "3.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42")
    (root / "label.csv").write_text(
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        f'{DASH},0,"well, THIS is one",2.3333333,,,,Positive,train\n'
        f"{DIGITS},12,ANOTHER,-0.5,,,,Negative,valid\n"
        f"{DIGITS},3,A VIDEO,0.0,,,,Neutral,valid\n"
        f"{SCORE},4,NOWHERE,0.0,,,,Neutral,test\n"
    )


EXPECTED = {
    "emotions": {"utterances": 8, "outside_labels": 1, "problems": 6, "per_label": {}},
    "emotions_multi_label": {"utterances": 8, "outside_labels": 1, "problems": 6, "per_label": {}},
    "sentiment": {"utterances": 9, "outside_labels": 0, "problems": 6, "per_label": {}},
    "7class": {
        "utterances": 7,
        "outside_labels": 2,
        "problems": 6,
        "per_label": {
            "angry": 1,
            "disgust": 1,
            "fearful": 1,
            "happy": 1,
            "neutral": 1,
            "sad": 1,
            "surprised": 1,
        },
    },
    "4class": {
        "utterances": 4,
        "outside_labels": 5,
        "problems": 6,
        "per_label": {"angry": 1, "happy": 1, "neutral": 1, "sad": 1},
    },
}
# Labels in thirds are in tests/test_cmu_mosei.py: they are not exact in float32.
ROWS = {
    f"{DASH}_0": {
        "text": "the first one starts before its recording",
        "speaker": DASH,
        "start": 0.0,
        "end": 0.875,
        "duration": 0.875,
        "split": "train",
        "language": "en",
    },
    f"{DASH}_1": {"start": 0.75, "end": 1.5, "duration": 0.75, "text": "the second sentence"},
    f"{DASH}_2": {"label": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "text": "he said _____ and ___7___ left", "start": 1.5},
    f"{SCORE}_3": {"label": [0.0, 0.0, 2.5, 0.0, 0.0, 0.0], "split": "test", "speaker": SCORE, "start": 0.25},
    f"{SCORE}_4": {"label": [0.0, 0.0, 0.0, 0.25, 0.0, 0.0], "text": "caf\ufffd", "duration": 1.0},
    f"{DIGITS}_0": {"split": "validation", "speaker": DIGITS, "text": "a video called by a number"},
    f"{NO_FOLD}_10": {"label": [0.0, 0.0, 0.0, 0.0, 0.0, 2.0], "split": None, "start": 0.125, "duration": 0.5},
    f"{TIMES}_1": {"label": [0.0, 0.5, 0.0, 0.0, 0.0, 0.0], "start": 2.5, "end": 9.0, "duration": 0.5},
}
