"""A run as data: the corpus, the split, the model, the command that repeats it."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import yaml
from datasets import DatasetDict
from huggingface_hub import ModelCard
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments

from .. import __version__
from ..data.corpus import CorpusReport
from ..data.mixing import Mixed
from ..data.splits import Protocol
from ..files import is_folder, optional_file, write
from .arguments import NOT_IN_RUN_YAML
from .flag_checks import word
from .settings import PUBLIC_SOURCES, PUBLIC_TEXTS, System, choice_flags

if TYPE_CHECKING:
    from .hub import Repository


@dataclass(frozen=True)
class Setup:
    """A run's data, fixed before training."""

    recipe: str  # the stem of the recipe's file
    system: System
    overrides: Mapping[str, Any]  # all flags that were set (`Settings.overrides`)
    splits: DatasetDict
    report: CorpusReport  # on the tested corpus
    mixed: Mixed | None  # utterances of other corpora in train
    protocol: Protocol
    fold: int
    push_to: "Repository | None" = None
    trained_on: Sequence[dict] = ()  # as `provenance.check_checkpoints` returns it

    def corpus_lines(self) -> list[str]:
        """Lines on the corpora and their missing files."""
        return self.report.lines() + (self.mixed.lines() if self.mixed else [])

    def split_line(self) -> str:
        """A line on the protocol and the size of its parts."""
        parts = describe(self.splits).items()
        sizes = ", ".join(f"{part} {size['utterances']} ({size['speakers']} speakers)" for part, size in parts)
        warning = self.protocol.warning and f"; {self.protocol.warning}"
        return f"{self.protocol.name} fold {self.fold}: {sizes}{warning}"

    def about(self) -> dict[str, Any]:
        """What a tracker's list of runs should show: the flags that may be published, and the data."""
        report = self.report
        names = {"recipe": self.recipe, "corpus": report.corpus, "labels": report.labels}
        return portable(self.overrides) | names | {"protocol": self.protocol.name, "fold": self.fold}

    def facts(self) -> dict[str, Any]:
        """The part of `results.json` that is known before training."""
        card, protocol = self.report.card, self.protocol
        described = {name: getattr(card, name) for name in ("title", "licence", "citation", "notes")}
        split = {name: getattr(protocol, name) for name in ("name", "source", "speaker_independent", "warning")}
        described |= {"lines": self.corpus_lines(), "languages": list(card.languages)}
        return {
            "ser_hf": __version__,
            "commit": commit(),
            "recipe": self.recipe,
            "command": command(self.recipe, self.system, self.overrides),
            "corpus": self.report.as_dict() | described,
            "mixed": self.mixed.counts if self.mixed else None,
            "protocol": {**split, "fold": self.fold},
            "splits": describe(self.splits),
            "trained_on": list(self.trained_on),
        }


class TrackedArguments(TrainingArguments):
    """TrainingArguments for trackers, which keep `to_dict`: with a run's data, and without paths of this machine."""

    about: Mapping[str, Any] = MappingProxyType({})

    def to_dict(self) -> dict[str, Any]:
        return portable(super().to_dict()) | {**self.about}


def describe(splits: DatasetDict) -> dict[str, dict]:
    """Utterances, speakers and hours of each part."""
    return {
        part: {
            "utterances": len(rows),
            "speakers": len(set(rows["speaker"][:]) - {None}),
            "hours": round(sum(seconds or 0.0 for seconds in rows["duration"][:]) / 3600, 4),
        }
        for part, rows in splits.items()
    }


# The description of a model beside its encoders, by its model type and from the fields of its configuration.
DETAILS = {
    "ser": "{pooling} pooling, {head} head",
    "ser_fusion": "{fusion} fusion of {pooling}-pooled audio and {text_pooling}-pooled text",
    "ser_spectrogram": "{arch} with {weights} weights",
    "ser_functionals": "a linear classifier ({classifier}) of standardised features",
}
# What speaker-normalised features are relative to, by the model type.
RELATIVE_TO = {"ser": "mean", "ser_spectrogram": "mean spectrum", "ser_functionals": "mean and standard deviation"}


def describe_model(
    model: PreTrainedModel,
    saved: type,  # the class of the saved model
    task: str,  # of its pipeline
    checkpoints: Sequence[str] = (),  # those it was made from
    lora_rank: int = 0,  # 0 without adapters
    speaker_normalised: bool = False,
) -> dict[str, Any]:
    """The model's part of `results.json`."""
    published = [name for name in checkpoints if not is_folder(name)]
    encoder = " + ".join(name if name in published else _public_name(Path(name)) for name in checkpoints)
    base = getattr(model.config, "audio_config", None) or model.config
    functionals = getattr(base, "feature_set", None)
    start = f"{functionals} functionals of openSMILE" if functionals else f"random {base.model_type}"
    details = DETAILS.get(model.config.model_type, "its own head").format(**model.config.to_dict())
    if model.config.model_type == "ser":
        details += _reading(model.config)
    if lora_rank:
        details += f", fine-tuned by LoRA of rank {lora_rank} (merged; the adapter alone is in adapter/)"
    estimated = bool(getattr(model.config, "speaker_dims", 0))
    if speaker_normalised:
        speaker = "estimated speaker" if estimated else "speaker"
        details += f", features relative to each {speaker}'s {RELATIVE_TO[model.config.model_type]}"
    stock = saved.__module__.startswith("transformers.")
    # Where the adapter loads on the published class, and anyone has what it was trained from.
    loads = lora_rank and published == list(checkpoints) and not (stock and getattr(base, "use_weighted_layer_sum", 0))
    return {
        "class": saved.__name__,
        "stock": stock,
        **({"adapter_of": published} if loads and published else {}),
        "task": task,
        "encoder": encoder or start,
        "licences": [licence_of(name) for name in checkpoints] or ([] if start.startswith("random ") else [None]),
        "published_encoders": published,
        "details": details,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **({"speaker_norm": "estimated" if estimated else True} if speaker_normalised else {}),
    }


def licence_of(checkpoint: str) -> str | None:
    """The licence that the card of a checkpoint names, a folder's or one on the Hub; None if there is no such card."""
    try:
        card = optional_file(checkpoint, "README.md")
        licence = ModelCard.load(card).data.license if card else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return licence if isinstance(licence, str) and licence not in ("other", "unknown") else None


def _reading(config: PreTrainedConfig) -> str:
    """What the head reads, where it is not the last layer of a trained encoder on the clip alone."""
    parts = []
    if config.layer_mix != "last":
        layers = "all layers" if config.layers is None else f"layers {', '.join(map(str, config.layers))}"
        parts.append({"sum": f"learned sum of {layers}", "concat": f"{layers} side by side"}[config.layer_mix])
    if config.context == "full":
        parts.append("clips padded to the encoder's full length")
    if config.standardise:
        parts.append("frozen encoder (a probe)")
    return "".join(f", {part}" for part in parts)


def _public_name(folder: Path) -> str:
    """A local checkpoint for the reader of a report: its encoder and corpus if known, else the folder's name."""
    try:
        results = json.loads((folder / "results.json").read_text())
        return f"{results['model']['encoder']} fine-tuned on {results['corpus']['corpus']}"
    except (OSError, ValueError, KeyError):
        return folder.name


def public_source(name: str) -> str:
    """The value of a flag of `PUBLIC_SOURCES` for others: of a folder the last part; the last two of a fold's, whose
    own says little. Names of corpora and of repositories on the Hub, and corpora joined by `+`, stay.

    >>> public_source("facebook/wav2vec2-base"), public_source("runs/x_cv/fold{fold}_seed{seed}")
    ('facebook/wav2vec2-base', 'x_cv/fold{fold}_seed{seed}')
    >>> public_source("ravdess+/data/calls+me/mine")
    'ravdess+calls+me/mine'
    """
    if "+" in name and not os.path.isdir(name):
        return "+".join(map(public_source, name.split("+")))
    path = Path(os.path.abspath(os.path.expanduser(name)))
    return ("/".join(path.parts[-2:]) if "{" in path.name else path.name) if is_folder(name) else name


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for others, by an allow-list of flags: without those of one machine or account, folders by their last
    part.

    >>> portable({"learning_rate": 0.001, "data_dir": "/a", "deepspeed": "a.json", "text_model": "/a/x_cv/fold{fold}"})
    {'learning_rate': 0.001, 'text_model': 'x_cv/fold{fold}'}
    >>> portable({"config_overrides": "{" * 300}) == {"config_overrides": "{" * 300}
    True
    """
    texts = {*PUBLIC_TEXTS, *choice_flags()}

    def is_public(name: str, value: Any) -> bool:
        plain = all(isinstance(item, bool | int | float) for item in (value if isinstance(value, list) else [value]))
        return name not in NOT_IN_RUN_YAML and not name.startswith("hub_") and (plain or name in texts)

    return {
        name: public_source(value) if name in PUBLIC_SOURCES else value
        for name, value in settings.items()
        if value is not None and (name in PUBLIC_SOURCES or is_public(name, value))
    }


def commit() -> str | None:
    """The checkout's commit, with `+` if it has changes; None for an installed package."""
    repository = Path(__file__).parents[3]
    if not (repository / ".git").exists():
        return None
    git = ["git", "-C", str(repository)]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.strip() + ("+" if changed else "")


def versions() -> dict[str, str]:
    """Versions of the packages that can change a figure; openSMILE's where it is used."""
    packages = ("torch", "transformers", "datasets", "accelerate", "soundfile", "soxr", "numpy", "scikit-learn")
    packages += ("opensmile",) if "opensmile" in sys.modules else ()
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def machine(cpu: bool = False) -> dict[str, Any]:
    """What a training's time depends on: processor, usable cores, threads per process, accelerator (not with `cpu`)."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() and not cpu else None,
    }


def command(recipe: str, system: System, overrides: Mapping[str, Any], launcher: str = "accelerate launch") -> str:
    """The command that repeats a run on another machine, without local folders."""
    words = [*launcher.split(), f"recipes/{recipe}.py"]
    for key, value in portable(overrides).items():
        if system.training_defaults.get(key) == value:
            continue
        words += [f"--{key}", *(map(word, value) if isinstance(value, list) else [word(value)])]
    # Every flag is written out; the corpus's own YAML must not add to them.
    return shlex.join([*words, "--config", "none"])


def write_flags(folder: Path, overrides: Mapping[str, Any]) -> None:
    """`run.yaml`: `--config run.yaml` repeats the run on this machine."""
    flags = {key: value for key, value in overrides.items() if key not in NOT_IN_RUN_YAML}
    write(folder / "run.yaml", yaml.safe_dump(flags, sort_keys=False, allow_unicode=True))
