"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database: its sentences, transcripts and ratings.

Ten actors of American English in five sessions of one woman and one man play three scripts and improvise eight
scenes: 151 dialogs, cut into 10,039 utterances of 16 kHz. Outside raters gave each utterance emotion words (the
majority of three is its label, `xxx` where there is none) and valence, activation and dominance from 1 to 5 (averaged).

The letter in a dialog's name (`Ses01F_impro01`) says which actor wore the motion capture markers. Both talk in it: the
speaker is the letter of the utterance (`Ses01F_impro01_M000` is the man, `Ses01M`).
"""

import re
from pathlib import Path

from ser_hf.data.corpus import Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig

# The codes of the majority labels are also the first three letters of the raters' words (Neutral and Neutral state).
EMOTIONS = {
    "ang": "angry",
    "dis": "disgust",
    "exc": "excited",
    "fea": "fearful",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "oth": "other",
    "sad": "sad",
    "sur": "surprised",
    "xxx": "undecided",
}
# Counts of the full release, on which several toolkits agree; together 10,039.
COUNTS = {
    "angry": 1103,
    "disgust": 2,
    "excited": 1041,
    "fearful": 40,
    "frustrated": 1849,
    "happy": 595,
    "neutral": 1708,
    "other": 3,
    "sad": 1084,
    "surprised": 107,
    "undecided": 2507,
}
# The field's usual set: 5531 utterances, excitement counted as happiness.
FOUR = {"angry": "angry", "excited": "happy", "happy": "happy", "neutral": "neutral", "sad": "sad"}
FOUR_COUNTS = {"angry": 1103, "happy": 595 + 1041, "neutral": 1708, "sad": 1084}
THREE = {word: label for word, label in FOUR.items() if label != "sad"}
THREE_SAD = {word: label for word, label in FOUR.items() if label != "neutral"}

# [6.2901 - 8.2357]<TAB>Ses01F_impro01_F000<TAB>neu<TAB>[2.5000, 2.5000, 2.5000]: valence, activation, dominance
HEADER = re.compile(r"\[([\d.]+) - ([\d.]+)\]\s+(Ses0[1-5][FM]_\w+_[FM]\w+)\s+(\w+)\s+\[(.*)\]")
# C-E2:<TAB>Neutral; Sadness;<TAB>(comment): E are the outside raters; F and M the actors, who rate themselves.
VOTE = re.compile(r"C-E\d*:([^(]*)")
# Ses01F_impro01_F000 [006.2901-008.2357]: text; also lines without an id (`M: sorry`), ids like FXX0 without a label
TRANSCRIPT = re.compile(r"(Ses0[1-5][FM]_\w+_[FM]\w+) \[[\d.-]+\]:(.*)")


def ratings(path: Path) -> list[dict]:
    """Utterances of one file of EmoEvaluation: `id`, `emotion`, times, mean ratings, `raters` (words of each)."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := HEADER.match(line):
            start, end, name, code, numbers = match.groups()
            means = [float(number) if number.strip() else None for number in numbers.split(",")]
            valence, arousal, dominance = (*means, None, None, None)[:3]  # dominance may be missing
            rows.append(
                {
                    "id": name,
                    "emotion": EMOTIONS.get(code),
                    "start": float(start),
                    "end": float(end),
                    "valence": valence,
                    "arousal": arousal,
                    "dominance": dominance,
                    "raters": [],
                }
            )
        elif rows and (match := VOTE.match(line)):
            words = match[1].split(";")
            rows[-1]["raters"].append({EMOTIONS.get(word.strip()[:3].lower()) for word in words} - {None})
    return rows


def transcripts(path: Path) -> dict[str, str]:
    """Utterance -> its text, as written (also when that is only `[LAUGHTER]`). Lines may come in any order."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return {match[1]: match[2].strip() for line in lines if (match := TRANSCRIPT.match(line))}


class Iemocap(SpeechCorpus):
    CARD = CorpusCard(
        title="IEMOCAP (Interactive Emotional Dyadic Motion Capture database)",
        languages=("en",),
        licence="USC SAIL academic licence (signed; no redistribution)",
        redistributable=False,
        homepage="https://sail.usc.edu/iemocap/",
        how_to_get="Sign the licence at https://sail.usc.edu/iemocap/iemocap_release.htm and unpack the full release.",
        layout=(
            "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt ... Session5/\n"
            "Session1/dialog/transcriptions/Ses01F_impro01.txt ...\n"
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav ..."
        ),
        citation=(
            "Busso et al. (2008), IEMOCAP: interactive emotional dyadic motion capture database, "
            "Language Resources and Evaluation 42(4)"
        ),
        utterances=10039,
        speakers=10,
        hours=12.0,  # "approximately 12 h", Busso et al. (2008)
        folders=("IEMOCAP_full_release", "IEMOCAP"),
        notes=(
            "Acted speech, scripted and improvised; turns overlap, so a clip may hold both voices. `happy` includes "
            "excited in 4class, 3class and 3class_sad. Valence, arousal and dominance from 1 (negative, calm, weak) to "
            "5. `votes` has one number a label of the configuration, in label order: how many of the outside raters "
            "chose it (a rater may choose several words); vad has none. The speaker is the letter in the utterance's "
            "name; the one in the dialog's name only says who wore the markers."
        ),
    )
    BUILDER_CONFIGS = [
        LabelConfig("4class", label_map=FOUR, counts=FOUR_COUNTS),
        LabelConfig("3class", label_map=THREE, counts={label: FOUR_COUNTS[label] for label in THREE.values()}),
        LabelConfig(
            "3class_sad", label_map=THREE_SAD, counts={label: FOUR_COUNTS[label] for label in THREE_SAD.values()}
        ),
        LabelConfig("full", counts=COUNTS),
        LabelConfig("vad", targets=("valence", "arousal", "dominance"), problem_type="regression", counts={"": 10039}),
    ]
    DEFAULT_CONFIG_NAME = "4class"
    OPTIONAL = (
        *("session", "dialog", "gender", "language"),
        *("valence", "arousal", "dominance", "start", "end", "votes"),
    )
    PROTOCOLS = (
        Protocol("leave-one-session-out", "EmoBox, SUPERB, FT-w2v2-ser: 5 folds", by="session"),
        Protocol(
            "leave-one-speaker-out",
            "SpeechBrain's test_spk_id: 10 folds; validation is the session's other speaker",
            validation="partner",
        ),
        Protocol(
            "10sets-by-prefix-leaks-speakers",
            "TideDancer/interspeech21_emotion: 10 sets by the first letters of the dialog, which name the actor with "
            "markers and not the speaker; both actors of a session are in train and test",
            by="prefix",
            speaker_independent=False,
        ),
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        # Some unpackings nest IEMOCAP_full_release/IEMOCAP_full_release.
        for sessions in ("Session[1-5]", "*/Session[1-5]", "*/IEMOCAP_full_release/Session[1-5]"):
            for session in sorted(folder.glob(sessions)):
                if any(session.glob("dialog/EmoEvaluation/Ses*.txt")):
                    return session.parent
        return folder.parent if any(folder.glob("dialog/EmoEvaluation/Ses*.txt")) else None

    def utterances(self, root: Path) -> list[dict]:
        rows = []
        # Not **/*.txt: the sub-folders hold single raters; and not *.txt: AppleDouble's ._Ses01F_impro01.txt.
        for path in sorted(root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
            session, dialog = path.parents[2], path.stem
            texts = transcripts(session / "dialog" / "transcriptions" / path.name)
            for row in ratings(path):
                name, raters = row["id"], row.pop("raters")
                letter = name.rsplit("_", 1)[1][0]
                chosen = [{self.config.label_map.get(word) for word in words} for words in raters]
                votes = [float(sum(label in words for words in chosen)) for label in self.config.label_names]
                rows.append(
                    {
                        **row,
                        "audio": session / "sentences" / "wav" / dialog / f"{name}.wav",
                        "text": texts.get(name) or None,
                        "speaker": name[:5] + letter,
                        "session": name[4],
                        "dialog": dialog,
                        "gender": "female" if letter == "F" else "male",
                        "language": "en",
                        "votes": votes if self.config.label_map else None,
                    }
                )
        return rows
