"""Named ways to split a corpus into train, validation and test, and the check that nothing leaks between them.

A protocol is data. The default of every corpus keeps speakers apart; those that leak by construction (published random
splits) say so in their name and in `speaker_independent`, which goes into every result. Validation is carved from
train by speakers; it selects the model, and test is scored once.
"""

import math
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, DatasetDict

from ..errors import SerError
from .leaks import check_disjoint as check_disjoint  # the check belongs to every split
from .leaks import text_key

PARTS = ("train", "validation", "test")
VALIDATION_FRACTION = 0.2  # of the training utterances, as EmoBox's 80/20


@dataclass(frozen=True)
class Protocol:
    """One way to make folds.

    Args:
        name: Value of `--protocol`.
        source: Who uses it.
        by: What keeps together, and is held out: a column (`speaker`, `session`, `split`), `prefix` (the first six
            letters of the id), `speakers-in-five`, or `random` (clips; texts where there is no audio).
        folds: Test groups, one tuple of `by` values a fold; empty means one fold for each value found. For `random`
            the number of folds is `len(folds)`.
        validation: `carve` (whole speakers, or sessions where `by` is one, from train), `partner` (the other speaker
            of the test speaker's session), `texts` (whole sentences of the training speakers, where only one speaker
            is left to train on) or an explicit tuple of `by` values.
        speaker_independent: False marks a protocol that leaks speakers by construction, or where none is known.
        speakers_known: False where the corpus does not say who speaks.
    """

    name: str
    source: str
    by: str = "speaker"
    folds: tuple[tuple[str, ...], ...] = ()
    validation: str | tuple[str, ...] = "carve"
    speaker_independent: bool = True
    speakers_known: bool = True

    @property
    def warning(self) -> str:
        """What stands beside every figure of the protocol."""
        if self.speaker_independent:
            return ""
        return "LEAKS SPEAKERS" if self.speakers_known else "SPEAKERS UNKNOWN"


def _ids(*groups) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(f"{number:02d}" for number in group) for group in groups)


RANDOM = Protocol(
    "random",
    "utterances shuffled, 80/20: speakers are in train and test, only for comparison with papers that did so",
    by="random",
    folds=((), (), (), (), ()),
    speaker_independent=False,
)
EMOBOX_SIZES = Protocol(
    "random-75-25-leaks-speakers",
    "random 75/25, the sizes of EmoBox's only fold of this corpus (its file list is not shipped here); fold 0 of four",
    by="random",
    folds=((), (), (), ()),
    speaker_independent=False,
)
LEAVE_ONE_SPEAKER_OUT = Protocol("leave-one-speaker-out", "each speaker is the test set once")
SPEAKER_FOLDS = Protocol("speaker-folds", "five folds of whole speakers, of nearly equal size", by="speakers-in-five")

# The first protocol of a corpus is its default. A corpus without an entry gets `speaker-folds`.
PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "demo": (
        Protocol("6fold", "six folds of a woman and a man", folds=tuple((f"f{i}", f"m{i}") for i in range(1, 7))),
    ),
    "ravdess": (
        Protocol(
            "6fold",
            "EmoBox (Ma et al. 2024): 6 folds of 4 actors",
            folds=_ids(
                (1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22)
            ),
        ),
        Protocol(
            "5fold",
            "Luna-Jimenez et al. (2021), MMEmotionRecognition: subject-wise 5-fold",
            folds=_ids((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22)),
        ),
    ),
    "emodb": (
        LEAVE_ONE_SPEAKER_OUT,
        Protocol(
            "audeering",
            "audEERING's published split: test speakers 12 14 15 16",
            folds=_ids((12, 14, 15, 16)),
        ),
        SPEAKER_FOLDS,
    ),
    "tess": (
        Protocol(
            "leave-one-speaker-out",
            "train on one actress, test on the other; validation holds out words, for there is no third speaker",
            validation="texts",
        ),
        EMOBOX_SIZES,
    ),
    "aesdd": (LEAVE_ONE_SPEAKER_OUT, EMOBOX_SIZES),
    "crema_d": (
        Protocol(
            "5fold",
            "EMO-SUPERB (SLT 2024): five speaker folds",
            folds=_ids(range(1037, 1055), range(1001, 1019), range(1073, 1092), range(1055, 1073), range(1019, 1037)),
        ),
        Protocol(
            "audeering",
            "audEERING's release 1.1.0: 56 / 18 / 17 actors",
            folds=_ids(
                (1048, 1069, 1071, 1074, 1076, 1077, 1078, 1079, 1082, 1083, 1084, 1086, 1087, 1088, 1089, 1090, 1091)
            ),
            validation=_ids(
                (
                    1049,
                    1053,
                    1054,
                    1055,
                    1058,
                    1059,
                    1061,
                    1062,
                    1063,
                    1064,
                    1065,
                    1066,
                    1067,
                    1068,
                    1070,
                    1075,
                    1080,
                    1085,
                )
            )[0],
        ),
        EMOBOX_SIZES,
    ),
    "cmu_mosei": (
        Protocol(
            "official",
            "CMU-MultimodalSDK's standard folds by video; a video is taken for a speaker",
            by="split",
            folds=(("test",),),
            validation=("validation",),
        ),
    ),
    "smile": (
        Protocol(
            "5fold-by-text-speakers-unknown",
            "five random folds, texts that are equal up to case, punctuation, web addresses and @names kept together; "
            "who wrote a tweet is not known",
            by="random",
            folds=((), (), (), (), ()),
            speaker_independent=False,
            speakers_known=False,
        ),
    ),
    "iemocap": (
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
    ),
}


def protocols_of(corpus: str) -> dict[str, Protocol]:
    """The protocols of a corpus by name, its default first; `random` exists for all."""
    named = PROTOCOLS.get(corpus, (SPEAKER_FOLDS, LEAVE_ONE_SPEAKER_OUT))
    return {protocol.name: protocol for protocol in (*named, RANDOM)}


def find_protocol(corpus: str, name: str | None = None) -> Protocol:
    """A protocol of a corpus, its default if `name` is None.

    Raises:
        SerError: the corpus has no protocol of that name.
    """
    known = protocols_of(corpus)
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise SerError(f"{corpus} has no protocol {name!r}: choose one of {', '.join(known)}")
    return known[name]


def folds_of(dataset: Dataset, protocol: Protocol, seed: int = 42) -> list[np.ndarray]:
    """Test row numbers of every fold of a protocol, sorted. `seed` only matters for `random`."""
    if protocol.by == "random":
        return _random_folds(dataset, len(protocol.folds), seed)
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
    if by == "speakers-in-five":
        return _balanced_groups(dataset["speaker"], 5)
    return [str(value) for value in dataset[by]]


def _clips(dataset: Dataset) -> np.ndarray:
    """What makes two utterances the same: their audio, or their text where there is no audio."""
    if dataset["audio_hash"][0] is not None:
        return np.array(dataset["audio_hash"])
    return np.array([text_key(text) for text in dataset["text"]])


def _balanced_groups(speakers: list[str], groups: int) -> list[str]:
    """A fold name for each row: speakers dealt from the largest to the group that holds the fewest utterances."""
    names, counts = np.unique(speakers, return_counts=True)
    sizes, fold_of = [0] * groups, {}
    for index in sorted(range(len(names)), key=lambda i: (-counts[i], names[i])):
        smallest = sizes.index(min(sizes))
        fold_of[names[index]] = f"fold{smallest}"
        sizes[smallest] += counts[index]
    return [fold_of[speaker] for speaker in speakers]


def _random_folds(dataset: Dataset, folds: int, seed: int) -> list[np.ndarray]:
    """Rows dealt at random; equal clips stay together, for even a leaking split must not test on a training clip."""
    rng = np.random.default_rng(seed)
    hashes, clip = np.unique(_clips(dataset), return_inverse=True)
    fold = np.empty(len(hashes), dtype=int)
    fold[rng.permutation(len(hashes))] = np.arange(len(hashes)) % folds
    return [np.flatnonzero(fold[clip] == number) for number in range(folds)]


def split(
    dataset: Dataset,
    corpus: str,
    protocol: str | None = None,
    fold: int = 0,
    validation_fraction: float = VALIDATION_FRACTION,
    seed: int = 42,
) -> DatasetDict:
    """Train, validation and test of one fold.

    Args:
        dataset: A corpus as `load_corpus` returns it.
        corpus: Its name.
        protocol: Name of a protocol; the corpus's default (speaker-independent) if None.
        fold: Number of the fold, from 0.
        validation_fraction: About this part of the training utterances becomes validation, as whole speakers;
            0 leaves validation empty (no model selection).
        seed: Of the choice of validation speakers and of `random`; not the training seed, so that runs with several
            seeds share their splits.

    Raises:
        SerError: no such protocol or fold; a part is empty; too few speakers to carve validation from.
    """
    chosen = find_protocol(corpus, protocol)
    tests = folds_of(dataset, chosen, seed)
    if not 0 <= fold < len(tests):
        raise SerError(f"--fold {fold}: {corpus}'s protocol {chosen.name!r} has folds 0 to {len(tests) - 1}")
    test = tests[fold]
    rest = np.setdiff1d(np.arange(len(dataset)), test)
    if chosen.by == "split":  # utterances in no official part are not trained on
        rest = rest[np.isin(np.array(_keys(dataset, "split"))[rest], PARTS)]
    rows = {"test": test, "train": rest}
    if len(test) and len(rest) and validation_fraction > 0:
        rows["validation"] = _validation(dataset, chosen, rest, test, validation_fraction, (seed, fold))
        rows["train"] = np.setdiff1d(rest, rows["validation"])
    for part, found in rows.items():
        if not len(found):
            names = sorted({str(name) for name in dataset["speaker"]})
            shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
            raise SerError(
                f"fold {fold} of {chosen.name!r} leaves {part} empty: the files found of {corpus} hold the speakers "
                f"{shown}; try another --fold or a complete corpus"
            )
    rows.setdefault("validation", np.array([], dtype=int))
    return DatasetDict({part: dataset.select(rows[part]) for part in PARTS})


def _validation(dataset, protocol: Protocol, rest, test, fraction: float, seed: tuple[int, int]) -> np.ndarray:
    if isinstance(protocol.validation, tuple):
        return rest[np.isin(np.array(_keys(dataset, protocol.by))[rest], protocol.validation)]
    if protocol.validation == "partner":
        sessions = np.array(dataset["session"])
        return rest[np.isin(sessions[rest], sessions[test])]
    if not protocol.speaker_independent:
        return _carve(rest, _clips(dataset)[rest], fraction, seed)
    if protocol.validation == "texts":
        return _carve(rest, np.array(dataset["text"])[rest], fraction, seed)
    unit = "session" if protocol.by == "session" else "speaker"
    keys = np.array(dataset[unit])[rest]
    if len(set(keys)) < 2:
        raise SerError(
            f"only one training {unit} ({keys[0]}) is left: validation cannot be kept apart from train; "
            "add files, choose another --protocol, or train without it by --validation_fraction 0"
        )
    return _carve(rest, keys, fraction, seed)


def _carve(rows: np.ndarray, keys: np.ndarray, fraction: float, seed: tuple[int, int]) -> np.ndarray:
    """Rows of randomly drawn keys, at least one key and never all, until about `fraction` of the rows is reached."""
    names = np.unique(keys)
    wanted = math.ceil(fraction * len(rows) - 1e-9)
    chosen: list[str] = []
    taken = 0
    for name in np.random.default_rng(seed).permutation(names)[: len(names) - 1]:
        size = int((keys == name).sum())
        if chosen and taken + size / 2 > wanted:  # stops where it is nearest to the fraction
            break
        chosen.append(name)
        taken += size
    return rows[np.isin(keys, chosen)]
