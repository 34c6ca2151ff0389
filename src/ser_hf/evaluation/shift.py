"""Recordings beside the clips that a model was trained on: which measures lie outside, and what to try.

The range of a measure is that of 98 % of the training clips. Recordings of an unseen speaker leave it more often than 2
in 100, and how often is known: each training speaker in turn is compared with the range of the others. A measure is
outside if the share of recordings below (or above) the range is

- more than that of any training speaker left out (the next speaker of n exceeds all before with probability
  1 / (n + 1)), and more than `LEAST_SHARE`, below which a shift cannot be the reason of a failure; and
- more than chance gives for so many recordings: a binomial test against the mean share of the speakers left out.

Where the training speakers are unknown, or fewer than two, `UNKNOWN_SHARE` stands for the speakers left out.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..data.acoustics import MEASURES, measure_rows
from ..data.audio import AudioError
from ..data.cache import content_hash
from ..errors import SerError
from ..files import optional_file
from . import CLASSES

logger = logging.getLogger("ser_hf")
TRAINING_DATA = "training_data.json"  # beside a model
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # per cent
EDGES = (QUANTILES[0], QUANTILES[-1])  # of the range
MOST_CLIPS, LEAST_CLIPS = 500, 10  # that are measured: of the training set, and if possible of each speaker of it
LEAST_SHARE, UNKNOWN_SHARE = 0.2, 0.5
LEAST_PRIOR = 0.2  # of the recordings that would have to change their class
SIGNIFICANCE = 0.025  # of each side
SIDES = ("low", "high")
# How far beyond the range a recording must be: less makes no difference to a model.
MARGINS = {
    "level": 3.0,
    "bandwidth": 500.0,
    "noise floor": 3.0,
    "signal to noise": 3.0,
    "duration": 0.2,
    "pitch": 10.0,
    "speech": 0.05,
}
# What to try, by measure and side; other sides (more bandwidth, less noise) do no harm. `{aim}` is the median of the
# training clips, `{usual}` their 95th percentile, `{less}` the median of the recordings minus that of training.
ADVICE = {
    ("level", "low"): "bring each recording to {aim:.0f} dBFS, or retrain with --gain_p 0.5 --gain_db {less:.0f} 0",
    ("level", "high"): "bring each recording to {aim:.0f} dBFS, or retrain with --gain_p 0.5 --gain_db 0 {less:.0f}",
    ("bandwidth", "low"): "retrain with --lowpass_p 0.5, which cuts the high frequencies of training clips",
    ("noise floor", "high"): "retrain with --noise_p 0.5 --noise_snr_db 0 20, best with --noise_dir of such noise",
    ("signal to noise", "low"): "retrain with --noise_p 0.5 --noise_snr_db 0 20, best with --noise_dir of such noise",
    ("duration", "low"): "classify longer segments, or retrain with --crop_p 0.5 --crop_keep 0.2 1",
    ("duration", "high"): "classify windows: ser-hf predict --window_s {usual:.1f}",
    ("pitch", "low"): "add such speakers to the training set, or retrain with --pitch_p 0.5 --pitch_semitones -4 4",
    ("pitch", "high"): "add such speakers to the training set, or retrain with --pitch_p 0.5 --pitch_semitones -4 4",
    ("speech", "low"): "cut the recordings to the speech, or retrain with --trim_db 30",
}
PRIOR_ADVICE = "retrain with --class_weights balanced, or with fewer classes (--labels)"


# ---- at training


def sample(rows: Dataset) -> Dataset:
    """At most `MOST_CLIPS` clips of a training set, equally many of each speaker, at least `LEAST_CLIPS`: of too many
    speakers only the first ones. Clips and speakers are in the order of hashes: the folds of a corpus take the same
    clips, and share the cache."""
    hashes, speakers = rows["audio_hash"][:], [str(name) for name in rows["speaker"][:]]
    with_audio = [row for row, name in enumerate(hashes) if name is not None]
    place = {name: number for number, name in enumerate(sorted(set(speakers), key=content_hash))}
    each, taken = max(LEAST_CLIPS, -(-MOST_CLIPS // len(place))), Counter()
    sampled = []
    for row in sorted(with_audio, key=lambda row: (place[speakers[row]], hashes[row])):
        taken[speakers[row]] += 1
        if taken[speakers[row]] <= each:
            sampled.append(row)
    return rows.select(sampled[:MOST_CLIPS])


def describe(rows: Dataset, names: Sequence[str], problem_type: str) -> dict:
    """`training_data.json` of a training set with audio: how many clips of how many speakers were measured
    (`sample`); by measure `quantiles` and `left_out`; by class its share. It names no file and no speaker."""
    measured = sample(rows)
    try:
        values = measure_rows(measured)
    except AudioError:
        measured = _readable(measured)
        values = measure_rows(measured)
    speakers = measured["speaker"][:]
    measures = {
        name: describe_measure(column[~np.isnan(column)], np.array(speakers, dtype=object)[~np.isnan(column)], name)
        for name, column in zip(MEASURES, values.T, strict=True)
        if not np.isnan(column).all()
    }
    return {
        "clips": len(measured),
        "speakers": len(set(speakers) - {None}),
        "measures": measures,
        "classes": describe_classes(rows["label"][:], rows["speaker"][:], names) if problem_type == CLASSES else None,
    }


def _readable(rows: Dataset) -> Dataset:
    """The rows whose clips can still be read, as training has left out the others. AudioError: none can."""
    found, error = [], None
    for row in range(len(rows)):
        try:
            measure_rows(rows.select([row]))
            found.append(row)
        except AudioError as problem:
            error = error or problem
    if not found:
        raise error
    logger.warning("not measured: %d clips that can no longer be read; the first: %s", len(rows) - len(found), error)
    return rows.select(found)


def describe_measure(values: np.ndarray, speakers: np.ndarray, name: str) -> dict:
    """`quantiles` of one measure of clips, and `left_out`: the `mean` and the `most` of the shares of a speaker's clips
    that lie on each side of the other speakers' range; None where speakers are unknown or fewer than two."""
    known = sorted(set(speakers)) if None not in speakers else []
    left_out = None
    if len(known) > 1:
        edges = {speaker: np.percentile(values[speakers != speaker], EDGES) for speaker in known}
        each = np.array([beyond(values[speakers == one], edges[one], name).mean(axis=1) for one in known])
        sides = zip(SIDES, each.mean(axis=0), each.max(axis=0), strict=True)
        left_out = {side: {"mean": round(float(mean), 4), "most": round(float(most), 4)} for side, mean, most in sides}
    quantiles = np.percentile(values, QUANTILES)
    return {
        "unit": MEASURES[name],
        "quantiles": {str(q): round(float(value), 4) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "left_out": left_out,
    }


def describe_classes(labels: Sequence[int], speakers: Sequence[str | None], names: Sequence[str]) -> dict:
    """`shares` of the classes, and `most`: the largest `distance` of one speaker's shares from the others', or None."""
    labels, speakers = np.array(labels), np.array(speakers, dtype=object)
    known = sorted(set(speakers)) if None not in speakers else []
    shares = [np.bincount(labels, minlength=len(names)) / len(labels)]
    for one in known if len(known) > 1 else ():
        parts = [np.bincount(labels[mask], minlength=len(names)) for mask in (speakers == one, speakers != one)]
        shares.append([part / part.sum() for part in parts])
    return {
        "shares": dict(zip(names, shares[0].round(4).tolist(), strict=True)),
        "most": max((round(distance(*pair), 4) for pair in shares[1:]), default=None),
    }


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Half the sum of differences: the part that would have to change its class.

    >>> distance(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
    0.25
    """
    return float(np.abs(one - other).sum() / 2)


def beyond(values: np.ndarray, edges: Sequence[float], name: str) -> np.ndarray:
    """Which values are below and which above a measure's range by more than its margin, `(2, values)`; NaN is neither.

    >>> beyond(np.array([1.0, 20.0, 21.0, 28.0]), (22, 24), "level").mean(axis=1).tolist()
    [0.25, 0.25]
    """
    return np.stack([values < edges[0] - MARGINS[name], values > edges[1] + MARGINS[name]])


# ---- of recordings


def load(model: str) -> dict:
    """The `training_data.json` of a model, a folder or a Hub id. SerError: there is none."""
    file = optional_file(model, TRAINING_DATA)
    if file is None:
        where = "has" if Path(model).is_dir() else "no such folder, and on the Hub"
        raise SerError(f"{model}: {where} no {TRAINING_DATA}; name a run of an audio recipe, train older ones again")
    return json.loads(file.read_text())


def compare(training: dict, values: np.ndarray) -> list[dict]:
    """One finding per measure of recordings `(recordings, measures)`: the training clips' `range`, the recordings'
    `median`, the shares that are too `low` and too `high`, `verdict`, `outside` (a side or None) and what to `try`."""
    from scipy.stats import binom  # half a second for those who only read a description

    findings = []
    for name, column in zip(MEASURES, values.T, strict=True):
        column, known = column[~np.isnan(column)], training["measures"].get(name)
        if not len(column) or known is None:
            continue
        noisy = any(one["measure"] == "signal to noise" and one["outside"] for one in findings)  # hides quiet speech
        quantiles = known["quantiles"]
        edges = [quantiles[str(q)] for q in EDGES]
        sides = dict(zip(SIDES, map(float, beyond(column, edges, name).mean(axis=1)), strict=True))
        outside, verdict = None, "in range"
        for side, share in sides.items():
            unseen = (known["left_out"] or {}).get(side, {"mean": 0.0, "most": UNKNOWN_SHARE})
            expected = max(unseen["mean"], EDGES[0] / 100)
            by_chance = binom.sf(round(share * len(column)) - 1, len(column), expected)
            if share > max(unseen["most"], LEAST_SHARE) and by_chance <= SIGNIFICANCE:
                if name == "speech" and noisy:
                    verdict = f"too {side}: the noise hides speech"
                elif (name, side) in ADVICE:
                    outside, verdict = side, f"OUTSIDE, too {side}"
                else:
                    verdict = f"{side}, which does no harm"
        aim, median = quantiles["50"], float(np.median(column))
        advice = outside and ADVICE[name, outside].format(aim=aim, less=median - aim, usual=quantiles["95"])
        findings.append(
            {
                "measure": name,
                "unit": known["unit"],
                "range": edges,
                "median": median,
                **sides,
                "verdict": verdict,
                "outside": outside,
                "try": advice,
            }
        )
    return findings


def compare_classes(training: dict, words: Sequence[str]) -> dict | None:
    """The finding on the class frequencies of recordings with these labels: outside if their `distance` is more than
    that of any training speaker, `LEAST_PRIOR` and chance (chi-square). None for a model without these classes."""
    from scipy.stats import chisquare

    known = training["classes"]
    counts = np.array([words.count(name) for name in known["shares"]]) if known else np.zeros(1)
    if not counts.sum():
        return None
    expected, shares = np.array(list(known["shares"].values())), counts / counts.sum()
    far, likely = distance(shares, expected), np.maximum(expected, 1e-3)
    by_chance = chisquare(counts, likely / likely.sum() * counts.sum()).pvalue
    most = UNKNOWN_SHARE if known["most"] is None else known["most"]
    outside = bool(far > max(most, LEAST_PRIOR) and by_chance <= 2 * SIGNIFICANCE)
    return {
        "measure": "class frequencies",
        "training": known["shares"],
        "recordings": dict(zip(known["shares"], shares.round(4).tolist(), strict=True)),
        "distance": round(far, 4),
        "outside": outside,
        "try": PRIOR_ADVICE if outside else None,
    }
