"""Save, load and publish models: as a stock class where one computes the same, strictly, without local paths."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import torch
import yaml
from huggingface_hub import HfApi
from transformers import (
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from ..errors import SerError
from ..models import SerConfig, SerForAudioClassification
from ..models.encoders import example, longest_clip
from .record import without_folders
from .settings import MAYBE_CHECKPOINTS

# The files of a run that may be published. predictions.parquet may not: it holds the corpus's labels and ids.
PUBLISHED = ("*.safetensors", "*.json", "*.py", "README.md", "run.yaml", "figures/*.png", "vocab.txt", "merges.txt")
PUBLISHED += ("*.model", "adapter/*.safetensors", "adapter/*.json")  # sentencepiece; LoRA
# Keys of run.yaml that name this machine's folders.
LOCAL_KEYS = ("data_dir", "logging_dir")


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


def _stock_names(stock: PreTrainedModel) -> dict[str, str]:
    """Our names of modules to the stock class's, such as `encoder` to `wav2vec2`."""
    prefix = stock.base_model_prefix if hasattr(stock, stock.base_model_prefix) else "encoder"  # Whisper's
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
    for name in ("id2label", "label2id", "problem_type", "thresholds"):
        if (value := getattr(model.config, name, None)) is not None:
            setattr(config, name, value)
    stock = kind(config)
    stock.load_state_dict(_renamed(_unscaled(model.state_dict()), _stock_names(stock)))
    _same_logits(model, stock)
    return stock


def from_stock(stock: PreTrainedModel) -> SerForAudioClassification:
    """A stock sequence classification model as ours (mean pooling, linear head)."""
    head = {"pooling": "mean", "head": "linear", "head_size": stock.config.classifier_proj_size}
    head |= {"layer_mix": "sum" if stock.config.use_weighted_layer_sum else "last"}
    head |= {"context": "full"} if longest_clip(stock.config) else {}
    head |= {name: getattr(stock.config, name) for name in ("id2label", "label2id", "problem_type")}
    model = SerForAudioClassification(SerConfig(audio_config=stock.config, **head))
    ours = {theirs: name for name, theirs in _stock_names(stock).items()}
    model.load_state_dict(_renamed(stock.state_dict(), ours))
    return model.eval()


@torch.no_grad()
def _same_logits(ours, stock, tolerance: float = 1e-4) -> None:
    values, modes = example(ours.config.audio_config), (ours.training, stock.training)
    ours.eval(), stock.eval()
    difference = float((ours.cpu()(values).logits - stock(values).logits).abs().max())
    ours.train(modes[0]), stock.train(modes[1])
    if not difference < tolerance:
        raise ValueError(f"the stock class's logits differ by {difference:.2g}: not published as stock")


def load_finetuned(name_or_path: str, trust_remote_code: bool = False) -> SerForAudioClassification:
    """A fine-tuned model with its head, ours or stock, as ours.
    Raises SerError: not found, no audio classifier, or weights are missing (they are named)."""
    from transformers import AutoConfig, AutoModelForAudioClassification

    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
        if config.model_type == "ser":
            return SerForAudioClassification.from_pretrained(name_or_path)
        options = {"output_loading_info": True, "trust_remote_code": trust_remote_code}
        model, info = AutoModelForAudioClassification.from_pretrained(name_or_path, **options)
    except (OSError, ValueError) as error:
        raise SerError(" ".join(str(error).split())) from None
    if missing := sorted(info["missing_keys"]):
        why = f"the head's weights {', '.join(missing[:4])} are missing, it would answer at random"
        raise SerError(f"{name_or_path}: {why}; give a fine-tuned checkpoint or train one")
    return from_stock(model)


def save_model(
    model: PreTrainedModel, processor: FeatureExtractionMixin | PreTrainedTokenizerBase | ProcessorMixin, folder: Path
) -> type[PreTrainedModel]:
    """Save a model and its processor so that `pipeline(task, model=folder)` loads it; returns the class saved: a stock
    one where one computes the same. Files are written elsewhere and moved: never is there half a model."""
    folder.mkdir(parents=True, exist_ok=True)
    stock = isinstance(model, SerForAudioClassification) and stock_class(model.config)
    published = to_stock(model) if stock else model
    for config in (published.config, *(getattr(published.config, name) for name in published.config.sub_configs)):
        config._name_or_path = ""  # a local path has no place in a model
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
        published.save_pretrained(staging)
        processor.save_pretrained(staging)
        for file in Path(staging).iterdir():
            os.replace(file, folder / file.name)
    return type(published)


def login(repo_id: str | None, flag: str) -> str:
    """The repository to push to, once the Hub has accepted this machine's token; before anything slow.
    Raises SerError: names `flag`: not `user/name`, no or wrong token, Hub not reachable."""
    if not repo_id:
        raise SerError(f"{flag} is missing: name the repository, user/name")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise SerError(f"{flag} {repo_id}: must be user/name")
    try:
        HfApi().whoami()
    except Exception as error:  # whatever the client raises: the push would fail after the training
        why = f"the Hub does not accept this machine ({reason(error)})"
        raise SerError(f"{flag} {repo_id}: {why}; run `hf auth login`") from None
    return repo_id


def reason(error: Exception) -> str:
    """The first line of a client's error.

    >>> reason(ValueError("no\\nmore")), reason(ValueError())
    ('no', 'ValueError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def push_folder(folder: Path, repo_id: str, private: bool = True) -> str:
    """Publish the files of `PUBLISHED` of a run's folder; returns the repository's address.
    Raises SerError: a file to be pushed names a local folder; the repository is public and should be private."""
    with tempfile.TemporaryDirectory() as staging:
        for pattern in PUBLISHED:
            for file in folder.glob(pattern):
                target = Path(staging) / file.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)
        run_yaml = Path(staging) / "run.yaml"
        if run_yaml.exists():
            named = (*MAYBE_CHECKPOINTS, "dataset")
            flags = {
                key: without_folders(str(value)) if key in named else value
                for key, value in yaml.safe_load(run_yaml.read_text()).items()
                if key not in LOCAL_KEYS
            }
            run_yaml.write_text(yaml.safe_dump(flags, sort_keys=False))
        _refuse_local_names(Path(staging), folder)
        api = HfApi()
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise SerError(f"{repo_id} exists and is public: push elsewhere, or give --hub_private_repo false")
        stale = ["*.safetensors", "*.py", "*.json"]  # an earlier model's files would be loaded with this
        message = "Model, card and results"
        api.upload_folder(folder_path=staging, repo_id=repo_id, commit_message=message, delete_patterns=stale)
    return str(url)


def _refuse_local_names(staging: Path, folder: Path) -> None:
    paths = {str(Path.home()), str(folder.absolute()), str(Path.cwd())} - {"/"}
    paths = {"/root/" if path == "/root" else path for path in paths}  # "/root" alone may begin a word
    for file in staging.rglob("*"):
        if file.suffix in (".json", ".py", ".md", ".yaml"):
            text = file.read_text(errors="replace")
            for path in paths:
                if path in text or json.dumps(path)[1:-1] in text:
                    raise SerError(f"{file.name} names the local path {path}: not pushed")
