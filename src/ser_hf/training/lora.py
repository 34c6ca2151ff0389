"""LoRA (Hu et al. 2021) by peft: adapters on the attention's projections are trained in place of the encoder. A run
saves the merged model, which any pipeline loads, and in `adapter/` the adapter alone."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ..errors import SerError
from .saved_model import stock_class, stock_names
from .settings import LoraArguments

if TYPE_CHECKING:
    from peft import PeftModel


def with_lora(model: PreTrainedModel, arguments: LoraArguments) -> "PreTrainedModel | PeftModel":
    """`add_lora` by the flags; the model itself for `--lora_r 0`."""
    if not arguments.lora_r:
        return model
    return add_lora(model, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target)


def add_lora(
    model: PreTrainedModel, r: int, alpha: float = 16, dropout: float = 0.0, target: Sequence[str] | None = None
) -> "PeftModel":
    """The model with adapters of rank `r` on linear layers of its encoders that are not frozen, scaled by `alpha / r`.
    Its head (`head_modules`) is trained in full and saved with the adapter. `target` holds the last names of the layers
    to adapt; it defaults to `Encoder.lora` of `models.encoders`. Raises SerError: there is no such layer."""
    from peft import LoraConfig, get_peft_model
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from ..models.encoders import TEXT, describe

    heads = head_modules(model)
    encoders = [name for name in _children(model) if name not in heads]
    layers = {
        name: layer.weight.requires_grad
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and name.partition(".")[0] in encoders
    }
    linear = {name.rpartition(".")[2] for name, trained in layers.items() if trained}
    parts = [getattr(model.config, name, None) for name in ("audio_config", "text_config")]
    configs = [part for part in parts if part is not None] or [model.config]
    default = [name for config in configs for name in (describe(config) or TEXT).lora if name in linear]
    wanted = list(target or dict.fromkeys(default))
    if not wanted or not set(wanted) <= linear:
        flag = f"--lora_target {' '.join(wanted)}" if target else f"--lora_r {r}"
        choices = ", ".join(sorted(linear))
        raise SerError(f"{flag}: no such layer in {type(model).__name__}; choose --lora_target from {choices}")
    # Whole names: the head may have such layers too, and peft must not find any in a model of another class.
    targets = [name for name, trained in layers.items() if trained and name.rpartition(".")[2] in wanted]
    pattern = "|".join(targets)  # a regular expression, where peft would shorten a list to last names
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, modules_to_save=heads)
    return get_peft_model(model, config)


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that are trained in full: in our models those that begin with `ser_`, in a stock class
    everything outside the encoder, and the encoder's pooler.

    >>> from transformers import AutoConfig, AutoModelForSequenceClassification
    >>> config = AutoConfig.for_model("bert", hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    >>> head_modules(AutoModelForSequenceClassification.from_config(config))
    ['classifier', 'pooler']
    """
    ours = sorted(name for name in _children(model) if name.startswith("ser_"))
    if ours:
        return ours
    pooler = ["pooler"] if any(name.endswith(".pooler") for name, _ in model.named_modules()) else []
    return sorted([name for name in _children(model) if name != model.base_model_prefix] + pooler)


def _children(model: PreTrainedModel) -> list[str]:
    """Names of the direct submodules that have weights."""
    return [name for name, module in model.named_children() if next(module.parameters(), None) is not None]


def save_adapter(model: "PreTrainedModel | PeftModel", folder: Path, base: str | None) -> PreTrainedModel:
    """Write `folder/adapter` of a model with adapters and return the merged model; return another model as it is. Its
    modules have the names of the class that is published (`save_model`), on which `PeftModel.from_pretrained` loads it.
    The name of the pretrained checkpoint `base` is written down unless it is a local folder."""
    if not hasattr(model, "peft_config"):
        return model
    # "", because peft replaces None by the model's own, which may be a local folder
    model.peft_config["default"].base_model_name_or_path = base if base and not Path(base).exists() else ""
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty card; the run has its own
    stock = stock_class(model.config) if model.config.model_type == "ser" else None
    # The stock class has the weights of its layer sum in no module, where peft could keep them: that adapter fits our
    # class alone.
    if stock and model.config.layer_mix == "last":
        _rename(folder / "adapter", stock)
    return model.merge_and_unload()


def _rename(folder: Path, kind: type[PreTrainedModel]) -> None:
    """Give an adapter of `SerForAudioClassification` the names of the stock class."""
    names, prefix = stock_names(kind), "base_model.model."
    names = {ours: theirs for ours, theirs in names.items() if "." not in ours}

    def renamed(path: str) -> str:
        first, dot, rest = path.partition(".")
        return names[first] + dot + rest

    weights = load_file(folder / "adapter_model.safetensors")
    weights = {prefix + renamed(key.removeprefix(prefix)): value for key, value in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = "|".join(map(renamed, config["target_modules"].split("|")))
    config["modules_to_save"] = [names[name] for name in config["modules_to_save"]]
    config["auto_mapping"] = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
