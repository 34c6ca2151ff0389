"""Losses as a sum and the weight to divide it by, so that they are equal for a batch, for the same clips over several
accumulation steps, and for the same clips over several processes (a mean of means is not)."""

import torch
import torch.nn.functional as F


def class_weights(labels: list[int], num_labels: int) -> torch.Tensor:
    """`n / (classes * count)` for each class that occurs, 0 for one that does not (scikit-learn's "balanced").

    >>> class_weights([0, 0, 0, 1], 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_labels).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)


def weight_of(labels: torch.Tensor, problem_type: str, weights: torch.Tensor | None = None) -> torch.Tensor:
    """What the loss sum over these labels is divided by: their class weights' sum, or their number of elements."""
    if problem_type == "single_label_classification" and weights is not None:
        return weights.to(labels.device)[labels].sum()
    return torch.tensor(float(labels.numel()), device=labels.device)


def loss_sum(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str,
    weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum of the loss over a batch; divided by `weight_of` it is torch's mean reduction.

    Args:
        logits: `(batch, labels)`.
        labels: `(batch,)` class indices or `(batch, labels)` floats.
        problem_type: Single-label: cross-entropy; multi-label: binary cross-entropy; regression: squared error.
        weights: `(labels,)`, one weight a class; single-label only.
        label_smoothing: As in `torch.nn.CrossEntropyLoss`; single-label only.
    """
    logits = logits.float()
    if problem_type == "regression":
        return F.mse_loss(logits, labels.float(), reduction="sum")
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
    weights = None if weights is None else weights.to(logits.device)
    return F.cross_entropy(logits, labels, weight=weights, reduction="sum", label_smoothing=label_smoothing)
