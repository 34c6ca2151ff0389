"""Losses that are equal for a batch, for the same clips over several accumulation steps, and over several processes.

Most are a sum and the weight to divide it by (a mean of means is not the mean). The concordance correlation
coefficient is neither: it requires all values of an update at once, which the trainer gathers (`needs_whole_batch`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset

from ..data.batching import sampling_weights
from ..data.mixing import with_soft_labels
from ..errors import SerError
from ..evaluation.tasks import CLASSES, LABELS, VALUES
from .settings import LossArguments, SamplingArguments


def class_weights(labels: list[int], num_labels: int) -> torch.Tensor:
    """`n / (classes * count)` for each class that occurs, 0 for one that does not (scikit-learn's "balanced").

    >>> class_weights([0, 0, 0, 1], 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_labels).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)


def positive_weights(labels: list[list[float]]) -> torch.Tensor:
    """Negatives over positives of each label (torch's `pos_weight`); 1 for a label without a positive."""
    positive = torch.as_tensor(labels, dtype=torch.float32).sum(dim=0)
    return torch.where(positive > 0, (len(labels) - positive) / positive.clamp(min=1), 1.0)


def ccc(predictions: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Concordance correlation coefficient of each column (Lin 1989), `(rows, dim)` to `(dim,)`:
    `2 cov(x, y) / (var x + var y + (mean x - mean y)^2)`, population moments; 0 where both are constant and equal."""
    x, y = predictions.double(), references.double()
    dx, dy = x - x.mean(dim=0), y - y.mean(dim=0)
    spread = (dx**2).mean(dim=0) + (dy**2).mean(dim=0) + (x.mean(dim=0) - y.mean(dim=0)) ** 2
    return 2 * (dx * dy).mean(dim=0) / spread.clamp(min=1e-12)


@dataclass(frozen=True)
class Loss:
    """The loss of a training run. Raises ValueError if the problem type has no such loss."""

    problem_type: str = CLASSES  # as in transformers
    kind: str | None = None  # a key of `LOSSES` for this problem type; the first of them if None
    weights: torch.Tensor | None = None  # `(labels,)`: class weights, or positive weights of several labels
    label_smoothing: float = 0.0  # as in `torch.nn.CrossEntropyLoss`
    focal_gamma: float = 2.0  # exponent of `(1 - p)` in the focal loss (Lin et al. 2017: 2)
    ccc_weight: float = 0.5  # share of `1 - CCC` in `ccc_mse`; the rest is the squared error

    def __post_init__(self):
        choices = [name for name, entry in LOSSES.items() if entry.problem_type == self.problem_type]
        if self.kind is None:
            object.__setattr__(self, "kind", choices[0])
        if self.kind not in choices:
            raise ValueError(f"loss {self.kind}: not for {self.problem_type}; choose {', '.join(choices)}")

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss cannot be added up from parts of an update."""
        return LOSSES[self.kind].whole_update

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """The divisor of the sum over these labels: their class weights, their rows (soft labels), or elements."""
        if self.problem_type == CLASSES:
            if labels.dtype.is_floating_point:
                weights = 1.0 if self.weights is None else self.weights.to(labels.device)
                return (labels * weights).sum()
            if self.weights is not None:
                return self.weights.to(labels.device)[labels].sum()
        return torch.tensor(float(labels.numel()), device=labels.device)

    def sum(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum over a batch; divided by `weight` it is torch's mean reduction. Not for `needs_whole_batch`. `logits` are
        `(batch, labels)`, `labels` `(batch,)` class indices or `(batch, labels)` soft classes, labels or values."""
        loss = self if self.weights is None else replace(self, weights=self.weights.to(logits.device))
        labels = labels if self.problem_type == CLASSES else labels.float()
        return LOSSES[self.kind].function(loss, logits.float(), labels)

    def value(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of all clips of an update (or of a whole part of the corpus) together."""
        if self.needs_whole_batch:
            return LOSSES[self.kind].function(self, logits, labels)
        return self.sum(logits, labels) / self.weight(labels)


class Entry(NamedTuple):
    """A row of `LOSSES`."""

    problem_type: str
    function: Callable[[Loss, torch.Tensor, torch.Tensor], torch.Tensor]  # logits and labels to the sum over a batch,
    whole_update: bool = False  # or to the loss itself, if it requires all clips of an update at once


def _focal(loss: Loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logs = logits.log_softmax(dim=-1)
    targets = labels if labels.dtype.is_floating_point else F.one_hot(labels, logits.shape[-1]).float()
    weights = 1.0 if loss.weights is None else loss.weights
    return -(targets * weights * (1 - logs.exp()) ** loss.focal_gamma * logs).sum()


def _ccc_mse(loss: Loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    error = F.mse_loss(logits.double(), labels.double())
    return loss.ccc_weight * (1 - ccc(logits, labels).mean()) + (1 - loss.ccc_weight) * error


# Every loss, by its name in --loss; the first of a problem type is its default. A new loss is one entry here.
LOSSES = {
    "cross_entropy": Entry(
        CLASSES, lambda a, x, y: F.cross_entropy(x, y, a.weights, reduction="sum", label_smoothing=a.label_smoothing)
    ),
    "focal": Entry(CLASSES, _focal),
    "bce": Entry(
        LABELS, lambda a, x, y: F.binary_cross_entropy_with_logits(x, y, pos_weight=a.weights, reduction="sum")
    ),
    "mse": Entry(VALUES, lambda a, x, y: F.mse_loss(x, y, reduction="sum")),
    "l1": Entry(VALUES, lambda a, x, y: F.l1_loss(x, y, reduction="sum")),
    "ccc": Entry(VALUES, lambda a, x, y: 1 - ccc(x, y).mean(), whole_update=True),
    "ccc_mse": Entry(VALUES, _ccc_mse, whole_update=True),
}


# ---- by the flags


def make_loss(problem_type: str, arguments: LossArguments, train: Dataset, label_smoothing: float = 0.0) -> Loss:
    """The loss, with weights from the training labels if `balanced`. SerError: a flag does not fit the labels."""
    weights, balanced = None, arguments.class_weights == "balanced"
    if balanced and problem_type == CLASSES:
        weights = class_weights(train["label"][:], len(train.features["label"].names))
    elif balanced and problem_type == LABELS:
        weights = positive_weights(train["label"][:])
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
    """The training rows; with `--soft_labels` their labels are the raters' votes. SerError: the corpus has no votes."""
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
    if arguments.sampling == "speaker" and None in train["speaker"][:]:
        raise SerError("--sampling speaker: not every training utterance has a speaker; choose class or none")
    return sampling_weights(train["label" if arguments.sampling == "class" else "speaker"][:])
