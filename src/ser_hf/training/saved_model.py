"""Save and load models: as a stock class where one computes the same, and strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from ..errors import SerError, one_line
from ..files import saving
from ..models import SerConfig, SerForAudioClassification
from ..models.common import load_safetensors
from ..models.encoders import example, longest_clip


def label_maps(names: list[str]) -> dict[str, dict]:
    """`id2label` and `label2id` of a configuration, from the labels in index order."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def check_labels(config: PreTrainedConfig, names: list[str], checkpoint: str) -> None:
    """Raises SerError if the labels of a fine-tuned model are not those of the corpus, in their order."""
    if list(config.id2label.values()) != names:
        answers, labels = ", ".join(config.id2label.values()), ", ".join(names)
        raise SerError(f"{checkpoint} answers {answers}, but the corpus's labels are {labels}: choose another --labels")


def stock_class(config: SerConfig) -> type[PreTrainedModel] | None:
    """The transformers class with the same forward, or None: there is one for mean pooling with the linear head over
    the last layer or the sum of all; for Whisper on 30 s alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

    other_head = (config.pooling, config.head) != ("mean", "linear") or config.layer_mix == "concat"
    scaled_sum = config.layers is not None or (config.standardise and config.layer_mix == "sum") or config.speaker_norm
    on_clips = longest_clip(config.audio_config) is not None and config.context == "clip"
    adapted = getattr(config.audio_config, "add_adapter", False)  # refused by the stock classes
    if other_head or scaled_sum or on_clips or adapted:
        return None
    return MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING.get(type(config.audio_config), None)


def stock_names(kind: type[PreTrainedModel]) -> dict[str, str]:
    """Our names of modules to those of a stock class, such as `encoder` to `wav2vec2`."""
    prefix = "encoder" if kind.__name__.startswith("Whisper") else kind.base_model_prefix
    names = {"ser_projector": "projector", "ser_classifier": "classifier", "ser_layer_sum.weight": "layer_weights"}
    return {"encoder": prefix, **names}


def _renamed(state: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Weights under other names of their modules."""
    renamed = {}
    for key, value in state.items():
        module = next(name for name in names if key == name or key.startswith(f"{name}."))
        renamed[names[module] + key[len(module) :]] = value
    return renamed


def _unscaled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights without `ser_scale`, which the projection of the last layer takes over."""
    if "ser_scale.mean" not in state:
        return state
    mean, std = state["ser_scale.mean"][0], state["ser_scale.std"][0]
    weight = state["ser_projector.weight"] / std
    projector = {"ser_projector.weight": weight, "ser_projector.bias": state["ser_projector.bias"] - weight @ mean}
    return {name: value for name, value in (state | projector).items() if not name.startswith("ser_scale.")}


def to_stock(model: SerForAudioClassification) -> PreTrainedModel:
    """The same model as a stock class, such as `Wav2Vec2ForSequenceClassification`. Raises ValueError: there is no
    stock class for this pooling and head, or its logits differ (which would be a defect)."""
    kind = stock_class(model.config)
    if kind is None:
        raise ValueError(f"no stock class pools by {model.config.pooling} under the {model.config.head} head")
    config = type(model.config.audio_config).from_dict(model.config.audio_config.to_dict())
    config.classifier_proj_size = model.config.head_size
    config.use_weighted_layer_sum = model.config.layer_mix == "sum"
    for name in ("id2label", "label2id", "problem_type", "thresholds", "label_sets"):
        if (value := getattr(model.config, name, None)) is not None:
            setattr(config, name, value)
    stock = kind(config)
    stock.load_state_dict(_renamed(_unscaled(model.state_dict()), stock_names(kind)))
    _same_logits(model, stock)
    return stock


def from_stock(stock: PreTrainedModel) -> SerForAudioClassification:
    """A stock sequence classification model as ours (mean pooling, linear head)."""
    head = {"pooling": "mean", "head": "linear", "head_size": stock.config.classifier_proj_size}
    head |= {"layer_mix": "sum" if stock.config.use_weighted_layer_sum else "last"}
    head |= {"context": "full"} if longest_clip(stock.config) else {}
    head |= {name: getattr(stock.config, name) for name in ("id2label", "label2id", "problem_type")}
    model = SerForAudioClassification(SerConfig(audio_config=stock.config, **head))
    ours = {theirs: name for name, theirs in stock_names(type(stock)).items()}
    model.load_state_dict(_renamed(stock.state_dict(), ours))
    return model.eval()


@torch.no_grad()
def _same_logits(ours: SerForAudioClassification, stock: PreTrainedModel) -> None:
    values, modes = example(ours.config.audio_config), (ours.training, stock.training)
    ours.eval(), stock.eval()
    difference = float((ours.cpu()(values).logits - stock(values).logits).abs().max())
    ours.train(modes[0]), stock.train(modes[1])
    if not difference < 1e-4:
        raise ValueError(f"the stock class's logits differ by {difference:.2g}: not published as stock")


def last_layer(model: PreTrainedModel) -> nn.Linear | None:
    """The layer whose outputs are the logits, under adapters too: the one that our models name, in a stock class the
    last linear one outside the encoder. None if that has not an output per label."""
    model = model.get_base_model() if hasattr(model, "peft_config") else model
    ours, encoder = getattr(model, "logits_layer", None), model.base_model_prefix
    heads = [child for name, child in model.named_children() if (name == ours if ours else name != encoder)]
    layers = [layer for head in heads for layer in head.modules() if isinstance(layer, nn.Linear)]
    return layers[-1] if layers and layers[-1].out_features == model.config.num_labels else None


@torch.no_grad()
def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide what the model answers by a temperature, in the weights of its `last_layer`: so any class and pipeline,
    stock ones too, and an adapter give calibrated probabilities without a setting of their own."""
    layer = last_layer(model)
    for parameter in layer.parameters() if layer and temperature != 1 else ():
        parameter.div_(temperature)


def load_finetuned(name_or_path: str, trust_remote_code: bool = False) -> SerForAudioClassification:
    """A fine-tuned model with its head, ours or stock, as ours.
    Raises SerError: not found, no audio classifier, or weights are missing (they are named)."""
    from transformers import AutoConfig, AutoModelForAudioClassification

    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
        if config.model_type == "ser":
            return SerForAudioClassification.from_pretrained(name_or_path)
        load = AutoModelForAudioClassification.from_pretrained
        model, info = load_safetensors(load, name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise SerError(one_line(error)) from None
    if problem := incomplete(name_or_path, info):
        raise SerError(f"{name_or_path}: {problem}")
    return from_stock(model)


def incomplete(name: str, info: Mapping[str, Any]) -> str | None:
    """Why a model would answer at random, by `from_pretrained`'s loading info, and what to do; None if it would not."""
    missing = sorted(info["missing_keys"])
    if not missing:
        return None
    foreign = any(key.startswith("classifier.dense.") for key in info["unexpected_keys"])  # soxan's head, audEERING's
    advice = f"its head is another: `ser-hf convert {name} NEW_FOLDER` makes it ours, then name the new folder"
    advice = advice if foreign else "give a fine-tuned checkpoint or train one"
    return f"incomplete checkpoint, the weights {', '.join(missing[:4])} are missing; {advice}"


def forget_paths(model: torch.nn.Module) -> None:
    """Remove the names of checkpoints from a model's configurations: they may be local paths."""
    config = getattr(model, "config", None)
    for one in [config, *(getattr(config, name) for name in config.sub_configs)] if config else ():
        one._name_or_path = ""
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.base_model_name_or_path = None


def save_model(
    model: PreTrainedModel, processor: FeatureExtractionMixin | PreTrainedTokenizerBase | ProcessorMixin, folder: Path
) -> type[PreTrainedModel]:
    """Save a model and its processor for `pipeline(task, model=folder)`; returns its class, a stock one if equal."""
    folder.mkdir(parents=True, exist_ok=True)
    stock = isinstance(model, SerForAudioClassification) and stock_class(model.config)
    published = to_stock(model) if stock else model
    forget_paths(published)
    with saving(folder) as staging:
        published.save_pretrained(staging)
        processor.save_pretrained(staging)
    return type(published)
