"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset: its audio.

91 actors (43 female, 48 male, 20 to 74 years old, American English) say twelve sentences in six emotions, one sentence
(IEO) in three intensities: 7442 files of 16 kHz, 5.26 h, `AudioWAV/1001_IEO_ANG_HI.wav` = actor, sentence, acted
emotion, intensity. About ten raters each judged the voice alone, the face alone and both. Their answers rarely are the
acted emotion: the majority of the voice-only raters agrees with it for 42 % of the clips. `6class` and `3class` are the
acted emotions, `voice_vote` is the majority of the voice-only raters; `votes` counts their answers.
"""

import csv
import re
from pathlib import Path

from ser_hf.data.corpus import EMOBOX_SIZES, Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig, SerError

REPOSITORY = "https://github.com/CheyneyComputerScience/CREMA-D"
EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LETTERS = {code[0].lower(): emotion for code, emotion in EMOTIONS.items()}  # how the tables of votes call them
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
THREE = ("angry", "happy", "neutral")
COUNTS = {emotion: 1087 if emotion == "neutral" else 1271 for emotion in EMOTIONS.values()}
# Counted in processedResults/summaryTable.csv; the other 644 clips are ties.
MAJORITIES = {"angry": 986, "disgust": 547, "fearful": 645, "happy": 353, "neutral": 3897, "sad": 370}

# The twelve sentences, from the repository's README.
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}

# Actors of each test fold, and of audEERING's parts.
EMO_SUPERB_FOLDS = tuple(
    tuple(str(actor) for actor in range(first, after))
    for first, after in ((1037, 1055), (1001, 1019), (1073, 1092), (1055, 1073), (1019, 1037))
)
AUDEERING_TEST = tuple("1048 1069 1071 1074 1076 1077 1078 1079 1082 1083 1084 1086 1087 1088 1089 1090 1091".split())
AUDEERING_VALIDATION = tuple(
    "1049 1053 1054 1055 1058 1059 1061 1062 1063 1064 1065 1066 1067 1068 1070 1075 1080 1085".split()
)

# actor - sentence - emotion - intensity; some copies call 1040_ITH_SAD_XX.wav 1040_ITH_SAD_X.wav
NAME = re.compile(r"\d{4}_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)\.(wav|mp3)$")


def _audio_folder(root: Path) -> Path | None:
    """The folder of the clips: WAV before MP3, three of which are broken; some copies have no folder for them."""
    for place in (root / "AudioWAV", root / "AudioMP3", root):
        if any(NAME.match(file.name) for file in place.glob("*")):
            return place
    return None


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a table with lower-case column names (the README writes `fileName` where the file has `FileName`); none
    if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        reader.fieldnames = [name.lower() for name in reader.fieldnames or ()]
        rows = list(reader)
    if set(columns) - set(reader.fieldnames):
        wanted = ", ".join(filter(None, columns))
        raise SerError(f"{path} is not CREMA-D's table (it lacks one of {wanted}): get it from {REPOSITORY}")
    return rows


def voice_vote(root: Path) -> dict[str, str]:
    """Clip -> the emotion that most voice-only raters chose, `undecided` if several have equally many votes."""
    path = root / "processedResults" / "summaryTable.csv"
    if not path.exists():
        raise SerError(f"voice_vote needs {path}, which is missing: get it from {REPOSITORY}, or use --labels 6class")
    rows = _table(path, "filename", "voicevote")
    return {row["filename"]: LETTERS.get(row["voicevote"].lower(), "undecided") for row in rows}  # a tie is "A:D"


def voice_counts(root: Path) -> dict[str, dict[str, float]]:
    """Clip -> emotion -> how many voice-only raters chose it: the rows numbered 1..... (2 is face only, 3 is both)."""
    rows = _table(root / "processedResults" / "tabulatedVotes.csv", "", "filename", *LETTERS)
    return {
        row["filename"]: {emotion: float(row[letter]) for letter, emotion in LETTERS.items()}
        for row in rows
        if row[""].startswith("1")
    }


class CremaD(SpeechCorpus):
    CARD = CorpusCard(
        title="CREMA-D (Crowd-sourced Emotional Multimodal Actors Dataset)",
        languages=("en",),
        licence="ODbL-1.0",
        redistributable=True,
        homepage=REPOSITORY,
        how_to_get=f"Clone {REPOSITORY} with git LFS; AudioWAV, processedResults and VideoDemographics.csv are needed.",
        layout="AudioWAV/1001_DFA_ANG_XX.wav ...\nprocessedResults/summaryTable.csv and tabulatedVotes.csv (for votes)",
        citation=(
            "Cao et al. (2014), CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, "
            "IEEE Transactions on Affective Computing 5(4)"
        ),
        utterances=7442,
        speakers=91,
        hours=5.2567,
        folders=("CREMA-D", "CREMAD", "cremad", "Crema"),
        notes=(
            "Acted speech, twelve sentences; contents under DbCL-1.0. 1076_MTI_SAD_XX is silent. Of the MP3s, "
            "1064_TIE_SAD_XX has no duration and 1064_IEO_DIS_MD lasts a minute and holds every emotion. `votes` has "
            "one number per label, in label order (6class: angry, disgust, fearful, happy, neutral, sad): how many "
            "voice-only raters chose it."
        ),
    )
    BUILDER_CONFIGS = [
        LabelConfig("6class", counts=COUNTS),
        LabelConfig("3class", counts={e: COUNTS[e] for e in THREE}),
        LabelConfig("voice_vote", counts=MAJORITIES),
    ]
    DEFAULT_CONFIG_NAME = "6class"
    OPTIONAL = ("gender", "age", "language", "intensity", "votes")
    PROTOCOLS = (
        Protocol("5fold", "EMO-SUPERB (SLT 2024): five speaker folds", folds=EMO_SUPERB_FOLDS),
        Protocol(
            "audeering",
            "audEERING's release 1.1.0: 56 / 18 / 17 actors",
            folds=(AUDEERING_TEST,),
            validation=AUDEERING_VALIDATION,
        ),
        EMOBOX_SIZES,
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        too_deep = [folder.parent] if folder.name in ("AudioWAV", "AudioMP3") else []
        return next((p for p in (*too_deep, folder, *sorted(folder.glob("*/"))) if _audio_folder(p)), None)

    def utterances(self, root: Path) -> list[dict]:
        winners = voice_vote(root) if self.config.name == "voice_vote" else {}
        counts = voice_counts(root)
        people = {row["actorid"]: row for row in _table(root / "VideoDemographics.csv", "actorid", "age", "sex")}
        files = sorted(path for path in _audio_folder(root).iterdir() if NAME.match(path.name))
        clips = {re.sub("_X$", "_XX", path.stem): path for path in files}
        for name in winners:  # a vote on a clip that is not there is reported as an unusable clip
            if NAME.match(f"{name}.wav"):
                clips.setdefault(name, files[0].with_stem(name))
        rows = []
        for name, path in sorted(clips.items()):
            actor, sentence, emotion, intensity = name.split("_")
            person = people.get(actor)
            votes = counts.get(name)
            rows.append(
                {
                    "id": name,
                    "audio": path,
                    "emotion": winners.get(name, "undecided") if winners else EMOTIONS[emotion],
                    "text": SENTENCES.get(sentence),
                    "speaker": actor,
                    "gender": person and person["sex"].lower(),
                    "age": person and float(person["age"]),
                    "language": "en",
                    "intensity": INTENSITIES[intensity],
                    "votes": votes and [votes[label] for label in self.config.label_names],
                }
            )
        return rows
