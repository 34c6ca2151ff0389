"""What is known of a run, as data: where its utterances came from, how they were split, what command repeats it."""

import platform
import shlex
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import __version__
from .args import NOT_IN_RUN_YAML, TRAINING_DEFAULTS
from .files import write


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
    """

    recipe: str
    given: dict[str, Any]
    splits: Any
    report: Any
    mixed: Any
    protocol: Any
    fold: int
    push_to: str | None = None

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
            },
            "splits": describe(self.splits),
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


def describe_model(given: dict, model, saved: str, stock: bool) -> dict:
    """The model's part of `results.json`; a local checkpoint is named by its folder's last part alone."""
    encoder = given.get("model_name_or_path") or "facebook/wav2vec2-base"
    local = Path(encoder).exists()
    random = given.get("model_type")
    return {
        "class": saved,
        "stock": stock,
        "encoder": f"random {random}" if random else Path(encoder).name if local else encoder,
        "pretrained": not local and not random,
        "pooling": model.config.pooling,
        "head": model.config.head,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def commit() -> str | None:
    """The checkout's commit, with `+` if it has changes; None for an installed package."""
    git = ["git", "-C", str(Path(__file__).parent)]
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
    words = ["accelerate", "launch", f"recipes/{recipe}.py"]
    for key, value in given.items():
        if key in NOT_IN_RUN_YAML or key == "data_dir" or TRAINING_DEFAULTS.get(key) == value:
            continue
        if key in ("model_name_or_path", "dataset") and Path(str(value)).exists():
            value = Path(str(value)).name
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    # Every flag is written out; the corpus's own YAML must not add to them.
    return shlex.join([*words, "--config", "none"])


def write_flags(folder: Path, given: dict) -> None:
    """`run.yaml`: `--config run.yaml` repeats the run on this machine."""
    import yaml

    flags = {key: value for key, value in given.items() if key not in NOT_IN_RUN_YAML}
    write(folder / "run.yaml", yaml.safe_dump(flags, sort_keys=False, allow_unicode=True))
