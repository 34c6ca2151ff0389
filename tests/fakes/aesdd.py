"""A fake AESDD: take letters, a zero-padded speaker, the unreadable clip, the documentation folder."""

from pathlib import Path

from . import voice

CLIPS = (
    "anger/a01 (1)",
    "anger/a06 (5)b",
    "disgust/d01 (5)b",
    "disgust/d03 (01)",
    "fear/f10 (01)",
    "fear/f18 (5)",
    "fear/f18 (5)b",
    "happiness/h01 (2)",
    "happiness/h20 (6)",
    "sadness/s01 (5)a",
    "sadness/s01 (5)b",
)


def make(root: Path) -> None:
    for seed, clip in enumerate(CLIPS):
        voice(root / f"{clip}.wav", 0.1, 44100, seed=seed)
    (root / "sadness" / "s05 (3).wav").write_bytes(b"RIFF\x00\x00\x00\x00 not a wave file")
    (root / "sadness" / "._s01 (5)a.wav").write_bytes(b"\x00\x05\x16\x07")
    (root / "Tools and Documentation").mkdir()
    (root / "Tools and Documentation" / "readme.txt").write_text("synthetic\n")


EXPECTED = {
    "5class": {
        "utterances": 11,
        "outside_labels": 0,
        "problems": 1,
        "per_label": {"angry": 2, "disgust": 2, "fearful": 3, "happy": 2, "sad": 2},
    },
}
ROWS = {
    "a06 (5)b": {"label": "angry", "speaker": "5", "language": "el", "text": None},
    "d03 (01)": {"label": "disgust", "speaker": "1"},
    "f10 (01)": {"label": "fearful", "speaker": "1"},
    "h20 (6)": {"label": "happy", "speaker": "6"},
    "s01 (5)a": {"label": "sad", "speaker": "5"},
}
