"""What is known of a run, as data: where its utterances came from, how they were split, what command repeats it."""

import json
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import write
from .arguments import NOT_IN_RUN_YAML
from .systems import CHECKPOINTS, training_defaults, without_folders


@dataclass(frozen=True)
class Setup:
    """A run's data and flags, fixed before training.

    Args:
        recipe: The recipe's file stem.
        given: All flags that were set (`args.parse`).
        splits: `DatasetDict` of train, validation, test.
        report: `CorpusReport` of the tested corpus.
        mixed: What other corpora added to train (`preprocessing.Mixed`), or None.
        protocol, fold: The `Protocol` and its fold.
        push_to: Repository to push to, or None.
        trained_on: What `lineage.check_checkpoints` returned.
    """

    recipe: str
    given: dict[str, Any]
    splits: Any
    report: Any
    mixed: Any
    protocol: Any
    fold: int
    push_to: str | None = None
    trained_on: Sequence[dict] = ()

    def corpus_lines(self) -> list[str]:
        """What was found of the corpora, for people."""
        return self.report.lines() + (self.mixed.lines() if self.mixed else [])

    def facts(self) -> dict:
        """The part of `results.json` that was known before training."""
        card, protocol = self.report.card, self.protocol
        return {
            "ser_hf": __version__,
            "commit": commit(),
            "recipe": self.recipe,
            "command": command(self.recipe, self.given),
            "corpus": {
                **self.report.as_dict(),
                "lines": self.corpus_lines(),
                "title": card.title,
                "licence": card.licence,
                "citation": card.citation,
                "notes": card.notes,
                "languages": list(card.languages),
            },
            "mixed": self.mixed.counts if self.mixed else None,
            "protocol": {
                "name": protocol.name,
                "source": protocol.source,
                "fold": self.fold,
                "speaker_independent": protocol.speaker_independent,
                "warning": protocol.warning,
            },
            "splits": describe(self.splits),
            "trained_on": list(self.trained_on),
        }


def describe(splits) -> dict:
    """Utterances, speakers and hours of each part."""
    return {
        part: {
            "utterances": len(rows),
            "speakers": len(set(rows["speaker"]) - {None}),
            "hours": round(sum(seconds or 0.0 for seconds in rows["duration"]) / 3600, 4),
        }
        for part, rows in splits.items()
    }


# What is said of a model beside its encoders, by the type of its configuration and from its fields.
DETAILS = {
    "ser": "{pooling} pooling, {head} head",
    "ser_fusion": "{fusion} fusion of {pooling}-pooled audio and {text_pooling}-pooled text",
    "ser_spectrogram": "{arch} with {weights} weights",
}


def describe_model(flags: dict, model, saved: type, task: str) -> dict:
    """The model's part of `results.json`; a local checkpoint is named by its folder's last part alone.

    Args:
        flags: The model's, as they were read.
        model: As it was trained.
        saved: The class it was saved as.
        task: The pipeline's that loads it.
    """
    named = [str(flags[flag]) for flag in CHECKPOINTS if flags.get(flag)]
    published = [name for name in named if not Path(name).exists()]
    random = flags.get("model_type") or model.config.model_type
    details = DETAILS.get(model.config.model_type, "its own head")
    if flags.get("lora_r"):
        details += f", fine-tuned by LoRA of rank {flags['lora_r']} (merged; the adapter alone is in adapter/)"
    by_speaker = {"speaker_norm": True} if flags.get("speaker_norm") else {}
    if by_speaker:
        details += ", relative to each speaker's mean spectrum"
    return {
        "class": saved.__name__,
        "stock": saved.__module__.startswith("transformers."),
        "task": task,
        "encoder": " + ".join(name if name in published else _called(Path(name)) for name in named)
        or f"random {random}",
        "published_encoders": published,
        "details": details.format(**model.config.to_dict()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **by_speaker,
    }


def _called(folder: Path) -> str:
    """How others call a checkpoint of this machine: what it was made of, if a run left it; else its folder's name."""
    try:
        results = json.loads((folder / "results.json").read_text())
        return f"{results['model']['encoder']} fine-tuned on {results['corpus']['corpus']}"
    except (OSError, ValueError, KeyError):
        return folder.name


def commit() -> str | None:
    """The checkout's commit, with `+` if it has changes; None for an installed package, also where that lies inside
    another repository."""
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
    """Versions of everything whose change could change a number."""
    packages = ("torch", "transformers", "datasets", "accelerate", "soundfile", "soxr", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def command(recipe: str, given: dict) -> str:
    """The command that repeats a run on another machine: no local folders."""
    words, defaults = ["accelerate", "launch", f"recipes/{recipe}.py"], training_defaults(recipe, given)
    for key, value in given.items():
        if key in NOT_IN_RUN_YAML or key == "data_dir" or defaults.get(key) == value:
            continue
        if key in (*CHECKPOINTS, "dataset"):
            value = without_folders(str(value))
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    # Every flag is written out; the corpus's own YAML must not add to them.
    return shlex.join([*words, "--config", "none"])


def write_flags(folder: Path, given: dict) -> None:
    """`run.yaml`: `--config run.yaml` repeats the run on this machine."""
    import yaml

    flags = {key: value for key, value in given.items() if key not in NOT_IN_RUN_YAML}
    write(folder / "run.yaml", yaml.safe_dump(flags, sort_keys=False, allow_unicode=True))
