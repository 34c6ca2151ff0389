"""What all our models and configurations share. Ships to the Hub."""

import os
import re
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig


def check_choice(name: str, value: object, choices: Iterable) -> None:
    """Raises ValueError unless the value of the argument `name` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} {value!r}: choose one of {', '.join(map(str, choices))}")


class PipelineConfig(PreTrainedConfig):
    """A configuration that names our pipeline in every saved config.json, where `pipeline` looks for its code."""

    def __post_init__(self, **kwargs):
        task = {"impl": "pipeline_ser.SerPipeline", "pt": ["AutoModelForAudioClassification"]}
        kwargs.setdefault("custom_pipelines", {"speech-emotion-recognition": task})
        super().__post_init__(**kwargs)


def load_safetensors(from_pretrained: Callable, *args, **options) -> tuple:
    """The model and the loading info of a `from_pretrained`, from safetensors files alone, because pickled weights can
    run code. OSError as there; it says how to convert a checkpoint that has no others."""
    try:
        return from_pretrained(*args, **{**options, "output_loading_info": True, "use_safetensors": True})
    except OSError as error:
        name = args[0] if args else "checkpoint"
        no_weights = os.path.isdir(name) and not any(file.endswith(".bin") for file in os.listdir(name))
        if no_weights or not re.search("(no|have a) file named", str(error)):
            raise
        raise OSError(
            f"{name}: pickled weights are not read, because they can run code; `ser-hf convert {name} NEW_FOLDER` "
            "rewrites them as safetensors, then name the new folder"
        ) from None


class StrictLoading:
    """Mixin, written before `PreTrainedModel` in a class's bases: `from_pretrained` refuses incomplete checkpoints, and
    what is frozen stays as it is."""

    # The loss is a plain batch mean. The Trainer assumes that a forward with **kwargs normalises by
    # num_items_in_batch, and then does not divide by the accumulation steps.
    accepts_loss_kwargs = False
    logits_layer = "ser_classifier"

    def train(self, mode: bool = True):
        """As in torch; but batch norm whose weights are frozen (under adapters, too) keeps its statistics as well."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
                module.eval()
        return self

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers; ValueError names weights that are missing, because they would be random."""
        model, info = load_safetensors(super().from_pretrained, *args, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing:
            shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise ValueError(
                f"{args[0] if args else 'checkpoint'}: weights {shown} are missing, the model would answer at random; "
                "give a fine-tuned checkpoint, or train a new head on this encoder with a recipe"
            )
        return (model, info) if output_loading_info else model


def wanted_outputs(config: PreTrainedConfig, output_hidden_states: bool | None, output_attentions: bool | None):
    """Which outputs besides the logits a `forward` returns: by its arguments, or where these are None by the
    configuration; as keyword arguments of an encoder."""
    arguments = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
    return {name: getattr(config, name) if given is None else given for name, given in arguments.items()}


def classification_loss(logits: torch.Tensor, labels: torch.Tensor | None, problem_type: str | None):
    """The batch mean, for `logits` `(batch, labels)`, of cross-entropy (`labels` are class indices `(batch,)`), of
    binary cross-entropy (multi-label) or of the squared error (regression; both `(batch, labels)`); None without
    labels."""
    if labels is None:
        return None
    if problem_type == "regression":
        return F.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)
