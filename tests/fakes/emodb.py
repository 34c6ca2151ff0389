"""EmoDB: all ten speakers in all seven emotions, two sentences each, a quarter of a second long."""

from pathlib import Path

from . import voice

SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
SENTENCES = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
LETTERS = "WLEAFTN"

EXPECTED = {
    "7class": {
        "utterances": 140,  # 10 speakers x 7 emotions x 2
        "outside_labels": 0,
        "problems": 1,
        "per_label": {e: 20 for e in ("angry", "bored", "disgust", "fearful", "happy", "neutral", "sad")},
    },
    "4class": {
        "utterances": 80,
        "outside_labels": 60,
        "problems": 1,
        "per_label": {"angry": 20, "happy": 20, "neutral": 20, "sad": 20},
    },
}

ROWS = {
    "03a07Fa": {
        "label": "happy",
        "text": "In sieben Stunden wird es soweit sein.",
        "speaker": "03",
        "gender": "male",
        "language": "de",
        "duration": 0.25,
    },
    "08a02Wa": {"label": "angry", "text": "Das will sie am Mittwoch abgeben.", "speaker": "08", "gender": "female"},
    "10b09Ta": {
        "label": "sad",
        "text": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
        "gender": "male",
    },
    "16a04Aa": {"label": "fearful", "text": "Heute abend könnte ich es ihm sagen.", "gender": "female"},
}


def make(root: Path) -> None:
    for s, speaker in enumerate(SPEAKERS):
        for e, letter in enumerate(LETTERS):
            for shift, version in ((0, "a"), (7, "c")):
                name = f"{speaker}{SENTENCES[(s + e + shift) % 10]}{letter}{version}.wav"
                voice(root / "wav" / name, 0.25, seed=1000 * s + 10 * e + shift)
    (root / "wav" / "08b10Wd.wav").write_bytes(b"")
    (root / "wav" / "._03a07Fa.wav").write_bytes(b"\x00\x05\x16\x07")
    # The other folders of download.zip; the texts are Latin-1 with decimal commas
    (root / "erkennung.txt").write_bytes("Satz\terkannt\tnatürlich\n03a07Fa.wav\t90,00\t65,00\xa0\n".encode("latin-1"))
    for folder, name in (("lablaut", "03a07Fa.lablaut"), ("labsilb", "03a07Fa.labsilb"), ("silb", "03a07Fa.silb")):
        (root / folder).mkdir()
        (root / folder / name).write_bytes("0.1 -1 für\n".encode("latin-1"))
