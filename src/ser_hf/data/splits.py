"""Folds of a corpus by its protocols, and the check that nothing leaks between their parts.

The default protocol of every corpus keeps speakers apart; those that leak by construction say so in every result.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from ..errors import SerError
from .corpus import Protocol
from .loading import find_protocol

PARTS = ("train", "validation", "test")
NOWHERE = ""  # the part of an utterance that the data's own split does not name
VALIDATION_FRACTION = 0.2  # of the training utterances, as EmoBox's 80/20

# Copies of a tweet differ in web addresses, the people it is sent to, and a leading "RT".
CHANGING = re.compile(r"(?:https?://|www\.)\S*|@\w+")
COPY = re.compile(r"^\W*rt\b")


def text_key(text: str) -> str:
    """The words of a text, for finding copies: without case, punctuation, addresses, @names and the RT of a copied
    tweet. A text without a word is its own key.

    >>> text_key("RT @museum: Tea &  cake! http://t.co/x"), text_key("tea, cake"), text_key("@museum :)")
    ('tea cake', 'tea cake', '@museum :)')
    """
    words = re.findall(r"\w+", COPY.sub("", CHANGING.sub(" ", text.lower())))
    return " ".join(words) or " ".join(text.lower().split())


def folds_of(dataset: Dataset, protocol: Protocol, seed: int = 42) -> list[np.ndarray]:
    """Sorted test row numbers of every fold of a protocol. `seed` only matters for `random`."""
    if protocol.by == "random":  # equal clips stay together: even a leaking split must not test on a training clip
        names, clip = np.unique(_units(dataset), return_inverse=True)
        fold = np.argsort(np.random.default_rng(seed).permutation(len(names))) % len(protocol.folds)
        return [np.flatnonzero(fold[clip] == number) for number in range(len(protocol.folds))]
    keys = np.array(_keys(dataset, protocol.by))
    groups = protocol.folds or [(value,) for value in sorted(set(keys) - {NOWHERE})]
    return [np.flatnonzero(np.isin(keys, group)) for group in groups]


def _keys(dataset: Dataset, by: str) -> list[str]:
    if by == "corpus":
        return ["all"] * len(dataset)
    if by == "prefix":
        return [name[:6] for name in dataset["id"][:]]
    if by == "groups-in-five":
        speakers, groups = (dataset[c][:] if c in dataset.column_names else () for c in ("speaker", "group"))
        units = together(_clips(dataset), *filter(len, (speakers, groups)))
        return _in_five(np.array(dataset["id"][:])[np.unique(units, return_index=True)[1][units]].tolist())
    column = "speaker" if by == "speakers-in-five" else by
    if None in dataset[column][:] and column != "split":
        choice = "choose --protocol random, which cannot keep speakers apart"
        raise SerError(f"not every utterance has a {column}: add a column `{column}` to the corpus, or {choice}")
    if by != "speakers-in-five":
        return [NOWHERE if value is None else str(value) for value in dataset[by][:]]
    return _in_five(dataset["speaker"][:])


def _in_five(units: list[str]) -> list[str]:
    """The fold of each row: whole units dealt from the largest to the fold that holds the fewest rows."""
    sizes, fold_of = [0] * 5, {}
    for unit, count in sorted(Counter(units).items(), key=lambda item: (-item[1], item[0])):
        smallest = sizes.index(min(sizes))
        fold_of[unit] = f"fold{smallest}"
        sizes[smallest] += count
    return [fold_of[unit] for unit in units]


def together(*columns: Sequence) -> np.ndarray:
    """The number of each row's group. Rows that share a value in any column are one group, also by way of other rows;
    None is no value.

    >>> together(["a", "b", None, "b"], [1, 2, 3, 4]).tolist(), together(["a", "b", "c"], [1, 1, 2]).tolist()
    ([0, 1, 2, 1], [0, 0, 1])
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, nodes, size = [], [], len(columns[0])
    for column in columns:
        codes, values = pd.factorize(np.array(column, dtype=object))
        rows.append(np.flatnonzero(codes >= 0))
        nodes.append(codes[codes >= 0] + size)
        size += len(values)
    rows, nodes = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_matrix((np.ones(len(rows), bool), (rows, nodes)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(columns[0])]


def _units(dataset: Dataset) -> np.ndarray:
    """One key per utterance, equal for equal clips and for what belongs to one `group`."""
    clips = _clips(dataset)
    return together(clips, dataset["group"][:]) if "group" in dataset.column_names else clips


def _clips(dataset: Dataset) -> np.ndarray:
    """One key per utterance, equal for equal clips: of their audio, or of their text where there is no audio."""
    if dataset["audio_hash"][0] is not None:
        return np.array(dataset["audio_hash"][:])
    return np.array([text_key(text) for text in dataset["text"][:]])


def split(
    dataset: Dataset,
    corpus: str,
    protocol: Protocol | str | None = None,
    fold: int = 0,
    validation_fraction: float = VALIDATION_FRACTION,
    seed: int = 42,
) -> DatasetDict:
    """Train, validation and test of one fold, counted from 0, of a corpus by its name. The protocol is the corpus's
    default (speaker-independent) if None. About `validation_fraction` of the training utterances become validation, as
    whole speakers. `seed` draws these, and the folds of `random`; it is not the training seed. SerError: no such
    protocol or fold; too few speakers for every part."""
    if not isinstance(protocol, Protocol):
        protocol = find_protocol(corpus, protocol, dataset)
    tests = folds_of(dataset, protocol, seed)
    if not 0 <= fold < len(tests):
        raise SerError(f"--fold {fold}: {corpus}'s protocol {protocol.name!r} has folds 0 to {len(tests) - 1}")
    test = tests[fold]
    rest = np.setdiff1d(np.arange(len(dataset)), test)
    if protocol.by == "split":  # utterances in no official part or fold are not trained on
        keys = np.array(_keys(dataset, "split"))[rest]
        rest = rest[np.isin(keys, PARTS) if protocol.folds else keys != NOWHERE]
    rows = {"test": test, "train": rest}
    if len(test) and len(rest) and validation_fraction > 0:
        rows["validation"] = _validation(dataset, protocol, rest, test, validation_fraction, (seed, fold))
        rows["train"] = np.setdiff1d(rest, rows["validation"])
    if empty := [part for part, numbers in rows.items() if not len(numbers)]:
        names = sorted({str(name) for name in dataset["speaker"][:]})
        if len(names) == 1 and protocol.speakers_known:
            problem = f"{corpus} has one speaker, {names[0]}, who cannot be unseen in the test"
            others = "add others' recordings, train on a corpus besides (--dataset a+b --test_on a)"
            known = "or --protocol random, which tests the voice it trained on"
            raise SerError(f"{protocol.name}: {problem}: {others}, {known}")
        if len(tests) == 1 and protocol.by == "groups-in-five":
            problem = f"all utterances of {corpus} belong together (one recording or folder, or speakers in common)"
            choice = "add recordings, or name what keeps them apart by --group_column"
            raise SerError(f"{protocol.name}: {problem}: {choice}")
        shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
        problem = f"leaves {empty[0]} empty: the files of {corpus} hold the speakers {shown}"
        raise SerError(f"fold {fold} of {protocol.name!r} {problem}; try another --fold or a complete corpus")
    return DatasetDict({part: dataset.select(rows.get(part, [])) for part in PARTS})


def cross_corpus(
    tested: Dataset,
    others: Dataset,
    protocol: Protocol,
    validation_fraction: float = VALIDATION_FRACTION,
    seed: int = 42,
) -> DatasetDict:
    """The parts where one corpus is the test set and the others are train and validation, as whole speakers."""
    rows, carved = np.arange(len(others)), np.array([], dtype=int)
    if validation_fraction > 0:
        carved = _validation(others, protocol, rows, carved, validation_fraction, (seed, 0))
    parts = {"train": others.select(np.setdiff1d(rows, carved)), "validation": others.select(carved)}
    return DatasetDict({**parts, "test": tested})


def _validation(
    dataset: Dataset, protocol: Protocol, rest: np.ndarray, test: np.ndarray, fraction: float, seed: tuple[int, int]
) -> np.ndarray:
    if isinstance(protocol.validation, tuple):
        return rest[np.isin(np.array(_keys(dataset, protocol.by))[rest], protocol.validation)]
    if protocol.validation == "partner":
        sessions = np.array(dataset["session"][:])
        return rest[np.isin(sessions[rest], sessions[test])]
    unit = "session" if protocol.by == "session" else "speaker"
    by_groups = protocol.by in ("groups-in-five", "corpus")
    if by_groups or not protocol.speaker_independent or "group" in dataset.column_names:
        speakers = [dataset["speaker"][:]] * (by_groups or protocol.speaker_independent)
        keys = (together(_units(dataset), *speakers) if speakers else _units(dataset))[rest]
    elif protocol.validation == "texts":
        keys = np.array(dataset["text"][:])[rest]
    elif len(set(keys := np.array(dataset[unit][:])[rest])) < 2:
        problem = f"only one training {unit} ({keys[0]}) is left: validation cannot be kept apart from train"
        choice = "add files, choose another --protocol, or train without it by --validation_fraction 0"
        raise SerError(f"{problem}; {choice}")
    # Rows of randomly drawn keys, at least one key and never all, until about `fraction` of the rows is reached.
    names, sizes = np.unique(keys, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(names))[:-1]
    names, sizes = names[drawn], sizes[drawn]
    wanted = math.ceil(fraction * len(rest) - 1e-9)
    enough = np.cumsum(sizes) - sizes / 2 > wanted  # stops where it is nearest to the fraction
    number = max(1, int(enough.argmax())) if enough.any() else len(names)
    return rest[np.isin(keys, names[:number])]


def some_speakers(train: Dataset, share: float, seed: tuple[int, ...]) -> Dataset:
    """The training utterances of a share of the speakers, at least one. With the same `seed` a smaller share is a part
    of a larger one. SerError: a speaker is unknown, or a class has no utterance left."""
    speakers = np.array(train["speaker"][:], dtype=object)
    if None in speakers:
        raise SerError(f"--train_speakers {share:g}: not every training utterance has a speaker; leave it out")
    drawn = np.random.default_rng(seed).permutation(sorted(set(speakers)))
    some = train.select(np.flatnonzero(np.isin(speakers, drawn[: max(1, round(share * len(drawn)))])))
    if names := getattr(train.features["label"], "names", None):
        if lost := sorted(set(train["label"][:]) - set(some["label"][:])):
            raise SerError(f"--train_speakers {share:g}: no training utterance is {names[lost[0]]} then; give more")
    return some


@dataclass
class Leak:
    """Speakers, pairs of ids of equal clips, and groups (such as recordings) that two parts share."""

    parts: tuple[str, str]
    speakers: list[str]
    clips: list[tuple[str, str]]
    groups: list[str]


def find_leaks(splits: DatasetDict) -> list[Leak]:
    """Speakers and identical clips that any two parts share."""
    leaks = []
    for first, second in combinations([part for part in splits if len(splits[part])], 2):
        a, b = splits[first], splits[second]
        speakers = sorted((set(a["speaker"][:]) & set(b["speaker"][:])) - {None})
        ids = dict(zip(a["audio_hash"][:], a["id"][:], strict=True))
        clips = [(ids[h], i) for h, i in zip(b["audio_hash"][:], b["id"][:], strict=True) if h is not None and h in ids]
        groups = sorted(({*a["group"][:]} & {*b["group"][:]}) - {None}) if "group" in a.column_names else []
        if speakers or clips or groups:
            leaks.append(Leak((first, second), speakers, clips, groups))
    return leaks


def check_disjoint(
    splits: DatasetDict, speaker_independent: bool = True, validation: str | tuple = "carve", hint: str = ""
) -> None:
    """Raises SerError, with the protocol's `hint`: two parts share an identical clip, a group, or a speaker, unless the
    protocol is not `speaker_independent`, or by `validation` (`texts`) train and validation may share speakers."""
    for leak in find_leaks(splits):
        pair = " and ".join(leak.parts)
        if leak.clips:
            same = f"{len(leak.clips)} identical clips, first {' = '.join(leak.clips[0])}"
            raise SerError(f"leak: {pair} share {same}; leave one of each two out of the corpus")
        if leak.groups:
            shown = ", ".join(leak.groups[:5]) + (" ..." if len(leak.groups) > 5 else "")
            raise SerError(f"leak: {pair} share parts of {shown}; keep each in one of them, or --protocol group-folds")
        only_validation = validation == "texts" and leak.parts == ("train", "validation")
        if leak.speakers and speaker_independent and not only_validation:
            raise SerError(f"leak: {pair} share the speakers {', '.join(leak.speakers)}{hint and f'; {hint}'}")
