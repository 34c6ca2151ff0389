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
wav/f2_00.wav,angry,I hate the exam.,f2,female,4.2,1.8,angry
wav/f2_01.wav,sad,I miss the trip.,f2,female,1.7,2.0,sad
wav/m2_00.wav,angry,I hate the exam.,m2,male,4.2,1.8,angry
wav/m2_01.wav,sad,I miss the trip.,m2,male,1.7,2.0,sad
wav/f3_00.wav,angry,I hate the exam.,f3,female,4.2,1.8,angry
wav/f3_01.wav,sad,I miss the trip.,f3,female,1.7,2.0,sad
wav/m3_00.wav,angry,I hate the exam.,m3,male,4.2,1.8,angry
wav/m3_01.wav,sad,I miss the trip.,m3,male,1.7,2.0,sad
"""
MISSING, UNREADABLE = "m1_03", "m1_04"  # a row without its file, a file without samples

EXPECTED = {
    "4class": {
        "utterances": 15,
        "outside_labels": 0,
        "problems": 2,
        "per_label": {"angry": 6, "happy": 2, "neutral": 2, "sad": 5},
    },
    "dimensional": {"utterances": 15, "outside_labels": 0, "problems": 2, "per_label": {}},
    "multi_label": {"utterances": 15, "outside_labels": 0, "problems": 2, "per_label": {}},
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
