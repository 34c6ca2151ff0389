"""A fake SMILE: invented tweets in the clean form, with quotes, entities, bars in texts and labels of several words."""

from pathlib import Path

# id: (text as in the file, label)
TWEETS = {
    "700000000000000001": ("Tea &amp; cake at @some_museum &lt;3", "happy"),
    "700000000000000002": ('""Très joli"", said the owl|fox @some_museum', "happy"),
    "700000000000000003": ("Buy one lamp, get one lamp", "not-relevant"),
    "700000000000000004": ("Closed again, @some_museum?!", "angry"),
    "700000000000000005": ("There is a whale in the hall", "surprise"),
    "700000000000000006": ("The last day of the show", "sad"),
    "700000000000000007": ("Gum under the chair", "disgust"),
    "700000000000000008": ("Room 4, 10 am", "nocode"),
    "700000000000000009": ("Tea &amp; cake at @some_museum &lt;3", "nocode"),  # the text of another tweet
    "700000000000000010": ("I won a ticket", "happy|surprise"),
    "700000000000000011": ("Who painted over it?", "disgust|angry"),
    "700000000000000012": ("They sold it", "sad|disgust|angry"),
}


def make(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    lines = [f'{name},"{text}",{label}' for name, (text, label) in TWEETS.items()]
    (root / "smile-annotations-final.csv").write_text("\n".join(lines), encoding="utf-8")  # no newline at the end
    (root / "._smile-annotations-final.csv").write_bytes(b"\x00\x05\x16\x07")


def make_damaged(root: Path, ids: tuple[str, ...] = ("7E+17",)) -> None:
    """A copy saved by a spreadsheet: a header and rounded ids. Loading it is a SerError that says so."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["id,text,Category"]
    for number, (text, label) in enumerate(TWEETS.values()):
        lines.append(f'{ids[number % len(ids)]},"{text}",{label}')
    (root / "smile-annotations-final.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


EXPECTED = {
    "single": {
        "utterances": 7,
        "outside_labels": 5,
        "problems": 0,
        "per_label": {"angry": 1, "disgust": 1, "happy": 2, "not_relevant": 1, "sad": 1, "surprised": 1},
    },
    "multi_label": {"utterances": 9, "outside_labels": 3, "problems": 0, "per_label": {}},
}
ROWS = {
    "700000000000000001": {
        "label": "happy",
        "text": "Tea & cake at @some_museum <3",
        "audio": None,
        "speaker": None,
        "duration": None,
        "audio_hash": None,
    },
    "700000000000000002": {"label": "happy", "text": '"Très joli", said the owl|fox @some_museum'},
    "700000000000000003": {"label": "not_relevant"},
    "700000000000000005": {"label": "surprised", "text": "There is a whale in the hall"},
}
