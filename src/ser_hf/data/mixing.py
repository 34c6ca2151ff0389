"""Mixing corpora: train on several, validate and test on one; and the label sets that several corpora share."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from ..errors import SerError
from .corpus import CorpusReport
from .loading import Source, find_source, is_own, load
from .schema import LabelConfig

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


@dataclass(frozen=True)
class Mixture:
    """A resolved `--dataset a+b+c`."""

    tested: Source  # the corpus that is split and tested
    added: tuple[Source, ...] = ()  # only add to train; in the configuration whose words can be mapped to the labels
    add_labels: tuple[str, ...] = ()  # the labels that they add


@dataclass
class Mixed:
    """Utterances of other corpora, for train only, and their counts per corpus."""

    rows: datasets.Dataset
    counts: dict[str, dict] = field(default_factory=dict)

    def lines(self) -> list[str]:
        return [
            f"  + {name}: {entry['utterances']} utterances into train ({entry['left_out']} left out: "
            f"{', '.join(f'{word} {n}' for word, n in entry['left_out_words'].items()) or 'none'})"
            for name, entry in self.counts.items()
        ]


def find_mixture(
    dataset: str,
    labels: str | None = None,
    data_dir: str | Path | None = None,
    test_on: str | None = None,
    add_labels: list[str] | None = None,
    protocol: str | None = None,
) -> Mixture:
    """Resolve a `--dataset` value, without audio. SerError: as `find_source`; unknown `test_on`, label or label set.

    Args:
        dataset: One corpus, or several joined by `+`, named as `find_source` takes them.
        labels, protocol: Of the tested corpus; with several corpora `labels` is one of `LABEL_SETS`.
        data_dir: The corpus's folder; with several corpora the one that holds all of them, as `$SER_DATA_DIR` does.
        test_on, add_labels: Names of the tested corpus and of the labels that the others add, where there are several.
    """
    names = [name for name in dataset.split("+") if name]
    if len(set(names)) < len(names):
        raise SerError(f"--dataset {dataset}: a corpus is named twice")
    if len(names) > 1 and test_on is None:
        raise SerError(f"--dataset {dataset} mixes corpora: say which one is tested, such as --test_on {names[0]}")
    if test_on is not None and test_on not in names:
        raise SerError(f"--test_on {test_on}: must be one of {', '.join(names)}")
    if len(names) < 2:
        return Mixture(find_source(dataset, labels, data_dir, protocol))

    def find(name: str, labels: str | None = None, protocol: str | None = None) -> Source:
        return find_source(name, labels, None if is_own(name) else data_dir, protocol)

    tested, others = find(test_on, labels, protocol), [name for name in names if name != test_on]
    names = tested.config.label_names
    if tested.config.name not in LABEL_SETS:
        raise SerError(f"--labels {tested.config.name}: corpora can be mixed in the label sets {', '.join(LABEL_SETS)}")
    if unknown := set(add_labels or ()) - set(names):
        raise SerError(f"--add_labels {' '.join(sorted(unknown))}: the labels are {', '.join(names)}")
    sources = (find(name) for name in others)
    added = tuple(replace(source, config=words_for(source, tested.config.name, names)) for source in sources)
    return Mixture(tested, added, tuple(add_labels or names))


def words_for(source: Source, labels: str, names: list[str]) -> LabelConfig:
    """The configuration of a corpus whose words can be mapped to the label set `labels` with the labels `names`: its
    own of that name if it has the same labels, otherwise the one that keeps most of the label set's words apart.
    SerError: the corpus has no word of the label set."""

    def suitability(config: LabelConfig) -> tuple[bool, int]:
        same = config.name == labels and set(config.label_names) == set(names)
        return same, len(set(config.label_names) & set(LABEL_SETS[labels]))

    configs = [config for config in source.corpus.BUILDER_CONFIGS if config.label_map]
    best = max(configs, key=suitability, default=None)
    if best is None or not any(suitability(best)):
        raise SerError(f"{source.shown} has no utterance that {labels!r} ({', '.join(names)}) has a label for")
    return best


def load_mixture(
    mixture: Mixture, with_audio: bool = True, num_proc: int | None = None, strict: bool = False
) -> tuple[datasets.Dataset, CorpusReport, Mixed | None]:
    """Load a resolved mixture: the corpus that is split, its report, and what the others add to train, if any. Other
    arguments and errors as in `load_corpus`; SerError too if an added corpus has no audio and `with_audio`."""
    corpus, report = load(mixture.tested, num_proc=num_proc, strict=strict)
    if not mixture.added:
        return corpus, report, None
    parts, counts = [], {}
    for source in mixture.added:
        rows, added = load(source, num_proc=num_proc, strict=strict)
        if with_audio and rows["audio"][0] is None:
            raise SerError(f"{source.shown} has no audio and cannot be added to {report.corpus} in an audio recipe")
        rows, counts[source.shown] = _mapped(rows, added, mixture, corpus)
        parts.append(rows)
    return corpus, report, Mixed(datasets.concatenate_datasets(parts), counts)


def _mapped(
    rows: datasets.Dataset, report: CorpusReport, mixture: Mixture, like: datasets.Dataset
) -> tuple[datasets.Dataset, dict]:
    """The utterances of an added corpus in the columns and labels of `like`, and their counts."""
    tested, name = mixture.tested.config, report.corpus
    words = pd.Series([report.label_names[index] for index in rows["label"]], dtype=object)
    labels = words.map(LABEL_SETS[tested.name])
    added = labels.isin(mixture.add_labels)
    left_out = words[~added].value_counts().sort_index().to_dict()
    rows = rows.select(np.flatnonzero(added))
    columns = {
        # Two corpora may both have a speaker 01: names are made distinct before anything is compared.
        "id": [f"{name}/{id}" for id in rows["id"]],
        "speaker": [speaker and f"{name}/{speaker}" for speaker in rows["speaker"]],
        "label": [tested.label_names.index(label) for label in labels[added]],
    }
    columns |= {column: [None] * len(rows) for column in set(like.column_names) - set(rows.column_names)}
    for column, values in columns.items():
        if column in rows.column_names:
            rows = rows.remove_columns(column)
        rows = rows.add_column(column, values, feature=like.features[column])
    left_out |= {"no single label": report.outside_labels} if report.outside_labels else {}
    entry = {"utterances": len(rows), "left_out": sum(left_out.values()), "left_out_words": left_out}
    entry["problems"] = len(report.problems)
    return rows.select_columns(like.column_names).cast(like.features), entry


def add_to_train(splits: datasets.DatasetDict, mixed: Mixed | None) -> datasets.DatasetDict:
    """The same parts, with the other corpora's utterances after train's own."""
    if mixed is None:
        return splits
    return datasets.DatasetDict({**splits, "train": datasets.concatenate_datasets([splits["train"], mixed.rows])})


def with_soft_labels(train: datasets.Dataset, num_labels: int) -> datasets.Dataset:
    """Replace training labels by the distribution of the raters' votes; an utterance without a vote keeps its label.
    SerError: the corpus has no votes for these labels."""
    votes = train["votes"][:] if "votes" in train.column_names else []
    counted = [row is not None and len(row) == num_labels for row in votes]
    if not any(counted):
        raise SerError("--soft_labels: this corpus and label set have no votes")
    labels = np.eye(num_labels)[train["label"][:]]
    for label, row, valid in zip(labels, votes, counted, strict=True):
        if valid and sum(row) > 0:
            label[:] = np.divide(row, sum(row))
    kind = datasets.List(datasets.Value("float32"), length=num_labels)
    return train.remove_columns("label").add_column("label", labels.tolist(), feature=kind)
