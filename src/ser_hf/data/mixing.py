"""Label maps between corpora, and mixing: train on several corpora, validate and test on one.

The emotion vocabulary is `schema.EMOTIONS`. A label set says which of its words share a label; words it does not name
are left out, and counted.
"""

from dataclasses import dataclass, field

import datasets

from ..errors import SerError
from .corpus import CorpusReport
from .loading import corpus_class, load_corpus
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


def words_for(corpus: str, labels: str | None, words: list[str]) -> LabelConfig:
    """The configuration to load of a corpus so that its words can be mapped to the label set `labels`.

    The corpus's own configuration of that name if it maps to the same labels, otherwise the one that keeps most of
    the label set's words apart.

    Raises:
        SerError: the corpus has no word of the label set.
    """
    configs = [c for c in corpus_class(corpus).BUILDER_CONFIGS if c.label_map]
    for config in configs:
        if config.name == labels and set(config.label_names) == set(words):
            return config
    known = LABEL_SETS[labels]
    best = max(configs, key=lambda config: len(set(config.label_names) & set(known)), default=None)
    if best is None or not set(best.label_names) & set(known):
        raise SerError(f"{corpus} has no utterance that {labels!r} ({', '.join(words)}) has a label for")
    return best


@dataclass
class Mixed:
    """Utterances of other corpora, for train only, and where they came from."""

    rows: datasets.Dataset
    counts: dict[str, dict] = field(default_factory=dict)

    def lines(self) -> list[str]:
        return [
            f"  + {name}: {entry['utterances']} utterances into train ({entry['left_out']} left out: "
            f"{', '.join(f'{word} {n}' for word, n in entry['left_out_words'].items()) or 'none'})"
            for name, entry in self.counts.items()
        ]


def parse_mixture(dataset: str, test_on: str | None) -> tuple[str, list[str]]:
    """`a+b+c` to the corpus that is split and tested, and those that only add to train.

    >>> parse_mixture("iemocap+cmu_mosei+smile", "cmu_mosei")
    ('cmu_mosei', ['iemocap', 'smile'])

    Raises:
        SerError: `test_on` is not one of them, or is missing where there are several.
    """
    names = [name for name in dataset.split("+") if name]
    if len(set(names)) < len(names):
        raise SerError(f"--dataset {dataset}: a corpus is named twice")
    if len(names) > 1 and test_on is None:
        raise SerError(f"--dataset {dataset} mixes corpora: say which one is tested, such as --test_on {names[0]}")
    if test_on is not None and test_on not in names:
        raise SerError(f"--test_on {test_on}: must be one of {', '.join(names)}")
    tested = test_on or dataset
    return tested, [name for name in names if name != tested]


def add_corpora(
    names: list[str],
    report: CorpusReport,
    like: datasets.Dataset,
    add_labels: list[str] | None = None,
    with_audio: bool = True,
    **load,
) -> Mixed:
    """Load other corpora in the labels of the tested one.

    Args:
        names: Corpora whose utterances go into train.
        report: Of the tested corpus; its label set must be one of `LABEL_SETS`.
        like: The tested corpus: the result has its columns.
        add_labels: Take only these labels from the others (the reference work adds sad and angry to balance MOSEI).
        with_audio: For a recipe that needs every utterance's audio.
        load: Passed to `load_corpus`; its `data_dir` is then a folder that holds all of them, as `$SER_DATA_DIR` does.

    Raises:
        SerError: the label set is not shared, a label is unknown, a corpus has no audio where it is needed.
    """
    if report.labels not in LABEL_SETS:
        raise SerError(f"--labels {report.labels}: corpora can be mixed in the label sets {', '.join(LABEL_SETS)}")
    unknown = set(add_labels or ()) - set(report.label_names)
    if unknown:
        raise SerError(f"--add_labels {' '.join(sorted(unknown))}: the labels are {', '.join(report.label_names)}")
    parts, counts = [], {}
    for name in names:
        config = words_for(name, report.labels, report.label_names)
        rows, own = load_corpus(name, config.name, return_report=True, **load)
        if with_audio and rows["audio"][0] is None:
            raise SerError(f"{name} has no audio and cannot be added to {report.corpus} in an audio recipe")
        words = [own.label_names[index] for index in rows["label"]]
        mapped = [LABEL_SETS[report.labels].get(word) for word in words]
        wanted = set(add_labels or report.label_names)
        keep = [i for i, label in enumerate(mapped) if label in wanted]
        left_out = [word for i, word in enumerate(words) if mapped[i] not in wanted]
        labels = [report.label_names.index(mapped[i]) for i in keep]
        # Two corpora may both have a speaker 01: names are made distinct before anything is compared.
        columns = {
            "id": [f"{name}/{id}" for id in rows["id"]],
            "speaker": [speaker and f"{name}/{speaker}" for speaker in rows["speaker"]],
        }
        rows = rows.select(keep)
        for column, values in columns.items():
            rows = rows.remove_columns(column).add_column(
                column, [values[i] for i in keep], feature=like.features[column]
            )
        rows = rows.remove_columns("label").add_column("label", labels, feature=like.features["label"])
        for column in set(like.column_names) - set(rows.column_names):
            rows = rows.add_column(column, [None] * len(rows), feature=like.features[column])
        parts.append(rows.select_columns(like.column_names).cast(like.features))
        counts[name] = {
            "utterances": len(keep),
            "left_out": len(left_out) + own.outside_labels,
            "left_out_words": {
                **{word: left_out.count(word) for word in sorted(set(left_out))},
                **({"no single label": own.outside_labels} if own.outside_labels else {}),
            },
            "problems": len(own.problems),
        }
    return Mixed(datasets.concatenate_datasets(parts), counts)


def load_data(data, with_audio: bool = True, **load) -> tuple[datasets.Dataset, CorpusReport, Mixed | None]:
    """What a recipe's `DataArguments` ask for: the corpus that is split, its report, and what is added to train.

    Args:
        data: `DataArguments`.
        with_audio: For a recipe that needs every utterance's audio.
        load: Passed to `load_corpus`.

    Raises:
        SerError: as `load_corpus`, `parse_mixture` and `add_corpora` do.
    """
    tested, others = parse_mixture(data.dataset, data.test_on)
    load = {"data_dir": data.data_dir, "num_proc": data.num_proc, "strict": data.strict, **load}
    corpus, report = load_corpus(tested, data.labels, return_report=True, **load)
    if not others:
        return corpus, report, None
    return corpus, report, add_corpora(others, report, corpus, data.add_labels, with_audio, **load)


def add_to_train(splits: datasets.DatasetDict, mixed: Mixed | None) -> datasets.DatasetDict:
    """The same parts with the other corpora's utterances behind train's own."""
    if mixed is None:
        return splits
    train = datasets.concatenate_datasets([splits["train"], mixed.rows])
    return datasets.DatasetDict({**splits, "train": train})


def with_soft_labels(train: datasets.Dataset, num_labels: int) -> datasets.Dataset:
    """Training labels replaced by the raters' votes as a distribution; an utterance without a vote keeps its label.

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
