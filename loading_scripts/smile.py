"""SMILE, tweets about British museums annotated with emotions: text only, without audio and speakers.

3085 tweets of 2013 to 2015 in one file, `id,"text",label` without a header. A label is one emotion, several
(`sad|disgust`), `not-relevant`, or `nocode` where no such word fits.
"""

import csv
import html
from itertools import islice
from pathlib import Path

from ser_hf.data.corpus import Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig, SerError

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "happy": "happy",
    "not-relevant": "not_relevant",
    "sad": "sad",
    "surprise": "surprised",
}
COUNTS = {"angry": 57, "disgust": 6, "happy": 1137, "not_relevant": 214, "sad": 32, "surprised": 35}
FIVE = ("angry", "disgust", "happy", "sad", "surprised")


def _rows(path: Path, limit: int | None = None) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            return [row for row in islice(csv.reader(file), limit) if row]
        except csv.Error as error:
            raise SerError(f"{path} is not SMILE's table ({error}); {Smile.CARD.how_to_get}") from None


def _table(folder: Path) -> Path | None:
    """The annotations' file, also under a browser's new name for it (`smile-annotations-final (1).csv`)."""
    for path in sorted(folder.glob("[sS][mM][iI][lL][eE]*.csv")):
        if any(len(row) == 3 and {*row[2].split("|")} <= {*EMOTIONS, "nocode"} for row in _rows(path, 5)):
            return path
    return None


def tweets(path: Path) -> list[list[str]]:
    """`[id, text, label]` of every tweet.

    Raises:
        SerError: a spreadsheet has rounded the ids (a header line and lost characters come with that).
    """
    rows = [[*row, "", ""][:3] for row in _rows(path)]
    if rows[0][0].lower().endswith("id"):
        rows = rows[1:]
    ids = [row[0] for row in rows]
    rounded = [name for name in ids if not name.isdigit()]
    if rounded or len(set(ids)) < len(ids):
        what = f"{len(rounded)} ids like {rounded[-1]!r}" if rounded else f"{len(ids) - len(set(ids))} ids occur again"
        raise SerError(f"{path} was damaged by a spreadsheet ({what} in {len(ids)} tweets): {Smile.CARD.how_to_get}")
    return rows


class Smile(SpeechCorpus):
    CARD = CorpusCard(
        title="SMILE Twitter Emotion dataset",
        languages=("en",),
        licence="CC-BY-4.0",
        redistributable=False,
        homepage="https://figshare.com/articles/dataset/smile_annotations_final_csv/3187909",
        how_to_get=(
            "Download smile-annotations-final.csv from https://doi.org/10.6084/m9.figshare.3187909 (429,668 bytes) and "
            "do not save it with a spreadsheet; many copies on GitHub are damaged by one."
        ),
        layout="smile-annotations-final.csv",
        citation=(
            "Wang et al. (2016), SMILE: Twitter Emotion Classification using Domain Adaptation, SAAIP workshop at IJCAI"
        ),
        utterances=3085,
        speakers=0,
        hours=None,
        folders=("SMILE",),
        notes=(
            "Text only. The licence is that of the annotations, the tweets remain Twitter's and their authors'. Mostly "
            "English, some tweets in other languages. `text` is the tweet with its HTML entities resolved (&amp; is &) "
            "and otherwise untouched; 42 tweets repeat another's text, so a random split may share texts."
        ),
    )
    BUILDER_CONFIGS = [
        LabelConfig("single", counts=COUNTS),
        LabelConfig("multi_label", targets=FIVE, problem_type="multi_label_classification", counts={"": 1299}),
    ]
    DEFAULT_CONFIG_NAME = "single"
    PROTOCOLS = (
        Protocol(
            "5fold-by-text-speakers-unknown",
            "five random folds, texts that are equal up to case, punctuation, web addresses and @names kept together; "
            "who wrote a tweet is not known",
            by="random",
            folds=((), (), (), (), ()),
            speaker_independent=False,
            speakers_known=False,
        ),
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        return next((place for place in (folder, *sorted(folder.glob("*/"))) if _table(place)), None)

    def utterances(self, root: Path) -> list[dict]:
        rows = []
        for name, text, label in tweets(_table(root)):
            chosen = {EMOTIONS.get(word) for word in label.split("|")}
            rows.append(
                {
                    "id": name,
                    "audio": None,
                    "emotion": EMOTIONS.get(label, "other"),  # `nocode` or several: outside `single`
                    "text": html.unescape(text),
                    "speaker": None,
                    # `nocode` and `not-relevant` say nothing about emotions, so they are no row of zeros.
                    "scores": {target: float(target in chosen) for target in FIVE} if chosen <= {*FIVE} else {},
                }
            )
        return rows
