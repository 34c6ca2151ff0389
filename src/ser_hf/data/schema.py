"""The contract that every corpus, recipe and model of this project shares: columns, emotion words, corpus cards.

A corpus is a `datasets.Dataset` with one row per utterance and the columns of `COLUMNS`. Only loading scripts know how
a corpus looks on disk; only this module names columns and emotions.
"""

from dataclasses import dataclass, field

import datasets
from datasets import Audio, ClassLabel, Features, List, Value

from ..errors import SerError as SerError  # loading scripts take everything from here

# Full words, one spelling for all corpora, so that a model trained on one can be tested on another.
EMOTIONS = (
    "angry",
    "bored",
    "calm",
    "disgust",
    "excited",
    "fearful",
    "frustrated",
    "happy",
    "neutral",
    "not_relevant",
    "other",
    "sad",
    "surprised",
    "undecided",  # the raters did not agree (IEMOCAP's `xxx`)
)

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
    "split": Value("string"),  # the corpus's official part: "train", "validation" or "test"
}


@dataclass
class LabelConfig(datasets.BuilderConfig):
    """One label set of a corpus (`--labels NAME`).

    Args:
        label_map (`dict[str, str]`): For single-label configurations: emotion word of the corpus -> label; defaults to
            the words of `counts`. Several words may share a label (excited -> happy); utterances whose word is not a
            key are left out, and counted.
        targets (`tuple[str, ...]`): For `regression` and `multi_label`: the names of the label vector's elements.
        problem_type (`str`): As in transformers: `single_label_classification`, `multi_label_classification`,
            `regression`.
        counts (`dict[str, int]`): Official number of utterances per label (or `{"": n}` for vector labels).
        order (`tuple[str, ...]`): Labels in index order, where it is not the alphabet's (integers; the Hub's own).
    """

    version: str = "1.0.0"
    label_map: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    problem_type: str = "single_label_classification"
    counts: dict[str, int] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if not self.targets:
            self.label_map = self.label_map or {word: word for word in self.counts}

    @property
    def label_names(self) -> list[str]:
        """Label names in index order: `targets` for vectors; for classes `order`, else sorted words."""
        return list(self.targets or self.order) or sorted(set(self.label_map.values()))


@dataclass(frozen=True)
class CorpusCard:
    """What a user must know about a corpus before using it. The conformance suite checks that it is complete.

    Args:
        title: Full name.
        languages: BCP-47 codes.
        licence: SPDX id or the licence's name; `redistributable` says whether its audio may be published again.
        homepage: Where the corpus is described.
        how_to_get: One sentence: what to download or sign.
        layout: The contents of the `--data_dir` folder (a few lines).
        citation: Reference to cite, one line.
        utterances, speakers, hours: Official size (hours may be None where it was never published or measured).
        folders: Names under which the corpus is looked for in `$SER_DATA_DIR`.
        notes: Anything a reader of a result must know (synthetic, acted, known bad files).
    """

    title: str
    languages: tuple[str, ...]
    licence: str
    redistributable: bool
    homepage: str
    how_to_get: str
    layout: str
    citation: str
    utterances: int
    speakers: int
    hours: float | None
    folders: tuple[str, ...]
    notes: str = ""


def features(config: LabelConfig, optional: tuple[str, ...] = ()) -> Features:
    """The `datasets.Features` of a corpus under one label configuration, optional columns in `OPTIONAL_COLUMNS` order.

    Raises:
        KeyError: `optional` names a column that `OPTIONAL_COLUMNS` does not type.
    """
    if config.problem_type == "single_label_classification":
        label = ClassLabel(names=config.label_names)
    else:
        label = List(Value("float32"), length=len(config.targets))
    columns = {**COLUMNS, "label": label}
    unknown = set(optional) - set(OPTIONAL_COLUMNS)
    if unknown:
        raise KeyError(f"columns {sorted(unknown)} are not typed in schema.OPTIONAL_COLUMNS")
    columns |= {name: kind for name, kind in OPTIONAL_COLUMNS.items() if name in optional}
    return Features(columns)
