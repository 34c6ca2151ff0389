"""Mixing corpora: train on several, validate and test on one; and the label sets that several corpora share.

The emotion words are `schema.EMOTIONS`. A label set says which of them share a label; utterances with other words are
left out, and counted.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets

from ..errors import SerError
from .corpus import CorpusReport
from .loading import Source, find_source, is_own, load
from .schema import LabelConfig

_BASIC = {word: word for word in ("angry", "happy", "neutral", "sad")}

# Label sets that several corpora can be mapped to. Excited counts as happy, as in IEMOCAP's usual four classes.
LABEL_SETS: dict[str, dict[str, str]] = {
    "3class": {"angry": "angry", "happy": "happy", "excited": "happy", "neutral": "neutral"},
    "4class": {**_BASIC, "excited": "happy"},
    "5class": {**_BASIC, "excited": "happy", "fearful": "fearful"},
    "6class": {**_BASIC, "excited": "happy", "disgust": "disgust", "fearful": "fearful"},
    "7class": {**_BASIC, "excited": "happy", "disgust": "disgust", "fearful": "fearful", "surprised": "surprised"},
}


@dataclass(frozen=True)
class Mixture:
    """A resolved `--dataset a+b+c`.

    Args:
        tested: The corpus that is split and tested.
        added: Corpora that only add to train, in the configuration whose words can be mapped to the tested labels.
        add_labels: The labels that they add.
    """

    tested: Source
    added: tuple[Source, ...] = ()
    add_labels: tuple[str, ...] = ()


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
    """Resolve a `--dataset` value. Reads no audio.

    Args:
        dataset: One corpus, or several joined by `+`, named as `find_source` takes them.
        labels: Label configuration of the tested corpus; with several corpora one of `LABEL_SETS`.
        data_dir: The corpus's folder; with several corpora the one that holds all of them, as `$SER_DATA_DIR` does.
        test_on: The corpus that is split and tested, where there are several.
        add_labels: Take only these labels from the others (the reference work adds sad and angry to balance MOSEI).
        protocol: The tested corpus's; the default one if None.

    Raises:
        SerError: as `find_source` does; `test_on` is missing or none of the corpora; the label set is not shared, or a
            label is unknown.
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
    sources = [find(name) for name in others]
    added = [replace(source, config=words_for(source, tested.config.name, names)) for source in sources]
    return Mixture(tested, tuple(added), tuple(add_labels or names))


def words_for(source: Source, labels: str, names: list[str]) -> LabelConfig:
    """The configuration of a corpus whose words can be mapped to the label set `labels` with the labels `names`.

    The corpus's own configuration of that name if it has the same labels, otherwise the one that keeps most of the
    label set's words apart.

    Raises:
        SerError: the corpus has no word of the label set.
    """
    configs = [config for config in source.corpus.BUILDER_CONFIGS if config.label_map]
    for config in configs:
        if config.name == labels and set(config.label_names) == set(names):
            return config
    words = set(LABEL_SETS[labels])
    best = max(configs, key=lambda config: len(set(config.label_names) & words), default=None)
    if best is None or not set(best.label_names) & words:
        raise SerError(f"{source.shown} has no utterance that {labels!r} ({', '.join(names)}) has a label for")
    return best


def load_mixture(
    mixture: Mixture,
    *,
    with_audio: bool = True,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    strict: bool = False,
) -> tuple[datasets.Dataset, CorpusReport, Mixed | None]:
    """Load a resolved mixture: the corpus that is split, its report, and what the others add to train, if any.

    Args:
        with_audio: True for a recipe that needs every utterance's audio.
        cache_dir, num_proc, strict: As `load` takes them.

    Raises:
        SerError: as `load` does; an added corpus has no audio where it is needed.
    """
    corpus, report = load(mixture.tested, cache_dir, num_proc, strict)
    if not mixture.added:
        return corpus, report, None
    parts, counts = [], {}
    for source in mixture.added:
        rows, added = load(source, cache_dir, num_proc, strict)
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
    words = [report.label_names[index] for index in rows["label"]]
    labels = [LABEL_SETS[tested.name].get(word) for word in words]
    keep = [i for i, label in enumerate(labels) if label in mixture.add_labels]
    left_out = [word for word, label in zip(words, labels, strict=True) if label not in mixture.add_labels]
    rows = rows.select(keep)
    columns = {
        # Two corpora may both have a speaker 01: names are made distinct before anything is compared.
        "id": [f"{name}/{id}" for id in rows["id"]],
        "speaker": [speaker and f"{name}/{speaker}" for speaker in rows["speaker"]],
        "label": [tested.label_names.index(labels[i]) for i in keep],
    }
    columns |= {column: [None] * len(rows) for column in set(like.column_names) - set(rows.column_names)}
    for column, values in columns.items():
        if column in rows.column_names:
            rows = rows.remove_columns(column)
        rows = rows.add_column(column, values, feature=like.features[column])
    outside = {"no single label": report.outside_labels} if report.outside_labels else {}
    entry = {
        "utterances": len(keep),
        "left_out": len(left_out) + report.outside_labels,
        "left_out_words": {**{word: left_out.count(word) for word in sorted(set(left_out))}, **outside},
        "problems": len(report.problems),
    }
    return rows.select_columns(like.column_names).cast(like.features), entry


def add_to_train(splits: datasets.DatasetDict, mixed: Mixed | None) -> datasets.DatasetDict:
    """The same parts, with the other corpora's utterances after train's own."""
    if mixed is None:
        return splits
    train = datasets.concatenate_datasets([splits["train"], mixed.rows])
    return datasets.DatasetDict({**splits, "train": train})


def with_soft_labels(train: datasets.Dataset, num_labels: int) -> datasets.Dataset:
    """Replace training labels by the distribution of the raters' votes; an utterance without a vote keeps its label.

    Raises:
        SerError: the corpus has no votes for these labels.
    """
    if "votes" not in train.column_names or all(not votes or len(votes) != num_labels for votes in train["votes"]):
        raise SerError("--soft_labels: this corpus and label set have no votes")
    labels = []
    for votes, label in zip(train["votes"], train["label"], strict=True):
        if votes and len(votes) == num_labels and sum(votes) > 0:
            labels.append([vote / sum(votes) for vote in votes])
        else:
            labels.append([float(index == label) for index in range(num_labels)])
    kind = datasets.List(datasets.Value("float32"), length=num_labels)
    return train.remove_columns("label").add_column("label", labels, feature=kind)
