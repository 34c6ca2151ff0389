"""Mixing corpora: train on several, validate and test on one; and the label sets that several corpora share."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from ..errors import SerError
from .columns import WELL_KNOWN, Columns
from .corpus import CROSS_CORPUS, CorpusReport
from .loading import Source, find_source, is_own, load
from .schema import LABEL_SETS, LabelConfig


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
    columns: Columns = WELL_KNOWN,
) -> Mixture:
    """Resolve a `--dataset` value, without audio. SerError: as `find_source`; unknown `test_on`, label or label set.

    Args:
        dataset: One corpus, or several joined by `+`, named as `find_source` takes them.
        labels, protocol: Of the tested corpus; with several corpora `labels` is one of `LABEL_SETS`, and `protocol` may
            be `cross-corpus`, which trains on the others alone.
        data_dir: The corpus's folder; with several corpora the one that holds all of them, as `$SER_DATA_DIR` does.
        test_on, add_labels: Names of the tested corpus (of a folder the last part is enough) and of the labels that the
            others add, where there are several.
        columns: Of the parts that are one's own data.
    """
    names = _names(dataset)
    if len(set(names)) < len(names):
        raise SerError(f"--dataset {dataset}: a corpus is named twice")
    if len(names) > 1 and test_on is None:
        raise SerError(f"--dataset {dataset} mixes corpora: say which one is tested, such as --test_on {names[0]}")
    fitting = [name for name in names if test_on in (name, Path(name).name)]
    if test_on is not None and len(fitting) != 1:
        raise SerError(f"--test_on {test_on}: must be one of {', '.join(names)}")
    alone = protocol == CROSS_CORPUS.name
    if alone and len(names) < 2:
        hint = f"name those to train on: --dataset {names[0]}+other --test_on {names[0]}"
        raise SerError(f"--protocol {protocol}: --dataset {dataset} is one corpus; {hint}")
    if len(names) < 2:
        return Mixture(find_source(dataset, labels, data_dir, protocol, columns))
    if columns.given() and not any(map(is_own, names)):
        raise SerError(f"{columns.given()[0]}: does nothing for {dataset}, whose columns are known; leave it out")

    def find(name: str, labels: str | None = None, protocol: str | None = None) -> Source:
        own = {"columns": columns} if is_own(name) else {"data_dir": data_dir}
        return find_source(name, labels, protocol=protocol, **own)

    tested = find(fitting[0], labels, None if alone else protocol)
    others = [name for name in names if name != fitting[0]]
    names = tested.config.label_names
    if tested.config.name not in LABEL_SETS and (not is_own(fitting[0]) or not tested.config.label_map):
        raise SerError(f"--labels {tested.config.name}: corpora can be mixed in the label sets {', '.join(LABEL_SETS)}")
    if unknown := set(add_labels or ()) - set(names):
        raise SerError(f"--add_labels {' '.join(sorted(unknown))}: the labels are {', '.join(names)}")
    sources = (find(name) for name in others)
    added = tuple(replace(source, config=words_for(source, tested.config)) for source in sources)
    tested = replace(tested, protocol=CROSS_CORPUS) if alone else tested
    return Mixture(tested, added, tuple(add_labels or names))


def _names(dataset: str) -> list[str]:
    """The corpora of `a+b+c`; a path that holds a plus is one of them.

    >>> _names("emodb+ravdess")
    ['emodb', 'ravdess']
    """
    words, names = [word for word in dataset.split("+") if word], []
    while words:
        ends = range(len(words), 1, -1)
        end = next((end for end in ends if os.path.exists(os.path.expanduser("+".join(words[:end])))), 1)
        names.append("+".join(words[:end]))
        words = words[end:]
    return names


def _mapping(config: LabelConfig) -> dict[str, str]:
    """Emotion words to the labels of a tested corpus: of the shared label set of that name, else each to itself."""
    return LABEL_SETS.get(config.name) or {name: name for name in config.label_names}


def words_for(source: Source, tested: LabelConfig) -> LabelConfig:
    """The configuration of an added corpus from whose words most of the labels can be made: the one of the same name
    and labels if it has it, else the one that keeps most of the label set's words apart.
    SerError: the corpus has no word of the label set."""
    names, mapping = tested.label_names, _mapping(tested)

    def suitability(config: LabelConfig) -> tuple[bool, int]:
        same = config.name == tested.name and set(config.label_names) == set(names)
        return same, len(set(config.label_names) & set(mapping))

    configs = [config for config in source.corpus.BUILDER_CONFIGS if config.label_map]
    best = max(configs, key=suitability, default=None)
    if best is None or not any(suitability(best)):
        labels = f"{tested.name!r} ({', '.join(names)})"
        raise SerError(f"{source.shown} has no utterance that {labels} has a label for")
    return best


def load_mixture(
    mixture: Mixture, with_audio: bool = True, num_proc: int | None = None, strict: bool = False
) -> tuple[datasets.Dataset, CorpusReport, Mixed | None]:
    """Load a resolved mixture: the corpus that is split, its report, and what the others add to train, if any. Other
    arguments and errors as in `load_corpus`; SerError too if a corpus has no audio and `with_audio`."""
    corpus, report = load(mixture.tested, num_proc=num_proc, strict=strict)
    if with_audio and corpus["audio"][0] is None:
        raise SerError(f"{report.corpus} has no audio; recipes/text_cls.py reads its texts")
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
    words = pd.Series([report.label_names[index] for index in rows["label"][:]], dtype=object)
    labels = words.map(_mapping(tested))
    added = labels.isin(mixture.add_labels)
    left_out = words[~added].value_counts().sort_index().to_dict()
    rows = rows.select(np.flatnonzero(added))
    both = {*rows.column_names} & {*like.column_names}
    columns = {
        # Two corpora may both have a speaker 01: names are made distinct before anything is compared.
        "id": [f"{name}/{id}" for id in rows["id"][:]],
        "speaker": [speaker and f"{name}/{speaker}" for speaker in rows["speaker"][:]],
        **({"group": [group and f"{name}/{group}" for group in rows["group"][:]]} if "group" in both else {}),
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
    """Labels replaced by the distribution of the raters' votes, where there are any. SerError: there are none."""
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
