"""A fake TESS in Kaggle's form: every folder spelling, the folder nested in itself, a misnamed clip, AIFF, 96 kHz."""

import shutil
from pathlib import Path

from . import voice

# Kaggle's folder -> clips in it
FOLDERS = {
    "OAF_angry": ["OAF_back_angry"],
    "OAF_disgust": ["OAF_back_disgust"],
    "OAF_Fear": ["OAF_food_fear"],
    "OAF_happy": ["OAF_back_happy"],
    "OAF_neutral": ["OAF_back_neutral", "OA_bite_neutral"],
    "OAF_Pleasant_surprise": ["OAF_back_ps"],
    "OAF_Sad": ["OAF_back_sad"],
    "YAF_angry": ["YAF_germ_angry"],
    "YAF_disgust": ["YAF_back_disgust"],
    "YAF_fear": ["YAF_neat_fear"],
    "YAF_happy": ["YAF_back_happy"],
    "YAF_neutral": ["YAF_back_neutral"],
    "YAF_pleasant_surprised": ["YAF_back_ps"],
    "YAF_sad": ["YAF_back_sad"],
}
NESTED = "TESS Toronto emotional speech set data"


def _clip(path: Path, seed: int) -> None:
    rate = 96000 if path.stem == "OAF_food_fear" else 24414
    kind = "AIFF" if path.stem in ("YAF_germ_angry", "YAF_neat_fear") else "WAV"  # AIFF behind a .wav name
    voice(path, 0.1, rate, seed=seed, format=kind)


def make(root: Path) -> None:
    clips = [root / folder / f"{name}.wav" for folder, names in FOLDERS.items() for name in names]
    for seed, path in enumerate(clips):
        _clip(path, seed)
    for folder in FOLDERS:
        shutil.copytree(root / folder, root / NESTED / folder)
    nested = root / NESTED / "OAF_neutral"
    (nested / "OA_bite_neutral.wav").rename(nested / "OAF_bite_neutral.wav")  # the same clip, spelled as on Dataverse
    (root / "OAF_angry" / "._OAF_back_angry.wav").write_bytes(b"\x00\x05\x16\x07")
    (root / "OAF_angry" / "readme.wav").write_bytes(b"no clip of the corpus")


def make_flat(root: Path) -> None:
    """Dataverse's form of the same clips: one folder, the misnamed clip spelled right. `EXPECTED` and `ROWS` hold."""
    for seed, name in enumerate(name for names in FOLDERS.values() for name in names):
        _clip(root / f"{name.replace('OA_', 'OAF_')}.wav", seed)


EXPECTED = {
    "7class": {
        "utterances": 15,
        "outside_labels": 0,
        "problems": 0,
        "per_label": {"angry": 2, "disgust": 2, "fearful": 2, "happy": 2, "neutral": 3, "sad": 2, "surprised": 2},
    },
    "5class": {
        "utterances": 11,
        "outside_labels": 4,
        "problems": 0,
        "per_label": {"angry": 2, "fearful": 2, "happy": 2, "neutral": 3, "sad": 2},
    },
    "6class": {
        "utterances": 13,
        "outside_labels": 2,
        "problems": 0,
        "per_label": {"angry": 2, "disgust": 2, "fearful": 2, "happy": 2, "neutral": 3, "sad": 2},
    },
}
ROWS = {
    "OAF_bite_neutral": {
        "label": "neutral",
        "text": "Say the word bite",
        "speaker": "OAF",
        "gender": "female",
        "age": 64.0,
        "language": "en",
    },
    "YAF_germ_angry": {"label": "angry", "text": "Say the word germ", "speaker": "YAF", "age": 26.0},
    "YAF_neat_fear": {"label": "fearful", "speaker": "YAF"},
    "OAF_food_fear": {"label": "fearful", "speaker": "OAF"},
    "YAF_back_ps": {"label": "surprised"},
}
