"""What every corpus, recipe and model of this project shares, and only this module names: columns, emotions, cards."""

from dataclasses import dataclass, field

import datasets
from datasets import Audio, ClassLabel, Features, List, Value

from ..errors import SerError as SerError  # loading scripts take everything from here

# Full words, one spelling for all corpora, so that a model trained on one can be tested on another.
EMOTIONS = (
    *("angry", "bored", "calm", "disgust", "excited", "fearful", "frustrated", "happy", "neutral", "not_relevant"),
    *("other", "sad", "surprised"),
    "undecided",  # the raters did not agree (IEMOCAP's `xxx`)
)

# Other spellings of these words, as people write them in tables of their own.
SPELLINGS = {
    **dict.fromkeys(("anger", "ang"), "angry"),
    **dict.fromkeys(("boredom", "bor"), "bored"),
    **dict.fromkeys(("calmness",), "calm"),
    **dict.fromkeys(("disgusted", "dis"), "disgust"),
    **dict.fromkeys(("excitement", "exc"), "excited"),
    **dict.fromkeys(("fear", "afraid", "fea"), "fearful"),
    **dict.fromkeys(("frustration", "fru"), "frustrated"),
    **dict.fromkeys(("happiness", "joy", "hap"), "happy"),
    **dict.fromkeys(("neutrality", "neu"), "neutral"),
    **dict.fromkeys(("sadness",), "sad"),
    **dict.fromkeys(("surprise", "sur"), "surprised"),
    **{word: word for word in EMOTIONS},
}

_BASIC = {word: word for word in ("angry", "happy", "neutral", "sad")}

# Label sets that several corpora can be mapped to; utterances with other words are left out, and counted.
# Excited counts as happy, as in IEMOCAP's usual four classes.
LABEL_SETS: dict[str, dict[str, str]] = {
    "3class": {"angry": "angry", "happy": "happy", "excited": "happy", "neutral": "neutral"},
    "4class": {**_BASIC, "excited": "happy"},
    "5class": {**_BASIC, "excited": "happy", "fearful": "fearful"},
    "6class": {**_BASIC, "excited": "happy", "disgust": "disgust", "fearful": "fearful"},
    "7class": {**_BASIC, "excited": "happy", "disgust": "disgust", "fearful": "fearful", "surprised": "surprised"},
}

# Every corpus has these columns; `label` is typed by the configuration (see `features`).
COLUMNS = {
    "id": Value("string"),  # unique in the corpus
    "audio": Audio(decode=False),  # exactly this utterance: a path, or the bytes when cut from a longer recording
    "text": Value("string"),  # transcript or acted sentence; null where there is none
    "label": None,
    "speaker": Value("string"),  # the real speaker, also where file names suggest another
    "duration": Value("float32"),  # seconds
    "audio_hash": Value("string"),  # of the decoded samples: equal audio has an equal hash in any file format
}

# Columns that a corpus may have in addition; typed the same in all of them.
OPTIONAL_COLUMNS = {
    "session": Value("string"),
    "dialog": Value("string"),
    "gender": Value("string"),  # "female" or "male"
    "age": Value("float32"),  # years
    "language": Value("string"),  # BCP-47
    "intensity": Value("string"),
    "valence": Value("float32"),  # the corpus's own scale; its card says which
    "arousal": Value("float32"),
    "dominance": Value("float32"),
    "start": Value("float64"),  # seconds in the recording the utterance was cut from
    "end": Value("float64"),
    "votes": List(Value("float32")),  # one number per label: how many raters chose it
    "group": Value("string"),  # what no split tears apart, beside speakers: the recording of a segment, a folder
    "split": Value("string"),  # the corpus's official part: "train", "validation" or "test"
}


@dataclass
class LabelConfig(datasets.BuilderConfig):
    """One label set of a corpus (`--labels NAME`)."""

    version: str = "1.0.0"
    # Emotion word of the corpus -> label, by default the words of `counts`. Several words may share a label (excited ->
    # happy); utterances whose word is not a key are left out, and counted.
    label_map: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()  # names of the elements of a vector label
    problem_type: str = "single_label_classification"  # as in transformers
    counts: dict[str, int] = field(default_factory=dict)  # official utterances per label; `{"": n}` for vector labels
    order: tuple[str, ...] = ()  # labels in index order, where it is not the alphabet's (integers; the Hub's own)

    def __post_init__(self):
        super().__post_init__()
        self.targets, self.order = tuple(self.targets), tuple(self.order)  # from JSON these are lists
        if not self.targets:
            self.label_map = self.label_map or {word: word for word in self.counts}

    @property
    def label_names(self) -> list[str]:
        """Label names in index order: `targets` for vectors; for classes `order`, else sorted words."""
        return list(self.targets or self.order) or sorted(set(self.label_map.values()))


@dataclass(frozen=True)
class CorpusCard:
    """What a user must know about a corpus before using it. The conformance suite checks that it is complete."""

    title: str
    languages: tuple[str, ...]  # BCP-47 codes
    licence: str  # SPDX id or the licence's name
    redistributable: bool  # may its audio be published again?
    homepage: str
    how_to_get: str  # one sentence: what to download or sign
    layout: str  # the contents of the `--data_dir` folder, a few lines
    citation: str  # one line
    utterances: int  # official size
    speakers: int
    hours: float | None = None  # None where it was never published or measured
    folders: tuple[str, ...] = ()  # names under which the corpus is looked for in `$SER_DATA_DIR`
    notes: str = ""  # anything a reader of a result must know (synthetic, acted, known bad files)


def features(config: LabelConfig, optional: tuple[str, ...] = ()) -> Features:
    """The `datasets.Features` of a corpus under one label configuration, optional columns in `OPTIONAL_COLUMNS` order.
    KeyError: `optional` names a column that `OPTIONAL_COLUMNS` does not type."""
    if unknown := set(optional) - set(OPTIONAL_COLUMNS):
        raise KeyError(f"columns {sorted(unknown)} are not typed in schema.OPTIONAL_COLUMNS")
    vector = List(Value("float32"), length=len(config.targets))
    label = vector if config.targets else ClassLabel(names=config.label_names)
    more = {name: kind for name, kind in OPTIONAL_COLUMNS.items() if name in optional}
    return Features({**COLUMNS, "label": label, **more})
