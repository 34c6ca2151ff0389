"""The loss, and the training rows and their weights, by the flags."""

import numpy as np
from datasets import ClassLabel, Dataset

from ..data.batching import sampling_weights
from ..data.mixing import with_soft_labels
from ..errors import SerError
from .losses import CLASSES, LABELS, Loss, class_weights, positive_weights
from .settings import LossArguments, SamplingArguments


def make_loss(problem_type: str, arguments: LossArguments, train: Dataset, label_smoothing: float = 0.0) -> Loss:
    """The loss; `--class_weights balanced` takes its weights from the training labels.
    Raises SerError: a flag does not fit the labels."""
    weights, balanced = None, arguments.class_weights == "balanced"
    if balanced and problem_type == CLASSES:
        weights = class_weights(train["label"], len(train.features["label"].names))
    elif balanced and problem_type == LABELS:
        weights = positive_weights(train["label"])
    elif balanced:
        raise SerError("--class_weights balanced: these labels are values; leave it out")
    try:
        loss = Loss(problem_type, arguments.loss, weights, label_smoothing, arguments.focal_gamma, arguments.ccc_weight)
    except ValueError as error:
        raise SerError(f"--{error}") from None
    if label_smoothing and loss.kind != "cross_entropy":
        raise SerError(f"--label_smoothing_factor {label_smoothing:g}: the loss {loss.kind} has none; set it to 0")
    return loss


def training_rows(train: Dataset, arguments: SamplingArguments) -> Dataset:
    """The training utterances (or windows); with `--soft_labels` their labels are the raters' votes.
    Raises SerError: the corpus has no votes for these labels."""
    if not arguments.soft_labels:
        return train
    if not isinstance(train.features["label"], ClassLabel):
        raise SerError("--soft_labels true: these labels are not classes; leave it out")
    return with_soft_labels(train, len(train.features["label"].names))


def draw_weights(train: Dataset, arguments: SamplingArguments) -> np.ndarray | None:
    """`(rows,)` weights with which training rows are drawn, or None for each exactly once an epoch.
    Raises SerError: `--sampling` goes by a column that the corpus does not have."""
    if arguments.sampling == "none":
        return None
    if arguments.sampling == "class" and not isinstance(train.features["label"], ClassLabel):
        raise SerError("--sampling class: these labels are not classes; choose speaker or none")
    if arguments.sampling == "speaker" and None in train["speaker"]:
        raise SerError("--sampling speaker: not every training utterance has a speaker; choose class or none")
    return sampling_weights(train["label" if arguments.sampling == "class" else "speaker"])
