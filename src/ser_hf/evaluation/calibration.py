"""How far the probabilities of a classifier can be trusted: its temperature, its calibration error, what it is worth to
abstain, and sets of labels that hold the right one.

Confidence is the probability of the most probable class. A model is calibrated if, of all utterances with a confidence
of 0.8, 80 % are right. Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") divides the
logits by one number that is fitted on validation; it changes no ranking of labels.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from datasets import Dataset
from scipy.optimize import minimize_scalar

from . import bootstrap
from .metrics import classification_metrics, from_counts
from .tasks import softmax

BINS = 15  # of equal width, as in Guo et al. 2017
LIMITS = 0.05, 20.0  # of a temperature
ABSTAIN = 0.2  # the share of utterances, the least sure, without an answer
ALPHA = 0.1  # label sets hold the right label of at least 1 - ALPHA of the utterances
SHARES = tuple(round(1 - 0.05 * step, 2) for step in range(17))  # of answered utterances, 1.0 to 0.2
DRAWS = 500


def fit_temperature(probabilities: Callable[[float], np.ndarray], labels: np.ndarray) -> float | None:
    """The temperature with the least negative log-likelihood of `labels` `(utterances,)`; `probabilities` returns those
    at a temperature, `(utterances, classes)`. None if there is no optimum within `LIMITS`: every utterance is right,
    and the least temperature is best, or the model knows nothing of the labels, and the greatest is."""
    if (probabilities(1.0).argmax(axis=1) == labels).all():
        return None

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(probabilities(float(np.exp(logarithm))), labels)

    low, high = np.log(LIMITS)
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4}).x
    return float(np.exp(best)) if low + 0.01 < best < high - 0.01 else None


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean over utterances.

    >>> round(negative_log_likelihood(np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([0, 1])), 4)  # -(ln .5 + ln .8) / 2
    0.4581
    """
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-12)).mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """For each of `BINS` bins of confidence: the `count` of utterances, the sum of `confidence`, those `right`."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = _bins(confidence)
    weights = {"count": None, "confidence": confidence, "right": right.astype(float)}
    return {name: np.bincount(place, weight, minlength=BINS) for name, weight in weights.items()}


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: the mean distance of accuracy and mean confidence over the bins, weighted by their
    counts.

    >>> ece(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 1, 1]))  # half of them are right
    0.25
    """
    bins = reliability(probabilities, labels)
    return float(np.abs(bins["right"] - bins["confidence"]).sum() / len(labels))


def ece_if_calibrated(probabilities: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The mean and the 95th percentile of the ECE that a perfectly calibrated model with these confidences has by
    chance, because a bin has few utterances (consistency resampling, Bröcker & Smith 2007)."""
    confidence, generator = probabilities.max(axis=1), np.random.default_rng(seed)
    place = _bins(confidence)
    sums = np.bincount(place, confidence, BINS)
    errors = np.empty(DRAWS)
    for number in range(DRAWS):
        right = np.bincount(place[generator.random(len(place)) < confidence], minlength=BINS)
        errors[number] = np.abs(right - sums).sum() / len(place)
    return float(errors.mean()), float(np.percentile(errors, 95))


def answered(probabilities: np.ndarray, labels: np.ndarray, share: float) -> dict[str, float]:
    """UAR (over the classes that occur) and WA of this share of utterances, those with the highest confidence."""
    most = np.argsort(-probabilities.max(axis=1), kind="stable")[: max(1, round(share * len(labels)))]
    metrics = classification_metrics(labels[most], probabilities[most].argmax(axis=1), probabilities.shape[1])
    return {"uar": metrics["uar"], "wa": metrics["wa"]}


def calibrate(logits: Callable[[float], np.ndarray], validation: Dataset, why_not: Mapping[str, bool]) -> dict:
    """What is fitted on validation: the `temperature`, and after it the `sets` of `set_threshold`, both None if one of
    the reasons in `why_not` holds, which is returned; `utterances` are those that were fitted. `logits` returns those
    of validation, `(utterances, classes)`, at a temperature."""
    if reason := next((name for name, holds in why_not.items() if holds), None):
        return {"temperature": None, "sets": None, "utterances": 0, "why_not": reason}
    labels = np.array(validation["label"][:])
    temperature = fit_temperature(lambda value: softmax(logits(value)), labels)
    threshold = set_threshold(softmax(logits(temperature or 1.0)), labels)
    return {
        "temperature": temperature,
        "sets": {"alpha": ALPHA, "threshold": threshold},
        "utterances": len(labels),
        "why_not": None if temperature else "on validation the model is always right, or never better than chance",
    }


def describe(before: np.ndarray, after: np.ndarray, dataset: Dataset, sets: dict | None) -> dict:
    """The calibration of a test part from its logits `(utterances, classes)` `before` and `after` the temperature; of
    `dataset`, in their order, the columns `label` and `speaker` are read, `sets` are as `calibrate` returned them.

    Returns `before` and `after`, each with `ece`, its `interval`, the negative log-likelihood `nll`, mean `confidence`
    and the `bins` of `reliability`; `if_calibrated`, mean and 95th percentile of `ece_if_calibrated`; `answered`, by
    share UAR and WA; `abstain`, UAR of all utterances and without the least sure `ABSTAIN`, and the difference with its
    interval; `sets` with the figures of `describe_sets`. Intervals are 95 %, by bootstrap over speakers; draws of ECE
    are shifted so that their mean is the ECE.
    """
    labels, before, after = np.array(dataset["label"][:]), softmax(before), softmax(after)
    systems = {"before": before, "after": after}
    all_, sure = (answered(systems["after"], labels, share)["uar"] for share in (1.0, 1 - ABSTAIN))
    whole = {name: ece(values, labels) for name, values in systems.items()}
    whole |= {"all": all_, "sure": sure, "difference": sure - all_}
    drawn = draws(systems, labels, dataset["speaker"][:])
    for name in systems:  # bins of repeated utterances are further off: that is no property of the model
        drawn[name] = np.maximum(drawn[name] - drawn[name].mean() + whole[name], 0)
    spread = bootstrap.intervals(drawn)
    described = {
        name: {
            "ece": whole[name],
            "interval": spread[name],
            "nll": negative_log_likelihood(values, labels),
            "confidence": float(values.max(axis=1).mean()),
            "bins": {key: column.tolist() for key, column in reliability(values, labels).items()},
        }
        for name, values in systems.items()
    }
    by_chance = dict(zip(("mean", "most"), ece_if_calibrated(after), strict=True))
    uars = {name: whole[key] for name, key in (("uar_of_all", "all"), ("uar", "sure"), ("difference", "difference"))}
    return described | {
        "if_calibrated": by_chance,
        "answered": {str(share): answered(after, labels, share) for share in SHARES},
        "abstain": {"share": ABSTAIN, **uars, "interval": spread["difference"]},
        "sets": sets and sets | describe_sets(after, labels, sets["threshold"]),
    }


def draws(systems: Mapping[str, np.ndarray], labels: np.ndarray, speakers: Sequence[str | None]) -> dict:
    """The ECE of each system in every bootstrap draw `(draws,)`, and what `after` gains if it abstains."""
    unit, times = bootstrap.draw(speakers, DRAWS)
    errors = {name: (v.argmax(axis=1) == labels) - v.max(axis=1) for name, v in systems.items()}
    of_bins = [np.eye(BINS)[_bins(v.max(axis=1))] * errors[name][:, None] for name, v in systems.items()]
    count, *sums = bootstrap.draw_sums([np.ones((len(labels), 1)), *of_bins], unit, times)
    found = {name: np.abs(one).sum(axis=1) / count[:, 0] for name, one in zip(systems, sums, strict=True)}
    after, classes = systems["after"], systems["after"].shape[1]
    order = np.argsort(-after.max(axis=1), kind="stable")
    unit, outcome = unit[order], (2 * labels + (after.argmax(axis=1) == labels))[order]
    uars = np.empty((2, DRAWS))
    for number, of_draw in enumerate(times):
        times_of = of_draw[unit]
        upto = np.cumsum(times_of, dtype=np.int64)
        for place, share in enumerate((1.0, 1 - ABSTAIN)):
            most = max(1, round(share * int(upto[-1])))
            last = np.searchsorted(upto, most)  # of this utterance so many that there are `most`
            counts = np.bincount(outcome[: last + 1], times_of[: last + 1], 2 * classes)
            counts[outcome[last]] -= upto[last] - most
            wrong, right = counts.reshape(classes, 2).T
            uars[place, number] = from_counts(right, wrong + right, right)["uar"]
    return found | {"difference": uars[1] - uars[0]}


# ---- label sets


def set_threshold(probabilities: np.ndarray, labels: np.ndarray, alpha: float = ALPHA) -> float:
    """The threshold of label sets, by split conformal prediction on validation (Sadinle et al. 2019, "Least Ambiguous
    Set-Valued Classifiers with Bounded Error Levels"): of new utterances that are exchangeable with these, at least
    `1 - alpha` have their label in the set of `label_sets`. Too few utterances give 0: every label is in the set.

    >>> set_threshold(np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]), np.array([0, 0, 0]), alpha=0.5)
    0.8
    """
    true = np.sort(probabilities[np.arange(len(labels)), labels])[::-1]
    rank = int(np.ceil((len(true) + 1) * (1 - alpha)))
    return float(true[rank - 1]) if rank <= len(true) else 0.0


def label_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """`(utterances, classes)` booleans: labels of at least this probability, and always the most probable one."""
    return (probabilities >= threshold) | (probabilities == probabilities.max(axis=1, keepdims=True))


def describe_sets(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """The label sets of a test part: the share that holds the right label (`coverage`), and their mean `size`."""
    sets = label_sets(probabilities, threshold)
    held, size = sets[np.arange(len(labels)), labels].mean(), sets.sum(axis=1)
    return {"coverage": float(held), "size": float(size.mean())}
