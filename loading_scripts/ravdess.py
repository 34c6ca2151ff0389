"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song: its speech audio.

24 actors (12 female, 12 male, North American English) say two sentences in eight emotions, seven of them in two
intensities: 1440 files of 48 kHz, 1.48 h. Five files are stereo with two equal channels; one pair of actor 07 is
byte-identical. Several clips are very quiet (peaks below 300/32768).
"""

import re
from pathlib import Path

from ser_hf.data.corpus import Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # codes 01 to 08
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
COUNTS = {emotion: 96 if emotion == "neutral" else 192 for emotion in EMOTIONS}
SIX = ("angry", "disgust", "fearful", "happy", "neutral", "sad")  # the emotions CREMA-D has too
FIVE = ("angry", "fearful", "happy", "neutral", "sad")  # our choice of five: what the acted corpora share most

# Actors of each test fold.
EMOBOX = "01 11 20 21", "04 10 12 14", "08 09 19 23", "03 05 07 24", "02 15 16 18", "06 13 17 22"
LUNA_JIMENEZ = "02 05 14 15 16", "03 06 07 13 18", "10 11 12 19 20", "08 17 21 23 24", "01 04 09 22"

# modality (03 audio) - channel (01 speech) - emotion - intensity - statement - repetition - actor
NAME = re.compile(r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)\.wav$")


class Ravdess(SpeechCorpus):
    CARD = CorpusCard(
        title="RAVDESS (speech audio)",
        languages=("en",),
        licence="CC-BY-NC-SA-4.0",
        redistributable=True,
        homepage="https://zenodo.org/records/1188976",
        how_to_get="Download Audio_Speech_Actors_01-24.zip from https://zenodo.org/records/1188976 and unpack it.",
        layout="Actor_01/03-01-01-01-01-01-01.wav ... Actor_24/",
        citation=(
            "Livingstone & Russo (2018), The Ryerson Audio-Visual Database of Emotional Speech and Song, PLoS ONE 13(5)"
        ),
        utterances=1440,
        speakers=24,
        hours=1.4803,
        folders=("RAVDESS", "Audio_Speech_Actors_01-24"),
        notes="Acted speech, two sentences. The song files of the same release are ignored.",
    )
    BUILDER_CONFIGS = [
        LabelConfig("8class", counts=COUNTS),
        LabelConfig("6class", counts={e: COUNTS[e] for e in SIX}),
        LabelConfig("5class", counts={e: COUNTS[e] for e in FIVE}),
    ]
    DEFAULT_CONFIG_NAME = "8class"
    OPTIONAL = ("gender", "language", "intensity")
    PROTOCOLS = (
        Protocol(
            "6fold", "EmoBox (Ma et al. 2024): 6 folds of 4 actors", folds=tuple(tuple(f.split()) for f in EMOBOX)
        ),
        Protocol(
            "5fold",
            "Luna-Jimenez et al. (2021), MMEmotionRecognition: subject-wise 5-fold",
            folds=tuple(tuple(f.split()) for f in LUNA_JIMENEZ),
        ),
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        # Kaggle's zip holds a second copy in a nested folder of the same name: take the outermost.
        for pattern in ("Actor_[0-9][0-9]", "*/Actor_[0-9][0-9]"):
            for actor in sorted(folder.glob(pattern)):  # the release's songs (03-02) have the same folders
                if any(actor.glob("03-01-*.wav")):
                    return actor.parent
        return folder.parent if re.fullmatch(r"Actor_\d\d", folder.name) and any(folder.glob("03-01-*.wav")) else None

    def utterances(self, root: Path) -> list[dict]:
        rows = []
        for path in sorted(root.glob("Actor_[0-9][0-9]/*.wav")):
            if match := NAME.match(path.name):
                emotion, intensity, statement, _repetition, actor = (int(code) for code in match.groups())
                rows.append(
                    {
                        "id": path.stem,
                        "audio": path,
                        "emotion": EMOTIONS[emotion - 1],
                        "text": STATEMENTS[statement - 1],
                        "speaker": f"{actor:02d}",
                        "gender": "male" if actor % 2 else "female",
                        "language": "en",
                        "intensity": ("normal", "strong")[intensity - 1],
                    }
                )
        return rows
