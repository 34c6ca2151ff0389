"""AESDD, the Acted Emotional Speech Dynamic Database (Greek).

Six actors say twenty utterances (nineteen fixed, one improvised) in five emotions: 605 files of 44.1 kHz, 0.69 h, of
which `s05 (3).wav` cannot be read. `f10 (01).wav` = fear, utterance 10, speaker 1 (five names pad the speaker with a
zero); a letter at the end, `a06 (5)b.wav`, counts takes.
"""

import re
from pathlib import Path

from ser_hf.data.corpus import EMOBOX_SIZES, LEAVE_ONE_SPEAKER_OUT, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig

EMOTIONS = {"a": "angry", "d": "disgust", "f": "fearful", "h": "happy", "s": "sad"}
FOLDERS = ("anger", "disgust", "fear", "happiness", "sadness")
COUNTS = {"angry": 121, "disgust": 122, "fearful": 120, "happy": 119, "sad": 123}  # with the unreadable `s05 (3).wav`

# emotion, utterance (speaker) take
NAME = re.compile(r"([adfhs])\d\d \((\d+)\)[ab]?\.wav$")


def _has_clips(root: Path) -> bool:
    return any(NAME.match(file.name) for folder in FOLDERS for file in (root / folder).glob("*.wav"))


class Aesdd(SpeechCorpus):
    CARD = CorpusCard(
        title="AESDD (Acted Emotional Speech Dynamic Database)",
        languages=("el",),
        licence="CC-BY-4.0",
        redistributable=False,
        homepage="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/",
        how_to_get="Download it from http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/ and unpack it.",
        layout="anger/a01 (1).wav ... disgust/ fear/ happiness/ sadness/",
        citation=(
            "Vryzas et al. (2018), Speech Emotion Recognition for Performance Interaction, "
            "Journal of the Audio Engineering Society 66(6)"
        ),
        utterances=605,
        speakers=6,
        hours=0.689,
        folders=("AESDD", "Acted Emotional Speech Dynamic Database"),
        notes=(
            "Acted speech, twenty utterances; what they say is not published, so `text` is null. There is no gender: "
            "the readme and the lists in use contradict each other. sadness/s05 (3).wav is unreadable in the original. "
            "The licence is that of a copy on the Hugging Face Hub; the corpus's own page only calls it public."
        ),
    )
    BUILDER_CONFIGS = [LabelConfig("5class", counts=COUNTS)]
    DEFAULT_CONFIG_NAME = "5class"
    OPTIONAL = ("language",)
    PROTOCOLS = (LEAVE_ONE_SPEAKER_OUT, EMOBOX_SIZES)

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        too_deep = [folder.parent] if folder.name in FOLDERS else []
        return next((place for place in (*too_deep, folder, *sorted(folder.glob("*/"))) if _has_clips(place)), None)

    def utterances(self, root: Path) -> list[dict]:
        rows = []
        for path in sorted(path for folder in FOLDERS for path in (root / folder).glob("*.wav")):
            if match := NAME.match(path.name):
                rows.append(
                    {
                        "id": path.stem,
                        "audio": path,
                        "emotion": EMOTIONS[match[1]],
                        "text": None,
                        "speaker": str(int(match[2])),
                        "language": "el",
                    }
                )
        return rows
