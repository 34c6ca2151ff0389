"""TESS, the Toronto emotional speech set.

Two actresses (64 and 26 years old, North American English) say "Say the word ..." with 200 words in seven emotions:
2800 files, 1.60 h, almost all 24414 Hz. `YAF_germ_angry.wav` and `YAF_neat_fear.wav` are AIFF files in spite of their
names, `OAF_food_fear.wav` has 96 kHz; soundfile, which goes by the content, reads all three.
"""

import re
from pathlib import Path

from ser_hf.data.corpus import EMOBOX_SIZES, Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprised",  # "pleasant surprise"
    "sad": "sad",
}
SIX = ("angry", "disgust", "fearful", "happy", "neutral", "sad")  # the emotions CREMA-D has too: all but surprised
FIVE = ("angry", "fearful", "happy", "neutral", "sad")  # our choice of five: what the acted corpora share most
COUNTS = {emotion: 400 for emotion in EMOTIONS.values()}
AGES = {"OAF": 64, "YAF": 26}  # older and younger actress, from the corpus's page

# Kaggle's form has one `OA_bite_neutral.wav`; Dataverse spells it `OAF_bite_neutral.wav`.
NAME = re.compile(r"(OAF?|YAF)_([^_]+)_(angry|disgust|fear|happy|neutral|ps|sad)\.wav$")


def _has_clips(folder: Path) -> bool:
    return any(NAME.match(file.name) for file in folder.glob("*.wav"))


class Tess(SpeechCorpus):
    CARD = CorpusCard(
        title="TESS (Toronto emotional speech set)",
        languages=("en",),
        licence="CC-BY-NC-ND-4.0",
        redistributable=False,
        homepage="https://doi.org/10.5683/SP2/E8H2MF",
        how_to_get="Download all files from https://doi.org/10.5683/SP2/E8H2MF, or Kaggle's copy, and unpack them.",
        layout="OAF_angry/OAF_back_angry.wav ... YAF_sad/ (Kaggle)\nor OAF_back_angry.wav ... (Dataverse)",
        citation="Pichora-Fuller & Dupuis (2020), Toronto emotional speech set (TESS), Borealis, 10.5683/SP2/E8H2MF",
        utterances=2800,
        speakers=2,
        hours=1.598,
        folders=("TESS", "TESS Toronto emotional speech set data", "TESS_Toronto_emotional_speech_set_data"),
        notes=(
            "Acted speech, one carrier sentence. With two speakers, a speaker-independent test set is one person. "
            "Copies differ in the licence they state (CC BY-NC or CC BY-NC-ND); the stricter one is taken."
        ),
    )
    BUILDER_CONFIGS = [
        LabelConfig("7class", counts=COUNTS),
        LabelConfig("6class", counts={e: COUNTS[e] for e in SIX}),
        LabelConfig("5class", counts={e: COUNTS[e] for e in FIVE}),
    ]
    DEFAULT_CONFIG_NAME = "7class"
    OPTIONAL = ("gender", "age", "language")
    PROTOCOLS = (
        Protocol(
            "leave-one-speaker-out",
            "train on one actress, test on the other; validation holds out words, for there is no third speaker",
            validation="texts",
        ),
        EMOBOX_SIZES,
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        if re.match(r"[OY]AF_", folder.name) and _has_clips(folder):  # an emotion's folder: one too deep
            return folder.parent
        for place in (folder, *sorted(folder.glob("*/"))):
            if _has_clips(place) or any(_has_clips(emotion) for emotion in place.glob("[OY]AF_*/")):
                return place
        return None

    def utterances(self, root: Path) -> list[dict]:
        # Kaggle's zip holds the whole folder a second time, nested in itself: one row a clip, the outermost file. The
        # emotion is the file name's, because folders are spelled OAF_Fear, YAF_fear, YAF_pleasant_surprised, ...
        rows = {}
        for pattern in ("*.wav", "*/*.wav", "*/*/*.wav"):
            for path in sorted(root.glob(pattern)):
                if match := NAME.match(path.name):
                    speaker, word, emotion = "YAF" if match[1] == "YAF" else "OAF", match[2], match[3]
                    row = {
                        "id": f"{speaker}_{word}_{emotion}",
                        "audio": path,
                        "emotion": EMOTIONS[emotion],
                        "text": f"Say the word {word}",
                        "speaker": speaker,
                        "gender": "female",
                        "age": AGES[speaker],
                        "language": "en",
                    }
                    rows.setdefault(row["id"], row)
        return [rows[name] for name in sorted(rows)]
