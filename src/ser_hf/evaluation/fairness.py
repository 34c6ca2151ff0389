"""Does a model treat groups of speakers alike? Gaps beyond what a random model without any bias has by chance.

The method is that of Derington et al., "Testing correctness, fairness and robustness of speech emotion recognition
models" (arXiv 2312.06270; github.com/audeering/ser-tests): a gap between a group and all clips counts only above what
a random model, which knows no groups, reaches in 1,000 simulations of that sample size. Three details are sharper here:

- Their random model answers each class equally often; ours makes the mistakes of the tested one. It draws each answer
  from the row of the tested model's confusion matrix, so that a class that is hard for everybody is no bias.
- They subsample groups until labels are balanced. Here a group is compared with what all clips' recalls and confusions
  give for the labels of the group.
- They take the maximum over simulations, for one group at a time. Here the threshold of an attribute (such as gender)
  is the 95th percentile of the largest of all its gaps, each relative to its own spread, so that a fair model raises an
  alarm in one of 20 tests, however many groups there are.

Each attribute has two tests: the groups' UAR, and their classes (recall, equalised odds; and how often each class is
answered).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

DRAWS, LEVEL = 1000, 95  # simulations; the percentile that is the threshold
LEAST_GROUP = 20  # clips of a group that is judged; smaller ones are named
MOST_NAMED = 12  # of the smaller ones
LEAST_CLASS = 8  # clips of a class in a group whose recall is judged, as in ser-tests
CELLS = 4_000_000  # counts that are simulated at a time
PITCH_HZ = (145.0, 190.0)  # between low, medium and high mean pitch of a speaker, as in ser-tests
AGES = (25, 40, 60)  # years: the least of the second group, the third, ...


def counts_of(labels, predictions, groups: np.ndarray, num_groups: int, num_labels: int) -> np.ndarray:
    """Confusion matrix of each group, `(groups, labels, predictions)`; `groups` are numbers."""
    flat = (np.asarray(groups) * num_labels + np.asarray(labels)) * num_labels + np.asarray(predictions)
    shape = (num_groups, num_labels, num_labels)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)


def rows_of(matrix: np.ndarray) -> np.ndarray:
    """Confusion matrices `(..., labels, predictions)` as shares of each label; zeros for a label without clips."""
    total = matrix.sum(axis=-1, keepdims=True)
    return np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)


def gaps(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What sets groups apart from all clips, from `(..., groups, labels, predictions)` counts: the gap of UAR
    `(..., groups)`, of each class's recall and of the share of answers `(..., groups, labels)`. Each is the group's
    figure minus that of all clips for the labels of the group; 0 where the group has no clip of the class."""
    overall = rows_of(counts.sum(axis=-3))  # (..., labels, predictions)
    support = counts.sum(axis=-1)  # (..., groups, labels)
    present = support > 0
    recalls = np.diagonal(rows_of(counts), axis1=-2, axis2=-1)
    recall = (recalls - np.diagonal(overall, axis1=-2, axis2=-1)[..., None, :]) * present
    clips = np.maximum(support.sum(axis=-1, keepdims=True), 1)
    share = (counts.sum(axis=-2) - support @ overall) / clips
    uar = recall.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
    return tuple(np.round(values, 12) for values in (uar, recall, share))  # what rounding leaves is no gap


def simulate(counts: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`gaps` of a random model, `(draws, ...)` each: for each clip of the groups it draws an answer from the row of its
    label in the confusion matrix of all clips."""
    overall, support = rows_of(counts.sum(axis=0)), counts.sum(axis=-1)
    generator, found = np.random.default_rng(seed), []
    while draws > 0:
        some = min(draws, max(1, CELLS // counts.size))
        size = some, len(counts)
        # p of a label without clips is all zeros, of which 0 clips are drawn
        drawn = [generator.multinomial(support[:, label], row, size) for label, row in enumerate(overall)]
        found.append(gaps(np.stack(drawn, axis=2)))
        draws -= some
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def limits(simulated: Sequence[np.ndarray], judged: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The limit of each gap of one test: that many standard deviations of its simulations, where the number is the
    `LEVEL`th percentile of the largest gap, in its standard deviations, of a simulation. Only gaps that are `judged`
    (boolean, without the first axis) count."""
    spread = [values.std(axis=0) for values in simulated]
    largest = np.zeros(len(simulated[0]))
    for values, deviation, mask in zip(simulated, spread, judged, strict=True):
        sizes = np.abs(values) / np.where(deviation > 0, deviation, np.inf) * mask
        largest = np.maximum(largest, sizes.reshape(len(values), -1).max(axis=1))
    return [np.percentile(largest, LEVEL) * deviation for deviation in spread]


def judge(labels, predictions, groups: Sequence[str | None], names: Sequence[str]) -> dict:
    """The groups of one attribute, from the label and the prediction of each clip (numbers of `names`) and its group
    (None: unknown; it counts among all clips alone):

    `groups`, those of `LEAST_GROUP` clips or more, each `{"group", "clips", "uar", "gap", "limit", "biased",
    "classes"}`, with a list of `{"class", "clips", "recall", "gap", "limit", "labelled", "predicted", "share_gap",
    "share_limit", "biased"}`, where `labelled` and `predicted` are shares of the group's clips, and None stands for
    what is undefined or not judged; `too_small`, the clips of the largest of the other groups, which are
    `too_small_groups`; `not_judged`, why there are no limits, or None."""
    codes, found = pd.factorize(np.asarray(groups, dtype=object), sort=True)
    sizes = np.bincount(codes[codes >= 0], minlength=len(found))
    large = np.flatnonzero(sizes >= LEAST_GROUP)
    # What is not judged is one more group: only the sum matters to the others.
    place = np.append(np.searchsorted(large, np.arange(len(found))), len(large))  # the last is of unknown ones
    place[np.append(sizes < LEAST_GROUP, True)] = len(large)
    counts = counts_of(labels, predictions, place[codes], len(large) + 1, len(names))
    support, rows = counts.sum(axis=-1), rows_of(counts)
    uar, recall, share = gaps(counts)
    tested, with_recall = np.arange(len(counts)) < len(large), support >= LEAST_CLASS
    of_uar, of_recall, of_share = (np.full(values.shape, np.nan) for values in (uar, recall, share))
    if len(large) > 1:
        drawn = simulate(counts)
        (of_uar,) = limits(drawn[:1], [tested])
        classes = np.repeat(tested[:, None], len(names), 1)
        of_recall, of_share = limits(drawn[1:], [classes & with_recall, classes])
    of_recall = np.where(with_recall, of_recall, np.nan)

    def figure(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    def of_class(group: int, label: int) -> dict:
        clips, there = support[group].sum(), support[group, label] > 0
        wide = abs(recall[group, label]) > of_recall[group, label] or abs(share[group, label]) > of_share[group, label]
        return {
            "class": names[label],
            "clips": int(support[group, label]),
            "recall": float(rows[group, label, label]) if there else None,
            "gap": float(recall[group, label]) if there else None,
            "limit": figure(of_recall[group, label]),
            "labelled": float(support[group, label] / clips),
            "predicted": float(counts[group, :, label].sum() / clips),
            "share_gap": float(share[group, label]),
            "share_limit": figure(of_share[group, label]),
            "biased": bool(wide),
        }

    judged = [
        {
            "group": str(found[code]),
            "clips": int(sizes[code]),
            "uar": float(np.diagonal(rows[group])[support[group] > 0].mean()),
            "gap": float(uar[group]),
            "limit": figure(of_uar[group]),
            "biased": bool(abs(uar[group]) > of_uar[group]),
            "classes": [of_class(group, label) for label in range(len(names))],
        }
        for group, code in enumerate(large)
    ]
    small = sorted(np.flatnonzero(sizes < LEAST_GROUP), key=lambda code: -sizes[code])
    why = None if len(large) > 1 else f"fewer than two groups of {LEAST_GROUP} clips"
    return {
        "groups": judged,
        "too_small": {str(found[code]): int(sizes[code]) for code in small[:MOST_NAMED]},
        "too_small_groups": len(small),
        "not_judged": "one group only" if len(found) == 1 else why,
    }


# ---- attributes of clips


def age_group(years: float | None) -> str | None:
    """
    >>> age_group(24), age_group(25.0), age_group(61), age_group(None)
    ('under 25', '25 to 39', '60 and over', None)
    """
    if years is None or np.isnan(years):
        return None
    place = int(np.searchsorted(AGES, years, side="right"))
    if place in (0, len(AGES)):
        return f"under {AGES[0]}" if place == 0 else f"{AGES[-1]} and over"
    return f"{AGES[place - 1]} to {AGES[place] - 1}"


def pitch_groups(pitch: np.ndarray, speakers: Sequence[str | None]) -> list[str | None]:
    """The pitch group of each clip's speaker, by the mean of the speaker's clips in Hz (NaN: no pitch), or None."""
    speakers = np.asarray(speakers, dtype=object)
    words = ("low, up to 145 Hz", "medium", "high, above 190 Hz")
    of_speaker = {None: None}
    for speaker in set(speakers) - {None}:
        values = pitch[(speakers == speaker) & ~np.isnan(pitch)]
        of_speaker[speaker] = words[int(np.searchsorted(PITCH_HZ, values.mean()))] if len(values) else None
    return [of_speaker[speaker] for speaker in speakers]
