"""Losses that are equal for a batch, for the same clips over several accumulation steps, and over several processes.

Most are a sum and the weight to divide it by (a mean of means is not the mean). The concordance correlation
coefficient is neither: it needs all values of an update at once, which the trainer gathers (`needs_whole_batch`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

CLASSES, LABELS, VALUES = "single_label_classification", "multi_label_classification", "regression"
KINDS = {CLASSES: ("cross_entropy", "focal"), LABELS: ("bce",), VALUES: ("mse", "l1", "ccc", "ccc_mse")}


def class_weights(labels: list[int], num_labels: int) -> torch.Tensor:
    """`n / (classes * count)` for each class that occurs, 0 for one that does not (scikit-learn's "balanced").

    >>> class_weights([0, 0, 0, 1], 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_labels).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)


def positive_weights(labels: list[list[float]]) -> torch.Tensor:
    """Negatives over positives of each label (torch's `pos_weight`); 1 for a label without a positive.

    >>> positive_weights([[1, 0], [0, 0], [0, 0], [0, 0]])
    tensor([3., 1.])
    """
    positive = torch.as_tensor(labels, dtype=torch.float32).sum(dim=0)
    return torch.where(positive > 0, (len(labels) - positive) / positive.clamp(min=1), 1.0)


def ccc(predictions: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Concordance correlation coefficient of each column (Lin 1989), `(rows, dim)` to `(dim,)`.

    `2 cov(x, y) / (var x + var y + (mean x - mean y)^2)` with population moments. Columns where both are constant and
    equal give 0.
    """
    x, y = predictions.double(), references.double()
    dx, dy = x - x.mean(dim=0), y - y.mean(dim=0)
    spread = (dx**2).mean(dim=0) + (dy**2).mean(dim=0) + (x.mean(dim=0) - y.mean(dim=0)) ** 2
    return 2 * (dx * dy).mean(dim=0) / spread.clamp(min=1e-12)


@dataclass(frozen=True)
class Loss:
    """What a model is trained on.

    Args:
        problem_type: As in transformers.
        kind: One of `KINDS[problem_type]`; the first of them if None.
        weights: `(labels,)`: class weights (single-label) or positive weights (multi-label).
        label_smoothing: As in `torch.nn.CrossEntropyLoss`.
        focal_gamma: Exponent of `(1 - p)` in the focal loss (Lin et al. 2017: 2).
        ccc_weight: Share of `1 - CCC` in `ccc_mse`; the rest is the squared error.
    """

    problem_type: str = CLASSES
    kind: str | None = None
    weights: torch.Tensor | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    ccc_weight: float = 0.5

    def __post_init__(self):
        if self.kind is None:
            object.__setattr__(self, "kind", KINDS[self.problem_type][0])
        if self.kind not in KINDS[self.problem_type]:
            raise ValueError(f"loss {self.kind!r}: {self.problem_type} has {', '.join(KINDS[self.problem_type])}")

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss cannot be added up from parts of an update."""
        return self.kind in ("ccc", "ccc_mse")

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """What the sum over these labels is divided by: their class weights, their rows (soft labels), or elements."""
        if self.problem_type == CLASSES:
            if labels.dtype.is_floating_point:
                weights = 1.0 if self.weights is None else self.weights.to(labels.device)
                return (labels * weights).sum()
            if self.weights is not None:
                return self.weights.to(labels.device)[labels].sum()
        return torch.tensor(float(labels.numel()), device=labels.device)

    def sum(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum over a batch; divided by `weight` it is torch's mean reduction.

        Args:
            logits: `(batch, labels)`.
            labels: `(batch,)` class indices, or `(batch, labels)` floats: soft classes, labels or values.
        """
        logits = logits.float()
        weights = None if self.weights is None else self.weights.to(logits.device)
        if self.problem_type == VALUES:
            function = F.l1_loss if self.kind == "l1" else F.mse_loss
            return function(logits, labels.float(), reduction="sum")
        if self.problem_type == LABELS:
            return F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights, reduction="sum")
        if self.kind == "focal":
            logs = logits.log_softmax(dim=-1)
            targets = labels if labels.dtype.is_floating_point else F.one_hot(labels, logits.shape[-1]).float()
            weights = 1.0 if weights is None else weights
            return -(targets * weights * (1 - logs.exp()) ** self.focal_gamma * logs).sum()
        return F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=self.label_smoothing)

    def value(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of all clips of an update (or of a whole part of the corpus) together."""
        if not self.needs_whole_batch:
            return self.sum(logits, labels) / self.weight(labels)
        discord = 1 - ccc(logits, labels).mean()
        if self.kind == "ccc":
            return discord
        return self.ccc_weight * discord + (1 - self.ccc_weight) * F.mse_loss(logits.double(), labels.double())
