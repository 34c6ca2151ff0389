"""The demo corpus in its own layout, with tones for voices: `metadata.csv` and `wav/<speaker>_<number>.wav`."""

from pathlib import Path

from . import voice

TABLE = """file,emotion,text,speaker,gender,arousal,valence,heard
wav/f1_00.wav,angry,"Honestly, I hate the report.",f1,female,4.21,1.9,angry
wav/f1_01.wav,happy,The trip is lovely.,f1,female,3.4,3.82,happy neutral
wav/f1_02.wav,neutral,I read about the exam.,f1,female,3.0,3.1,neutral
wav/f1_03.wav,sad,"Well, I miss the old garden.",f1,female,1.0,1.65,sad
wav/m1_00.wav,angry,I am angry about the letter.,m1,male,4.0,2.0,angry
wav/m1_01.wav,happy,I mourn the dinner.,m1,male,4.1,4.3,happy
wav/m1_02.wav,neutral,The concert is on Monday.,m1,male,2.9,3.2,neutral
wav/m1_03.wav,sad,I gave up on the interview.,m1,male,1.8,2.1,neutral sad
wav/m1_04.wav,angry,The night train is outrageous.,m1,male,4.4,1.5,angry
"""
MISSING, UNREADABLE = "m1_03", "m1_04"  # a row without its file, a file without samples

EXPECTED = {
    "4class": {
        "utterances": 7,
        "outside_labels": 0,
        "problems": 2,
        "per_label": {"angry": 2, "happy": 2, "neutral": 2, "sad": 1},
    },
    "dimensional": {"utterances": 7, "outside_labels": 0, "problems": 2, "per_label": {}},
    "multi_label": {"utterances": 7, "outside_labels": 0, "problems": 2, "per_label": {}},
}
ROWS = {
    "f1_00": {
        "text": "Honestly, I hate the report.",
        "label": "angry",
        "speaker": "f1",
        "gender": "female",
        "language": "en",
        "arousal": 4.21,
        "valence": 1.9,
    },
    "m1_01": {"text": "I mourn the dinner.", "label": "happy", "speaker": "m1", "gender": "male", "valence": 4.3},
}


def make(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text(TABLE, encoding="utf-8")
    for line in TABLE.splitlines()[1:]:
        path = root / line.split(",")[0]
        if path.stem == UNREADABLE:
            path.write_bytes(b"RIFF")
        elif path.stem != MISSING:
            voice(path, seed=path.stem)
