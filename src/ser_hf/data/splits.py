"""Folds of a corpus by its protocols, and the check that nothing leaks between their parts.

The default protocol of every corpus keeps speakers apart; those that leak by construction say so in every result.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from datasets import Dataset, DatasetDict

from ..errors import SerError
from .corpus import Protocol
from .loading import find_protocol

PARTS = ("train", "validation", "test")
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
        names, clip = np.unique(_clips(dataset), return_inverse=True)
        fold = np.argsort(np.random.default_rng(seed).permutation(len(names))) % len(protocol.folds)
        return [np.flatnonzero(fold[clip] == number) for number in range(len(protocol.folds))]
    keys = np.array(_keys(dataset, protocol.by))
    groups = protocol.folds or [(value,) for value in sorted(set(keys))]
    return [np.flatnonzero(np.isin(keys, group)) for group in groups]


def _keys(dataset: Dataset, by: str) -> list[str]:
    if by == "prefix":
        return [name[:6] for name in dataset["id"]]
    column = "speaker" if by == "speakers-in-five" else by
    if None in dataset[column] and column != "split":
        raise SerError(
            f"not every utterance has a {column}: add a column `{column}` to the corpus, or choose --protocol random, "
            "which cannot keep speakers apart"
        )
    if by != "speakers-in-five":
        return [str(value) for value in dataset[by]]
    sizes, fold_of = [0] * 5, {}  # speakers dealt from the largest to the fold that holds the fewest utterances
    for speaker, count in sorted(Counter(dataset["speaker"]).items(), key=lambda item: (-item[1], item[0])):
        smallest = sizes.index(min(sizes))
        fold_of[speaker] = f"fold{smallest}"
        sizes[smallest] += count
    return [fold_of[speaker] for speaker in dataset["speaker"]]


def _clips(dataset: Dataset) -> np.ndarray:
    """One key per utterance, equal for equal clips: of their audio, or of their text where there is no audio."""
    if dataset["audio_hash"][0] is not None:
        return np.array(dataset["audio_hash"])
    return np.array([text_key(text) for text in dataset["text"]])


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
        protocol = find_protocol(corpus, protocol)
    tests = folds_of(dataset, protocol, seed)
    if not 0 <= fold < len(tests):
        raise SerError(f"--fold {fold}: {corpus}'s protocol {protocol.name!r} has folds 0 to {len(tests) - 1}")
    test = tests[fold]
    rest = np.setdiff1d(np.arange(len(dataset)), test)
    if protocol.by == "split":  # utterances in no official part are not trained on
        rest = rest[np.isin(np.array(_keys(dataset, "split"))[rest], PARTS)]
    rows = {"test": test, "train": rest}
    if len(test) and len(rest) and validation_fraction > 0:
        rows["validation"] = _validation(dataset, protocol, rest, test, validation_fraction, (seed, fold))
        rows["train"] = np.setdiff1d(rest, rows["validation"])
    if empty := [part for part, numbers in rows.items() if not len(numbers)]:
        names = sorted({str(name) for name in dataset["speaker"]})
        shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
        raise SerError(
            f"fold {fold} of {protocol.name!r} leaves {empty[0]} empty: the files of {corpus} hold the speakers "
            f"{shown}; try another --fold or a complete corpus"
        )
    return DatasetDict({part: dataset.select(rows.get(part, [])) for part in PARTS})


def _validation(
    dataset: Dataset, protocol: Protocol, rest: np.ndarray, test: np.ndarray, fraction: float, seed: tuple[int, int]
) -> np.ndarray:
    if isinstance(protocol.validation, tuple):
        return rest[np.isin(np.array(_keys(dataset, protocol.by))[rest], protocol.validation)]
    if protocol.validation == "partner":
        sessions = np.array(dataset["session"])
        return rest[np.isin(sessions[rest], sessions[test])]
    unit = "session" if protocol.by == "session" else "speaker"
    if not protocol.speaker_independent:
        keys = _clips(dataset)[rest]
    elif protocol.validation == "texts":
        keys = np.array(dataset["text"])[rest]
    elif len(set(keys := np.array(dataset[unit])[rest])) < 2:
        raise SerError(
            f"only one training {unit} ({keys[0]}) is left: validation cannot be kept apart from train; "
            "add files, choose another --protocol, or train without it by --validation_fraction 0"
        )
    # Rows of randomly drawn keys, at least one key and never all, until about `fraction` of the rows is reached.
    names, sizes = np.unique(keys, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(names))[:-1]
    names, sizes = names[drawn], sizes[drawn]
    wanted = math.ceil(fraction * len(rest) - 1e-9)
    enough = np.cumsum(sizes) - sizes / 2 > wanted  # stops where it is nearest to the fraction
    number = max(1, int(enough.argmax())) if enough.any() else len(names)
    return rest[np.isin(keys, names[:number])]


@dataclass
class Leak:
    """Speakers, and pairs of ids of equal clips, that two parts share."""

    parts: tuple[str, str]
    speakers: list[str]
    clips: list[tuple[str, str]]


def find_leaks(splits: DatasetDict) -> list[Leak]:
    """Speakers and identical clips that any two parts share."""
    leaks = []
    for first, second in combinations([part for part in splits if len(splits[part])], 2):
        a, b = splits[first], splits[second]
        speakers = sorted((set(a["speaker"]) & set(b["speaker"])) - {None})
        ids = dict(zip(a["audio_hash"], a["id"], strict=True))
        clips = [(ids[h], i) for h, i in zip(b["audio_hash"], b["id"], strict=True) if h is not None and h in ids]
        if speakers or clips:
            leaks.append(Leak((first, second), speakers, clips))
    return leaks


def check_disjoint(splits: DatasetDict, speaker_independent: bool = True, validation: str | tuple = "carve") -> None:
    """Raises SerError if two parts share an identical clip, or a speaker that the protocol's `speaker_independent` and
    `validation` (`texts`: train and validation may) do not allow; the message names them."""
    for leak in find_leaks(splits):
        pair = " and ".join(leak.parts)
        if leak.clips:
            raise SerError(f"leak: {pair} share {len(leak.clips)} identical clips, first {' = '.join(leak.clips[0])}")
        only_validation = validation == "texts" and leak.parts == ("train", "validation")
        if leak.speakers and speaker_independent and not only_validation:
            raise SerError(f"leak: {pair} share the speakers {', '.join(leak.speakers)}")
