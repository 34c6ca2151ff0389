"""Save, load and publish models: as a stock class where one computes the same, strictly, and by an allow-list."""

import json
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from torch import nn
from transformers import (
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ..errors import SerError, one_line
from ..evaluation.shift import TRAINING_DATA
from ..evaluation.tables import markdown_table, rows_of
from ..evaluation.tasks import TASKS
from ..files import local_path, saving, write
from ..models import SerConfig, SerForAudioClassification
from ..models.common import load_safetensors
from ..models.encoders import example, longest_clip
from .output import read_record
from .record import portable

# The files of a tokenizer that hold its vocabulary, where a path would be a token.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
# The files of a run that may be published. predictions.parquet may not: it holds the corpus's labels and ids.
PUBLISHED = ("README.md", "results.json", "run.yaml", "figures/*.png", *VOCABULARIES, "*.model")  # sentencepiece
PUBLISHED += ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PUBLISHED += ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
PUBLISHED += ("tokenizer_config.json", "special_tokens_map.json", TRAINING_DATA)
PUBLISHED += ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
# The files of an earlier run in a repository: any of these would be loaded with this one, or contradict it.
REPLACED = (*PUBLISHED, "*.safetensors", "*.py", "*.json")


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


# ---- trackers

# What W&B would send of this machine by itself: paths, the command line, code, what is printed.
PRIVATE = {"WANDB_X_DISABLE_META": "true", "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}
PRIVATE |= {"WANDB_CONSOLE": "off"}
# What a tracker gets of a finished run, beside its metrics.
TRACKED = ("README.md", "results.json", "run.yaml", "figures/*.png")


def is_tracker(callback: TrainerCallback) -> bool:
    return type(callback).__module__.startswith("transformers.integrations")


class Tracker:
    """The callback of a tracker that may fail. If it cannot start, the run ends with a SerError. If it fails later, it
    gets nothing more, which is said once, and the run goes on."""

    def __init__(self, callback: TrainerCallback):
        self.callback, self.failed = callback, False

    def __getattr__(self, event: str) -> Callable:  # `on_log` and the others
        return partial(self.give, getattr(self.callback, event), event)

    def give(self, call: Callable, event: str, *args, **kwargs) -> None:
        if self.failed or event == "on_predict":  # which calls all scores `test`, those of validation too
            return
        try:
            call(*args, **kwargs)
        except Exception as error:  # of whatever kind: the run does not depend on it
            flag = f"--report_to {type(self.callback).__name__.removesuffix('Callback').lower()}"
            why = one_line(error) or type(error).__name__
            if event == "on_train_begin":
                raise SerError(f"{flag}: cannot start ({why}); mend that, or leave it out") from error
            self.failed = True
            sys.stderr.write(f"{flag}: failed and gets nothing more, the run goes on ({why})\n")


def track(trainer: Trainer, folder: Path, results: dict) -> None:
    """Give the trackers of `--report_to` the test metrics; TensorBoard, W&B and Trackio also the figures, the table by
    label, and the files of `TRACKED` as they are published. What would name a local path stays here, which is said."""
    trackers = [one for one in trainer.callback_handler.callbacks if isinstance(one, Tracker)]
    for one in trackers:
        if isinstance(one.callback, TensorBoardCallback) and one.callback.logging_dir is None:  # nothing was trained
            one.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    trainer.log({f"test_{name}": value for name, value in results["test"]["metrics"].items() if value is not None})
    receivers = [one for one in trackers if type(one.callback) in TRACKERS]
    with tempfile.TemporaryDirectory() as copies:
        try:
            files = published(folder, trainer.args.run_name) if receivers else {}
        except SerError as error:
            sys.stderr.write(f"--report_to: figures and files are not tracked, {error}\n")
            return
        for name in [name for name in files if any(fnmatch(name, pattern) for pattern in TRACKED)]:
            content = files[name] if isinstance(files[name], bytes) else files[name].read_bytes()
            write(Path(copies) / name, content)
        table = rows_of(results["test"][TASKS[results["test"]["problem_type"]].table], "label")
        for one in receivers:
            one.give(TRACKERS[type(one.callback)], "end", one.callback, Path(copies), table, trainer.state.global_step)


def _to_tensorboard(callback: TensorBoardCallback, copies: Path, table: tuple, step: int) -> None:
    from matplotlib.image import imread

    for file in copies.glob("figures/*.png"):
        callback.tb_writer.add_image(f"test/{file.stem}", imread(file)[..., :3], step, dataformats="HWC")
    for name in (name for name in TRACKED if (copies / name).is_file()):
        text = (copies / name).read_text()
        callback.tb_writer.add_text(name, text if name.endswith(".md") else f"```\n{text}```", step)
    callback.tb_writer.add_text("test/by_label", markdown_table(*table), step)
    callback.on_train_end(None, None, None)  # closes the file


def _to_wandb(callback: WandbCallback, copies: Path, table: tuple, step: int) -> None:
    import wandb

    figures = {f"test/{file.stem}": wandb.Image(str(file)) for file in copies.glob("figures/*.png")}
    wandb.log(figures | {"test/by_label": wandb.Table(*table), "train/global_step": step})
    artifact = wandb.Artifact(f"results-{wandb.run.id}", type="results")
    artifact.add_dir(str(copies))
    wandb.log_artifact(artifact)
    wandb.finish()


def _to_trackio(callback: TrackioCallback, copies: Path, table: tuple, step: int) -> None:
    import trackio

    header, rows = table
    frame = pd.DataFrame(rows, columns=header)
    figures = {f"test/{file.stem}": trackio.Image(file) for file in copies.glob("figures/*.png")}
    trackio.log(figures | {"test/by_label": trackio.Table(dataframe=frame), "train/global_step": step})
    run = trackio.context_vars.current_run.get().name
    trackio.log_artifact(str(copies), name=re.sub(r"[^\w.-]+", "-", f"results-{run}"))
    trackio.finish()


TRACKERS = {TensorBoardCallback: _to_tensorboard, WandbCallback: _to_wandb, TrackioCallback: _to_trackio}


# ---- pushing


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub to push to."""

    id: str | None  # user/name
    private: bool = True
    revision: str | None = None  # the branch; main if None
    kind: str = "model"  # or "dataset", "space"


# The flag that makes a repository public, by the flag that names it.
PUBLIC_BY = {"--hub_model_id": "--hub_private_repo false", "--repo_id": "--public"}


def destination(training: TrainingArguments, overrides: Mapping[str, Any]) -> Repository | None:
    """The repository of `--push_to_hub`, or None; `overrides`: all flags set. SerError: a flag that does nothing."""
    flags = [name for name in overrides if name.startswith("hub_")]
    if flags and "push_to_hub" not in overrides:
        raise SerError(f"--{flags[0]} {overrides[flags[0]]}: does nothing without --push_to_hub true; leave it out")
    for flag in ("hub_strategy", "hub_always_push"):
        if training.push_to_hub and overrides.get(flag) not in (None, False, "end"):
            raise SerError(f"--{flag} {overrides[flag]}: a run is pushed once, when it is finished; leave it out")
    if not training.push_to_hub:
        return None
    return Repository(training.hub_model_id, training.hub_private_repo is not False, training.hub_revision)


def claim(repository: Repository, flag: str) -> str:
    """Create the repository and its branch where they do not exist, before anything slow; returns its address. `flag`
    named it. Raises SerError: not `user/name`; the Hub refuses or cannot be reached; the repository exists and is
    public instead of private, or the reverse."""
    name, kind = repository.id, repository.kind
    if not name:
        raise SerError(f"{flag} is missing: name the repository, user/name")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise SerError(f"{flag} {name}: must be user/name")
    with hub_requests(f"{flag} {name}"):
        api = HfApi()
        api.whoami()
        sdk = "gradio" if kind == "space" else None
        url = api.create_repo(name, repo_type=kind, space_sdk=sdk, private=repository.private, exist_ok=True)
        private = api.repo_info(name, repo_type=kind).private
        if private == repository.private and repository.revision:
            api.create_branch(name, repo_type=kind, branch=repository.revision, exist_ok=True)
    if private and not repository.private:
        choice = f"make it public on the Hub, or leave {PUBLIC_BY[flag]} out"
        raise SerError(f"{flag} {name}: exists and is private; {choice}")
    if repository.private and not private:
        choice = f"choose another, make it private on the Hub, or give {PUBLIC_BY[flag]}"
        raise SerError(f"{flag} {name}: exists and is public; {choice}")
    return str(url)


@contextmanager
def hub_requests(what: str) -> Iterator[None]:
    """Requests to the Hub. Raises SerError, whatever the client raises: `what`, the reason and what to do."""
    try:
        yield
    except SerError:
        raise
    except Exception as error:  # HTTP errors, broken connections, uploads out of retries: of a dozen classes
        raise SerError(f"{what}: {refusal(error)}") from None


def refusal(error: BaseException) -> str:
    """Why the Hub did not do what it was asked to, by the status of its answer, and what to do."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    answer = next((found for one in chain if (found := getattr(one, "response", None)) is not None), None)
    status, said = getattr(answer, "status_code", None), reason(error)
    if isinstance(error, LocalTokenNotFoundError):
        status = 401
    if status == 429:
        wait = answer.headers.get("Retry-After")
        return f"too many requests ({said}); try again in {f'{wait} s' if wait else 'some minutes'}"
    if status is None:
        return f"the Hub cannot be reached ({said}); check the connection, then try again"
    if status >= 500:
        return f"the Hub has failed ({said}); try again later, https://status.huggingface.co says how it is"
    advice = {
        401: "the Hub does not accept this machine ({}); run `hf auth login`, or set HF_TOKEN",
        403: "your token may not do this ({}); use a namespace and a token that may write",
        409: "the repository is being changed by someone else ({}); try again",
        412: "the repository was changed by someone else meanwhile ({}); try again",
    }
    return advice.get(status, "the Hub refuses it ({})").format(said)


def reason(error: BaseException) -> str:
    """The first line of a client's error.

    >>> reason(ValueError("no\\nmore")), reason(ValueError())
    ('no', 'ValueError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def published_files(folder: Path) -> list[str]:
    """The files of a run that a push takes: those of `PUBLISHED`, and the code that its configurations name."""
    names = {str(file.relative_to(folder)) for pattern in PUBLISHED for file in folder.glob(pattern)}
    configs = "".join((folder / name).read_text() for name in names if name.endswith("config.json"))
    for module in {f"{module}.py" for module in re.findall(r'"(\w+)\.\w+"', configs)}:
        if (folder / module).is_file():
            names |= {module, *(Path(file).name for file in get_relative_import_files(str(folder / module)))}
    return sorted(name for name in names if (folder / name).is_file())


def published(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """What a push of a run's folder to `repo_id` consists of: names, and files or contents. Files that the run has not
    written are left out; `run.yaml` is that of `record.portable`, and the card names `repo_id`.
    Raises SerError: no finished run, or a local path in a text."""
    if not (folder / "results.json").is_file():
        raise SerError(f"{folder}: holds no finished run (results.json); name the --output_dir of one")
    record = read_record(folder)  # of a run that an earlier version made there is none
    names = [name for name in published_files(folder) if record is None or name in record["files"]]
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    flags = yaml.safe_load((folder / "run.yaml").read_text()) if "run.yaml" in files else {}
    if flags:
        files["run.yaml"] = yaml.safe_dump(portable(flags), sort_keys=False, allow_unicode=True).encode()
    if "README.md" in files:
        text = (folder / "README.md").read_text()
        former = ModelCard(text).data.model_name or "MODEL"
        text = text.replace(f'"{former}"', f'"{repo_id}"')  # in the code that uses it
        files["README.md"] = text.replace(f"- name: {former}\n", f"- name: {repo_id}\n", 1).encode()
    for name, content in files.items():
        if name.endswith((".md", ".yaml", ".json")) and name not in VOCABULARIES:
            text = (content if isinstance(content, bytes) else content.read_bytes()).decode(errors="replace")
            # Markdown's escapes are no part of a path.
            text = json.loads(text) if name.endswith(".json") else re.sub(r"\\([\W_])", r"\1", text)
            check_public(name, text, (folder, flags.get("data_dir")))
    return files


def check_public(name: str, content: Any, folders: Iterable[str | Path | None] = ()) -> None:
    """Raises SerError if a text, or one in a JSON value, holds a path of this machine, such as one in `folders`. `name`
    is the file's."""
    parts = [*content, *content.values()] if isinstance(content, Mapping) else content
    if isinstance(content, str):
        if path := local_path(content, folders):
            raise SerError(f"{name} names the local path {path}: not pushed")
    elif isinstance(parts, list | tuple):
        for part in parts:
            check_public(name, part, folders)


def push_model(folder: Path, repository: Repository, flag: str = "--repo_id") -> str:
    """Publish a finished run as one commit, which also deletes what an earlier run has left; returns the repository's
    address. `flag` named the repository. Raises SerError: as `published` and `claim`, or the Hub refuses the push."""
    return push_files(published(folder, repository.id), repository, REPLACED, "Model, card and results", flag)


def push_files(
    files: Mapping[str, Path | bytes], repository: Repository, replaced: Sequence[str], message: str, flag: str
) -> str:
    """Publish files as one commit, which deletes the others of the repository that have one of the patterns `replaced`;
    returns the repository's address. Raises SerError: as `claim`, or the Hub refuses the push."""
    url = claim(repository, flag)
    where = {"repo_id": repository.id, "revision": repository.revision, "repo_type": repository.kind}
    with hub_requests(f"{flag} {repository.id}"):
        api = HfApi()
        stale = {name for name in api.list_repo_files(**where) if any(fnmatch(name, one) for one in replaced)}
        changes = [CommitOperationAdd(name, content) for name, content in files.items()]
        changes += [CommitOperationDelete(name) for name in sorted(stale - files.keys())]
        api.create_commit(operations=changes, commit_message=message, **where)
    return url


def push_run(folder: Path, repository: Repository) -> str:
    """`push_model` at the end of a recipe; its SerError names the command that repeats it."""
    try:
        return push_model(folder, repository, "--hub_model_id")
    except SerError as error:
        words = ["ser-hf", "push", "model", str(folder), "--repo_id", repository.id]
        words += [] if repository.private else ["--public"]
        words += ["--revision", repository.revision] if repository.revision else []
        raise SerError(f"{error}; the run is saved, and this pushes it: {shlex.join(words)}") from None
