"""The demo corpus: SYNTHETIC babble of twelve made-up speakers in four emotions, made from a seed on first use.

It exists so that every recipe and test runs without a download. Voice and words are drawn independently for
an emotion (the babble does not say the sentence), each of them noisily, so that a system that uses both is clearly
better than one that uses either. A figure on it says nothing about real speech.
"""

import csv
import shutil
from pathlib import Path
from uuid import uuid4

import datasets
import numpy as np
import soundfile as sf

from ser_hf.data.corpus import Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig, SerError

from ._demo_voices import RATE, Speaker, speakers, utter

VERSION = "1.3.0"  # bump when the audio, the sentences or the ratings change: it names the folder in the cache
SEED = 1
EACH = 60  # utterances per speaker, balanced over the emotions
COLUMNS = ("file", "emotion", "text", "speaker", "gender", "arousal", "valence", "heard")

# Where each emotion lies in (arousal, valence), after Russell's (1980) circumplex; -1 to 1.
PLACES = {"angry": (0.85, -0.75), "happy": (0.75, 0.8), "neutral": (0.0, 0.05), "sad": (-0.9, -0.75)}
EMOTIONS = tuple(PLACES)

# A sentence is an opener, one of three clauses and a thing; the emotion's word stands in the clause.
OPENERS = ("", "Honestly, ", "Well, ", "You know, ", "As I said, ", "Listen, ", "To be frank, ")
THINGS = (
    "the letter", "the concert", "the meeting", "the news from home", "the old garden", "the night train", "the exam",
    "the new flat", "the phone call", "the dinner", "the report", "the football match", "the trip", "the interview",
)  # fmt: skip
CLAUSES = ("{thing} is {what}", "I am {how} about {thing}", "I {do} {thing}")
WORDS = {
    "angry": {
        "what": ("outrageous", "unacceptable", "ridiculous", "infuriating", "a disgrace"),
        "how": ("furious", "fed up", "angry", "really mad", "outraged"),
        "do": ("can't stand", "hate", "am sick of", "won't put up with"),
    },
    "happy": {
        "what": ("wonderful", "fantastic", "lovely", "brilliant", "a delight"),
        "how": ("thrilled", "delighted", "happy", "so excited", "overjoyed"),
        "do": ("love", "really enjoy", "can't wait for", "adore"),
    },
    "neutral": {
        "what": ("on Monday", "as planned", "the same as before", "on the list", "near the station"),
        "how": ("asking", "writing", "reading", "often asked", "being told"),
        "do": ("know", "read about", "wrote down", "asked about"),
    },
    "sad": {
        "what": ("heartbreaking", "hopeless", "depressing", "so painful", "a sad loss"),
        "how": ("heartbroken", "devastated", "sad", "in tears", "miserable"),
        "do": ("miss", "cried over", "mourn", "gave up on"),
    },
}


class Demo(SpeechCorpus):
    CARD = CorpusCard(
        title="Demo corpus (SYNTHETIC babble, not speech)",
        languages=("en",),
        licence="CC0-1.0",
        redistributable=True,
        homepage="https://creativecommons.org/publicdomain/zero/1.0/",
        how_to_get="Nothing to get: without --data_dir it is made on this machine.",
        layout="metadata.csv\nwav/f1_00.wav ...",
        citation="ser_hf (2026), demo corpus, synthesised by ser_hf",
        utterances=12 * EACH,
        speakers=12,
        hours=0.36,
        folders=("ser_hf_demo",),
        notes=(
            "SYNTHETIC: babble of a formant synthesiser, with sentences from a template that the babble does not say. "
            "Numbers on it say nothing about real speech. Arousal and valence: 1 to 5."
        ),
    )
    BUILDER_CONFIGS = [
        LabelConfig("4class", version=VERSION, counts={e: 12 * EACH // len(EMOTIONS) for e in EMOTIONS}),
        LabelConfig(
            "dimensional",
            version=VERSION,
            targets=("arousal", "valence"),
            problem_type="regression",
            counts={"": 12 * EACH},
        ),
        LabelConfig(
            "multi_label",
            version=VERSION,
            targets=EMOTIONS,
            problem_type="multi_label_classification",
            counts={"": 12 * EACH},
        ),
    ]
    DEFAULT_CONFIG_NAME = "4class"
    OPTIONAL = ("gender", "language", "valence", "arousal")
    PROTOCOLS = (
        Protocol("6fold", "six folds of a woman and a man", folds=tuple((f"f{i}", f"m{i}") for i in range(1, 7))),
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        for place in (folder, *sorted(path.parent for path in folder.glob("*/metadata.csv")), folder.parent):
            table = place / "metadata.csv"
            if table.is_file():
                with open(table, encoding="utf-8", errors="replace") as file:
                    if file.readline().strip() == ",".join(COLUMNS):
                        return place
        return None

    @classmethod
    def generate(cls) -> Path:
        """The corpus in `datasets`' cache, made there on first use. Two processes may race: a rename decides."""
        home = Path(datasets.config.HF_DATASETS_CACHE).absolute() / f"ser_hf_demo-{VERSION}"
        if (home / "metadata.csv").is_file():
            return home
        building = home.with_name(f"{home.name}.{uuid4().hex}")
        try:
            make(building)
            building.rename(home)
        except OSError as error:
            if not (home / "metadata.csv").is_file():  # else another process was first: its corpus is the same
                raise SerError(
                    f"{home}: cannot make the demo corpus there ({error}); delete it, or set HF_DATASETS_CACHE"
                ) from None
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return home

    def utterances(self, root: Path) -> list[dict]:
        with open(root / "metadata.csv", encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        return [
            {
                "id": Path(row["file"]).stem,
                "audio": root / row["file"],
                "emotion": row["emotion"],
                "text": row["text"],
                "speaker": row["speaker"],
                "gender": row["gender"],
                "language": "en",
                "arousal": float(row["arousal"]),
                "valence": float(row["valence"]),
                "scores": {emotion: float(emotion in row["heard"].split()) for emotion in EMOTIONS},
            }
            for row in table
        ]


def make(folder: Path, each: int = EACH) -> None:
    """Write the corpus with `each` utterances per speaker; a smaller corpus is the beginning of a larger one."""
    (folder / "wav").mkdir(parents=True)
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for number, speaker in enumerate(speakers(6, 6, np.random.default_rng(SEED))):
            for k in range(each):
                row, samples = perform(speaker, k, np.random.default_rng((SEED, number, k)))
                sf.write(folder / row["file"], samples, RATE, subtype="PCM_16")
                table.writerow(row)


def perform(speaker: Speaker, k: int, rng: np.random.Generator) -> tuple[dict, np.ndarray]:
    """Row and samples of a speaker's `k`-th utterance."""
    emotion = EMOTIONS[k % len(EMOTIONS)]
    place = act(emotion, rng)
    rating = np.clip(3 + 1.4 * place + rng.normal(0, 0.25, 2), 1, 5).round(2)
    near = [e for e in EMOTIONS if e == emotion or np.hypot(*(place - PLACES[e])) < 0.65]
    row = {
        "file": f"wav/{speaker.name}_{k:02d}.wav",
        "emotion": emotion,
        "text": sentence(emotion, rng),
        "speaker": speaker.name,
        "gender": speaker.gender,
        "arousal": rating[0],
        "valence": rating[1],
        "heard": " ".join(near),
    }
    return row, utter(speaker, *place, rng)


def act(emotion: str, rng: np.random.Generator) -> np.ndarray:
    """(arousal, valence) of one utterance: the emotion's place, missed by some, every twelfth time acted weakly."""
    strength = rng.uniform(0.2, 0.6) if rng.random() < 0.08 else rng.uniform(0.85, 1.15)
    return np.array(PLACES[emotion]) * strength + rng.normal(0, 0.15, 2)


def sentence(emotion: str, rng: np.random.Generator) -> str:
    """A sentence for an emotion: six of seven carry its words, most others neutral ones, a few misleading ones."""
    chances = [0.86 if e == emotion else 0.09 if e == "neutral" else 0.03 for e in EMOTIONS]
    words = WORDS[rng.choice(EMOTIONS, p=np.array(chances) / sum(chances))]
    slots = {slot: rng.choice(choices) for slot, choices in words.items()}
    text = rng.choice(OPENERS) + rng.choice(CLAUSES).format(thing=rng.choice(THINGS), **slots) + "."
    return text[0].upper() + text[1:]
