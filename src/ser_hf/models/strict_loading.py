"""What all our models share: incomplete checkpoints are refused, and the loss follows the problem type. Ships to the
Hub beside the weights: imports nothing of this project."""

import torch.nn.functional as F
from transformers.modeling_outputs import SequenceClassifierOutput


class StrictLoading:
    """Mixin, written before `PreTrainedModel` in a class's bases: `from_pretrained` refuses incomplete checkpoints."""

    # The loss is a plain batch mean. The Trainer assumes that a forward with **kwargs normalises by
    # num_items_in_batch, and then does not divide by the accumulation steps.
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers, but an incomplete checkpoint is refused: missing weights would be random.

        Raises:
            ValueError: weights are missing; it names them.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing:
            shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise ValueError(
                f"{args[0] if args else 'checkpoint'}: weights {shown} are missing, the model would answer at random; "
                "give a fine-tuned checkpoint, or train a new head on this encoder with a recipe"
            )
        return (model, info) if output_loading_info else model


def classification_output(
    logits, labels=None, problem_type=None, return_dict=None, hidden_states=None, attentions=None
):
    """The output of a model's `forward`: a `SequenceClassifierOutput`, or for `return_dict=False` a tuple.

    The loss, with labels, is the batch mean of cross-entropy, of binary cross-entropy (multi-label) or of the squared
    error (regression).

    Args:
        logits: `(batch, labels)`.
        labels: `(batch,)` class indices, or `(batch, labels)` floats for multi-label and regression.
        problem_type: As in transformers; None is single-label.
    """
    loss = None
    if labels is not None and problem_type == "regression":
        loss = F.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
    elif labels is not None and problem_type == "multi_label_classification":
        loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    elif labels is not None:
        loss = F.cross_entropy(logits, labels)
    if return_dict is False:
        return (logits,) if loss is None else (loss, logits)
    return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)
