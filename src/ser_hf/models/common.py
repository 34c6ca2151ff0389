"""What all our models and configurations share. Ships to the Hub."""

from collections.abc import Iterable

import torch.nn.functional as F
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput


def check_choice(name: str, value, choices: Iterable) -> None:
    """Raises ValueError unless the value of the argument `name` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} {value!r}: choose one of {', '.join(map(str, choices))}")


class PipelineConfig(PreTrainedConfig):
    """A configuration that names our pipeline in every saved config.json, where `pipeline` looks for its code."""

    def __post_init__(self, **kwargs):
        task = {"impl": "pipeline_ser.SerPipeline", "pt": ["AutoModelForAudioClassification"]}
        kwargs.setdefault("custom_pipelines", {"speech-emotion-recognition": task})
        super().__post_init__(**kwargs)


class StrictLoading:
    """Mixin, written before `PreTrainedModel` in a class's bases: `from_pretrained` refuses incomplete checkpoints."""

    # The loss is a plain batch mean. The Trainer assumes that a forward with **kwargs normalises by
    # num_items_in_batch, and then does not divide by the accumulation steps.
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers; ValueError names weights that are missing, because they would be random."""
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

    `logits` are `(batch, labels)`. With `labels`, the loss is the batch mean of cross-entropy (class indices
    `(batch,)`), of binary cross-entropy (multi-label) or of the squared error (regression; both `(batch, labels)`).
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
