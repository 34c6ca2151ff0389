"""EmoDB, the Berlin Database of Emotional Speech.

Ten German actors (five female, five male) say ten sentences in seven emotions: 535 files of 16 kHz, `wav/03a01Fa.wav`
= speaker 03, sentence a01, emotion F, version a.
"""

import re
from pathlib import Path

from ser_hf.data.corpus import LEAVE_ONE_SPEAKER_OUT, SPEAKER_FOLDS, Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig

EMOTIONS = {
    "W": "angry",  # Wut
    "L": "bored",  # Langeweile
    "E": "disgust",  # Ekel
    "A": "fearful",  # Angst
    "F": "happy",  # Freude
    "T": "sad",  # Trauer
    "N": "neutral",
}
COUNTS = {"angry": 127, "bored": 81, "disgust": 46, "fearful": 69, "happy": 71, "neutral": 79, "sad": 62}
FOUR = ("angry", "happy", "neutral", "sad")
MALE = {"03", "10", "11", "12", "15"}  # audEERING's list had this wrong before 1.1.1

# The ten sentences, from the corpus's page.
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}

NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z])\.wav$")


class EmoDb(SpeechCorpus):
    CARD = CorpusCard(
        title="EmoDB (Berlin Database of Emotional Speech)",
        languages=("de",),
        licence="CC0-1.0",
        redistributable=True,
        homepage="http://emodb.bilderbar.info",
        how_to_get="Download download.zip from http://emodb.bilderbar.info/download/ and unpack it.",
        layout="wav/03a01Fa.wav ...",
        citation="Burkhardt et al. (2005), A Database of German Emotional Speech, Interspeech",
        utterances=535,
        speakers=10,
        hours=0.41,
        folders=("EmoDB", "emodb", "EMODB"),
        notes="Acted speech, ten sentences. The licence is that of audEERING's republication.",
    )
    BUILDER_CONFIGS = [
        LabelConfig("7class", counts=COUNTS),
        LabelConfig("4class", counts={e: COUNTS[e] for e in FOUR}),
    ]
    DEFAULT_CONFIG_NAME = "7class"
    OPTIONAL = ("gender", "language")
    PROTOCOLS = (
        LEAVE_ONE_SPEAKER_OUT,
        Protocol(
            "audeering", "audEERING's published split: test speakers 12 14 15 16", folds=(("12", "14", "15", "16"),)
        ),
        SPEAKER_FOLDS,
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        for place in (folder, folder / "wav", *sorted(folder.glob("*/wav"))):
            if place.is_dir() and any(NAME.match(file.name) for file in place.glob("*.wav")):
                return place.parent if place.name == "wav" else place
        return None

    def utterances(self, root: Path) -> list[dict]:
        files = sorted((root / "wav").glob("*.wav")) or sorted(root.glob("*.wav"))
        rows = []
        for path in files:
            if match := NAME.match(path.name):
                speaker, sentence, emotion, _version = match.groups()
                rows.append(
                    {
                        "id": path.stem,
                        "audio": path,
                        "emotion": EMOTIONS[emotion],
                        "text": SENTENCES.get(sentence),
                        "speaker": speaker,
                        "gender": "male" if speaker in MALE else "female",
                        "language": "de",
                    }
                )
        return rows
