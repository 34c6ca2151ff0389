"""Learning rates of a model's parts, and the end of training."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedConfig

from ..errors import SerError
from ..models.encoders import depth
from .settings import ScheduleArguments, TuningArguments


def learning_rates(
    config: PreTrainedConfig,  # of the audio encoder
    learning_rate: float,
    tuning: TuningArguments,
) -> Callable[[str], float] | None:
    """From the name of a parameter of an audio model, with or without adapters, to its learning rate; None if all have
    `learning_rate`.

    The head (modules `ser_*`) has `head_learning_rate`. With `layer_lr_decay`, transformer layer l of L has
    learning_rate * layer_lr_decay^(L - l): the last layer, and what follows it, has `learning_rate`, what precedes the
    first layer has learning_rate * layer_lr_decay^L. ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022) count the
    power from the head down; here the last layer is 0, because the head has a rate of its own.

    >>> from transformers import WhisperConfig
    >>> rate_of = learning_rates(WhisperConfig(encoder_layers=2), 1e-4, TuningArguments(1e-3, 0.5))
    >>> names = "encoder.conv1.bias", "encoder.layers.0.fc1.bias", "encoder.layers.1.fc1.bias", "ser_classifier.bias"
    >>> [rate_of(name) for name in names]
    [2.5e-05, 5e-05, 0.0001, 0.001]
    """
    if tuning.head_learning_rate is None and tuning.layer_lr_decay is None:
        return None
    head, decay = tuning.head_learning_rate or learning_rate, tuning.layer_lr_decay or 1.0

    def rate_of(name: str) -> float:
        part, _, inner = name.removeprefix("base_model.model.").partition(".")
        if part.startswith("ser_"):
            return head
        if part != "encoder":
            raise ValueError(f"parameter {name}: neither of the encoder nor of the head")
        return learning_rate * decay ** (config.num_hidden_layers - depth(config, inner))

    return rate_of


def by_rate(
    groups: list[dict[str, Any]], rates: Mapping[nn.Parameter, float], learning_rate: float
) -> list[dict[str, Any]]:
    """An optimizer's parameter groups, each divided by its parameters' rates; all else in a group stays. Groups at
    `learning_rate` come first, because the Trainer logs the rate of the first one."""
    divided = []
    for group in groups:
        parts: dict[float, list] = {}
        for parameter in group["params"]:
            parts.setdefault(rates[parameter], []).append(parameter)
        divided += [{**group, "params": parameters, "lr": rate} for rate, parameters in parts.items()]
    return sorted(divided, key=lambda group: group["lr"] != learning_rate)


class _EarlyStopping(EarlyStoppingCallback):
    """A resumed run counts on from its checkpoint, and stops where the unbroken one does."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        evaluated = {entry["step"] for entry in state.log_history if "eval_loss" in entry}
        self.early_stopping_patience_counter = sum(step > (state.best_global_step or 0) for step in evaluated)


def early_stopping(schedule: ScheduleArguments, has_validation: bool) -> list[EarlyStoppingCallback]:
    """The Trainer's callback for `--early_stopping_patience`, if set. Raises SerError without validation."""
    patience = schedule.early_stopping_patience
    if patience is None:
        return []
    if not has_validation:
        raise SerError(f"--early_stopping_patience {patience}: needs validation: give --validation_fraction")
    return [_EarlyStopping(patience)]
