"""RAVDESS: all 24 actors in all eight emotions, a quarter of a second each, and the traps of the real files."""

import shutil
from pathlib import Path

import numpy as np
import soundfile as sf

from . import voice

EXPECTED = {
    # 24 a word, and besides: calm and happy in stereo, a quiet sad one, a pair of equal happy ones
    "8class": {
        "utterances": 197,
        "outside_labels": 0,
        "problems": 3,
        "per_label": {
            "angry": 24,
            "calm": 25,
            "disgust": 24,
            "fearful": 24,
            "happy": 27,
            "neutral": 24,
            "sad": 25,
            "surprised": 24,
        },
    },
    "5class": {
        "utterances": 124,
        "outside_labels": 73,
        "problems": 2,
        "per_label": {"angry": 24, "fearful": 24, "happy": 27, "neutral": 24, "sad": 25},
    },
    "6class": {
        "utterances": 148,
        "outside_labels": 49,
        "problems": 3,
        "per_label": {"angry": 24, "disgust": 24, "fearful": 24, "happy": 27, "neutral": 24, "sad": 25},
    },
}

ROWS = {
    "03-01-01-01-02-01-01": {
        "label": "neutral",
        "text": "Dogs are sitting by the door",
        "speaker": "01",
        "gender": "male",
        "language": "en",
        "intensity": "normal",
        "duration": 0.25,
    },
    "03-01-05-02-01-01-24": {
        "label": "angry",
        "text": "Kids are talking by the door",
        "speaker": "24",
        "gender": "female",
        "intensity": "strong",
    },
    "03-01-02-01-01-02-01": {"label": "calm", "text": "Kids are talking by the door", "duration": 0.3},  # stereo
    "03-01-04-01-01-02-09": {"label": "sad", "speaker": "09", "duration": 0.25},  # quiet
}

STEREO = ("Actor_01/03-01-02-01-01-02-01.wav", "Actor_20/03-01-03-01-02-01-20.wav")
TWINS = ("Actor_07/03-01-03-01-02-01-07.wav", "Actor_07/03-01-03-01-02-02-07.wav")
QUIET = "Actor_09/03-01-04-01-01-02-09.wav"


def make(root: Path) -> None:
    for actor in range(1, 25):
        for emotion in range(1, 9):
            intensity = 1 if emotion == 1 else 1 + emotion % 2  # neutral is never strong
            statement = 1 + (emotion + actor + 1) % 2
            name = f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-01-{actor:02d}.wav"
            voice(root / f"Actor_{actor:02d}" / name, 0.25, 48000, seed=100 * actor + emotion)
    for number, name in enumerate(STEREO):
        voice(root / name, 0.3, 48000, channels=2, seed=number)
    for name in TWINS:
        voice(root / name, 0.25, 48000, seed=7)
    quiet, rate = sf.read(voice(root / QUIET, 0.25, 48000, seed=9))
    sf.write(root / QUIET, quiet / np.abs(quiet).max() * 250 / 32768, rate, subtype="PCM_16")  # peak 250 of 32768
    # Clips that cannot be used
    (root / "Actor_02/03-01-05-02-01-02-02.wav").write_bytes(b"not audio at all " * 20)
    (root / "Actor_03/03-01-06-01-02-02-03.wav").write_bytes(b"")
    sf.write(root / "Actor_04/03-01-07-01-02-02-04.wav", np.zeros(0), 48000, subtype="PCM_16")
    # Not clips of this corpus: songs, videos, what macOS leaves behind
    voice(root / "Actor_01/03-02-01-01-01-01-01.wav", 0.25, 48000, seed=1)
    for name in ("01-01-01-01-01-01-01.mp4", "02-01-01-01-01-01-01.mp4", "._03-01-01-01-02-01-01.wav", ".DS_Store"):
        (root / "Actor_01" / name).write_bytes(b"\x00\x05\x16\x07")
    # Kaggle's zip holds the corpus a second time
    for actor in ("Actor_01", "Actor_02"):
        shutil.copytree(root / actor, root / "audio_speech_actors_01-24" / actor)
