"""IEMOCAP: five sessions, in each a dialog of either prefix, in which both actors speak every code twice.

The texts and ratings are made up. Times tie to the clips' lengths as in the corpus: frames = (end - start) x 16000.
"""

import zlib
from pathlib import Path

import numpy as np
import soundfile as sf

from . import voice

CODES = ("ang", "exc", "fru", "hap", "neu", "sad", "xxx")  # of utterances 000 to 006 of each actor in each dialog
RARE = ("dis", "fea", "oth", "sur")  # 007 to 010 of Ses01F in Ses01F_impro01

# Valence, activation, dominance
MEANS = {
    "ang": (1.5, 4.0, 4.5),
    "exc": (4.0, 4.5, 3.5),
    "fru": (2.0, 3.5, 3.0),
    "hap": (4.5, 3.0, 2.5),
    "neu": (2.5, 2.0, 3.0),
    "sad": (1.5, 1.5, 2.0),
    "xxx": (3.0, 2.5, 3.5),
}
# What three outside raters said; a rater may give several words.
WORDS = {
    "ang": ("Anger;", "Anger; Frustration;", "Anger;"),
    "dis": ("Disgust;", "Disgust;", "Disgust;"),
    "exc": ("Excited;", "Excited;", "Surprise;"),
    "fea": ("Fear;", "Fear;", "Fear;"),
    "fru": ("Frustration;", "Frustration;", "Sadness;"),
    "hap": ("Happiness;", "Excited; Happiness;", "Neutral state;"),
    "neu": ("Neutral;", "Neutral state;", "Neutral;"),
    "oth": ("Other;", "Other;", "Other;"),
    "sad": ("Sadness;", "Sadness;", "Sadness;"),
    "sur": ("Surprise;", "Surprise;", "Surprise;"),
    "xxx": ("Anger;", "Sadness;", "Neutral;"),
}

MISSING = "Ses02F_impro01_M000"  # angry
EMPTY = "Ses02F_impro01_M004"  # neutral
NO_SAMPLES = "Ses04F_impro01_F001"  # excited
SILENT = "Ses05F_impro01_F005"  # sad
GARBAGE = "Ses04F_impro01_M002"  # frustrated

# 5 sessions x 2 dialogs x 2 actors = 20 of each of CODES, one of each of RARE: 144 utterances
EXPECTED = {
    "4class": {
        "utterances": 96,
        "outside_labels": 43,  # 19 frustrated, 20 undecided, 4 rare
        "problems": 4,  # all but GARBAGE, which is outside
        "per_label": {"angry": 19, "happy": 39, "neutral": 19, "sad": 19},
    },
    "3class": {
        "utterances": 77,
        "outside_labels": 62,  # and 19 sad
        "problems": 3,
        "per_label": {"angry": 19, "happy": 39, "neutral": 19},
    },
    "3class_sad": {
        "utterances": 77,
        "outside_labels": 62,  # and 19 neutral
        "problems": 3,  # angry, excited, sad
        "per_label": {"angry": 19, "happy": 39, "sad": 19},
    },
    "full": {
        "utterances": 139,
        "outside_labels": 0,
        "problems": 5,
        "per_label": {
            "angry": 19,
            "disgust": 1,
            "excited": 19,
            "fearful": 1,
            "frustrated": 19,
            "happy": 20,
            "neutral": 19,
            "other": 1,
            "sad": 19,
            "surprised": 1,
            "undecided": 20,
        },
    },
    "vad": {"utterances": 138, "outside_labels": 1, "problems": 5, "per_label": {}},  # Ses01F_impro01_F001: no dom
}

ROWS = {
    "Ses01F_impro01_F000": {
        "label": "angry",
        "text": "Who moved the ladder?",
        "speaker": "Ses01F",
        "session": "1",
        "dialog": "Ses01F_impro01",
        "gender": "female",
        "language": "en",
        "valence": 1.5,
        "arousal": 4.0,
        "dominance": 4.5,
        "start": 6.25,
        "end": 6.5,
        "duration": 0.25,
        "votes": [3.0, 0.0, 0.0, 0.0],  # not the actress's own Sadness, nor the second word of E3
    },
    "Ses01F_impro01_F001": {"label": "happy", "valence": 4.0, "dominance": None, "votes": [0.0, 2.0, 0.0, 0.0]},
    "Ses01F_impro01_F003": {"label": "happy", "text": "[LAUGHTER]", "votes": [0.0, 2.0, 1.0, 0.0]},
    "Ses01F_impro01_F004": {"label": "neutral", "text": None, "votes": [0.0, 0.0, 3.0, 0.0]},
    "Ses01F_impro01_F005": {"label": "sad", "text": "It\ufffds gone. [BREATHING]"},
    # the man of session 1, in the dialog in which the woman wears the markers
    "Ses01F_impro01_M000": {"speaker": "Ses01M", "gender": "male", "start": 6.5, "end": 6.75},
    "Ses02M_script01_1_F000": {"label": "angry", "text": None, "speaker": "Ses02F"},  # no file of transcripts
    "Ses03M_impro05a_F005": {"label": "sad", "speaker": "Ses03F", "session": "3", "dialog": "Ses03M_impro05a"},
    "Ses05M_script01_1b_M004": {"label": "neutral", "speaker": "Ses05M", "session": "5", "arousal": 2.0},
}

TEXTS = {
    "Ses01F_impro01_F000": b"Who moved the ladder?",
    "Ses01F_impro01_F003": b"[LAUGHTER]",
    "Ses01F_impro01_F004": None,  # no line
    "Ses01F_impro01_F005": b"It\x92s gone. [BREATHING]",  # Windows-1252
}


def make(root: Path) -> None:
    root = root / "IEMOCAP_full_release"  # in IEMOCAP_full_release: some unpackings nest the folder
    for session in range(1, 6):
        second = {3: "Ses03M_impro05a", 5: "Ses05M_script01_1b"}.get(session, f"Ses0{session}M_script01_1")
        for dialog in (f"Ses0{session}F_impro01", second):
            _dialog(root / f"Session{session}", dialog)
    (root / "Session2/dialog/transcriptions/Ses02M_script01_1.txt").unlink()
    wav = root / "Session2/sentences/wav/Ses02F_impro01"
    (wav / f"{MISSING}.wav").unlink()
    (wav / f"{EMPTY}.wav").write_bytes(b"")
    wav = root / "Session4/sentences/wav/Ses04F_impro01"
    (wav / f"{GARBAGE}.wav").write_bytes(b"not audio at all " * 20)
    sf.write(wav / f"{NO_SAMPLES}.wav", np.zeros(0), 16000, subtype="PCM_16")
    sf.write(root / f"Session5/sentences/wav/Ses05F_impro01/{SILENT}.wav", np.zeros(4800), 16000, subtype="PCM_16")
    (root / "README.txt").write_text("IEMOCAP\n")
    # The two-channel recording of a dialog; lists of single raters in sub-folders; a file of the annotation tool
    voice(root / "Session1/dialog/wav/Ses01F_impro01.wav", 0.5, channels=2)
    ratings = root / "Session1/dialog/EmoEvaluation"
    (ratings / "Ses01F_impro01.anvil").write_text("<annotation/>\n")
    for name, line in (
        ("Categorical/Ses01F_impro01_e2_cat.txt", "Ses01F_impro01_F000 :Neutral state; ()"),
        ("Attribute/Ses01F_impro01_e3_atr.txt", "Ses01F_impro01_F000 :act 4; :val 3; :dom 2;"),
        ("Self-evaluation/Ses01F_impro01_f1_cat.txt", "[6.2500 - 6.5000]\tSes01F_impro01_F900\tsad\t[1.0, 1.0, 1.0]"),
    ):
        (ratings / name).parent.mkdir()
        (ratings / name).write_text(line + "\n")


def _dialog(session: Path, dialog: str) -> None:
    """Write one dialog: clips, ratings and transcripts, and beside every file an AppleDouble one."""
    blocks, lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"], []
    for actor, offset in (("F", 6.25), ("M", 6.5)):
        codes = CODES + (RARE if dialog + actor == "Ses01F_impro01F" else ())
        for number, code in enumerate(codes):
            name = f"{dialog}_{actor}{number:03d}"
            start = offset + number * 0.125  # turns overlap
            end = start + 0.25 + number / 100
            clip = session / "sentences" / "wav" / dialog / f"{name}.wav"
            voice(clip, end - start, seed=zlib.crc32(name.encode()))
            blocks.append(_block(name, code, start, end))
            text = TEXTS.get(name, f"Synthetic line {number}.".encode())
            if text is not None:
                lines.append(f"{name} [{start:08.4f}-{end:08.4f}]: ".encode() + text)
    # Not in order of time; noise without an id; turns that nobody rated, which have no clip
    lines = [*lines[::-1], b"M: sorry", f"{dialog}_FXX0 [001.0000-001.5000]: Right.".encode(), b""]
    _write(session / "dialog" / "EmoEvaluation" / f"{dialog}.txt", "\n".join(blocks).encode())
    _write(session / "dialog" / "transcriptions" / f"{dialog}.txt", b"\n".join(lines))
    (session / "sentences" / "wav" / dialog / f"._{dialog}_F000.wav").write_bytes(b"\x00\x05\x16\x07")


def _block(name: str, code: str, start: float, end: float) -> str:
    """The ratings of one utterance; the actors' own (C-F1, C-M1) contradict those of the outside raters."""
    valence, activation, dominance = (f"{mean:.4f}" for mean in MEANS.get(code, (3.0, 3.0, 3.0)))
    if name == "Ses01F_impro01_F001":
        dominance = ""
    first, second, third = WORDS[code]
    return "\n".join(
        (
            f"[{start:.4f} - {end:.4f}]\t{name}\t{code}\t[{valence}, {activation}, {dominance}]",
            f"C-E2:\t{first}\t()",
            f"C-E3:\t{second}\t(maybe; I do not know (Anger;))",
            f"C-E4:\t{third}\t()",
            f"C-{name[-4]}1:\tSadness;\t()",
            "A-E3:\tval 3; act 2; dom  2;\t()",
            "A-E4:\tval 2; act 3; dom  ;\t()",
            f"A-{name[-4]}1:\tval 1; act 5; dom  1;\t()\n",
        )
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    remains = b"\x00\x05\x16\x07\x00\x02\xff\xfe\n" + content.replace(b"_F00", b"_F90").replace(b"_M00", b"_M90")
    path.with_name(f"._{path.name}").write_bytes(remains)
