"""Flags of a recipe, read once: from the command line, before a YAML (`flag: value`), before this project's defaults.

Nothing here imports torch before it is needed: `--help` answers at once.
"""

import argparse
import json
import math
import operator
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import SerError
from . import settings
from .settings import CHECKPOINTS, MAYBE_CHECKPOINTS, Settings, System

# Never in run.yaml: they belong to this machine, are secret, or are not part of the computation.
NOT_IN_RUN_YAML = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub", "hub_token", "config")


def parse(system: System, doc: str, argv: list[str] | None = None) -> Settings:
    """The settings of a recipe by the command line `argv` (this process's if None); its docstring opens `--help`.
    Raises SerError: unknown flag, YAML key or value (suggests the nearest), or a flag that would do nothing."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(help_text(system, doc))
        raise SystemExit(0)
    from transformers import TrainingArguments

    values, overrides = read(system, argv)
    if not values.output_dir:
        values.output_dir = f"runs/{run_name(values, system)}_fold{values.fold}_seed{values.seed}"
    for flag in set(MAYBE_CHECKPOINTS) & vars(values).keys():  # a fold's encoder was trained on that fold
        name = getattr(values, flag)
        setattr(values, flag, name and name.replace("{fold}", str(values.fold)).replace("{seed}", str(values.seed)))
    concerns = {name: build(kind, values) for name, kind in _concerns(system).items()}
    return system.settings(**concerns, training=build(TrainingArguments, values), overrides=overrides)


def read(system: System, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """All values of a recipe's flags, and those that were set by this project's defaults, the YAML or the command line.
    They are checked, except by `TrainingArguments` itself, which needs the device. Raises SerError as `parse`."""
    argv = spelled(argv)
    named = list(dict.fromkeys(word[2:].partition("=")[0] for word in argv if word.startswith("--")))
    parser = _parser(system)
    known = {action.dest for action in parser._actions}
    if "help_all" in named:
        parser.print_help()
        raise SystemExit(0)
    if foreign := [flag for flag in named if flag in _foreign(system)]:
        raise SerError(_unknown(foreign[0], known, system))
    path = _config_path(argv, system)
    yaml = _read_yaml(path, known - _foreign(system), system) if path else {}
    # A checkpoint on the command line replaces a YAML's random encoder, and the other way round.
    replaces = {"model_name_or_path": ("model_type", "config_overrides"), "model_type": ("model_name_or_path",)}
    replaced = [key for flag in named for key in replaces.get(flag, ())]
    yaml, words = {key: value for key, value in yaml.items() if key not in replaced}, []
    for key, value in yaml.items():
        words += [f"--{key}", *map(word, value)] if isinstance(value, list) else [f"--{key}={word(value)}"]
    values, rest = parser.parse_known_args([*words, *argv])
    if rest:
        flag = rest[0].partition("=")[0]
        if not flag.startswith("--"):
            raise SerError(f"{flag!r}: flags are written --name value")
        raise SerError(_unknown(flag[2:], known, system))
    defaults = dict(system.training_defaults)
    for (flag, value), others in system.defaults_with.items():
        defaults |= others if getattr(values, flag) == value else {}
    if system.checkpoint and not values.model_name_or_path and not values.model_type:
        defaults["model_name_or_path"] = system.checkpoint
    if path:
        defaults["config"] = path.name
    for name, value in defaults.items():
        if name not in yaml and name not in named:
            setattr(values, name, value)
    _check(values, system, named)
    return values, {name: getattr(values, name) for name in dict.fromkeys([*defaults, *yaml, *named])}


def spelled(argv: list[str]) -> list[str]:
    """Flags as the recipes spell them: `--data-dir` is `--data_dir`.

    >>> spelled(["--data-dir=a-b", "x-y"])
    ['--data_dir=a-b', 'x-y']
    """
    return [re.sub("^--[^=]*", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in argv]


def build(kind: type, values: argparse.Namespace) -> Any:
    """A dataclass from the values of its flags. Raises SerError if the dataclass refuses them."""
    try:
        return kind(**{name: value for name, value in vars(values).items() if name in kind.__dataclass_fields__})
    except (ValueError, TypeError, ImportError) as error:
        raise SerError(" ".join(str(error).split())) from None


def run_name(values: argparse.Namespace, system: System) -> str:
    """The first part of the name of a run's folder: the corpus's YAML, else corpus and system."""
    corpus, config = Path(values.dataset).name, Path(str(values.config)).stem
    return config if config.startswith(f"{corpus.partition('+')[0]}_") else f"{corpus}_{system.name}"


# ---- the parser


def _concerns(system: System) -> dict[str, type]:
    """The dataclasses of a system's settings by name, without `TrainingArguments`."""
    from ..data.augmentation import Augmentation  # loads NumPy

    types = get_type_hints(system.settings, localns={"Augmentation": Augmentation, "TrainingArguments": NoneType})
    return {name: kind for name, kind in types.items() if name not in ("training", "overrides")}


# A type in argparse's words, and in a user's.
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def _error(message: str) -> None:
    message = re.sub(r"^argument (--\w+)(/--[\w-]+)?", r"\1", message)  # without the second spelling, with dashes
    raise SerError(re.sub(r"invalid (\w+) value: (.*)", lambda m: f"{m[2]}: must be {KINDS.get(m[1], m[1])}", message))


def _parser(system: System) -> argparse.ArgumentParser:
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser(TrainingArguments, allow_abbrev=False, add_help=False)
    parser.error = _error
    for action in parser._actions:
        if action.dest in _foreign(system):
            action.help = argparse.SUPPRESS
    for kind in _concerns(system).values():
        _add_flags(parser, kind)
    return parser


def _foreign(system: System) -> set[str]:
    """The flags of TrainingArguments that would do nothing in a recipe."""
    from transformers import TrainingArguments

    names = set() if system.training_flags is None else {entry.name for entry in fields(TrainingArguments)}
    return names - {*(system.training_flags or ())}


def _add_flags(parser: argparse.ArgumentParser, kind: type) -> None:
    title = kind.__doc__.strip().splitlines()[0].rstrip(".")
    group, types = parser.add_argument_group(title), get_type_hints(kind)
    for entry in fields(kind):
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        annotation = types[entry.name]
        base = get_args(annotation)[0] if isinstance(annotation, UnionType) else annotation  # `base | None`
        options: dict[str, Any] = {"default": default, "choices": entry.metadata.get("choices")}
        if get_origin(base) is list:
            base, options["nargs"] = get_args(base)[0], "+"
        if base is bool:
            options |= {"nargs": "?", "const": True}
        options |= {"type": _converter(base, entry.metadata), "help": _help(entry.metadata)}
        group.add_argument(f"--{entry.name}", **options)


def _converter(base: type, limits: Mapping[str, Any]) -> Callable[[str], Any]:
    def convert(text: str):
        if base is bool:
            if text.lower() not in ("true", "false", "yes", "no", "1", "0", "t", "f", "y", "n"):
                raise ValueError
            return text.lower() in ("true", "yes", "1", "t", "y")
        value = base(text)
        if base is float and not math.isfinite(value):
            raise ValueError
        if not all(holds(value, limits[name]) for name, (_, holds) in RANGES.items() if name in limits):
            raise argparse.ArgumentTypeError(f"{text}: must be {_range(limits)}")
        return value

    convert.__name__ = base.__name__  # argparse names it in its message
    return convert


RANGES = {
    "least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "most": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def _range(limits: Mapping[str, Any]) -> str:
    return " and ".join(f"{words} {limits[name]:g}" for name, (words, _) in RANGES.items() if name in limits)


def _help(metadata: Mapping[str, Any]) -> str:
    text = metadata["help"]
    if allowed := _range(metadata):
        text = f"{text.rstrip('.')} ({allowed})."
    if "only_with" in metadata:
        flag, values = metadata["only_with"]
        text += f" {'Not' if None in values else 'Only'} with {_written(flag, values)}."
    return text.replace("%", "%%")


def _written(flag: str, values: tuple) -> str:
    return f"--{flag} {' or '.join(map(word, values))}" if values and None not in values else f"--{flag}"


# ---- YAML


def _config_path(argv: list[str], system: System) -> Path | None:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.error = _error
    parser.add_argument("--config")
    parser.add_argument("--dataset")
    asked = parser.parse_known_args(argv)[0]
    folder = recipes_folder() / "configs"
    if asked.config in (None, "none"):
        default = folder / f"{asked.dataset}_{system.name}.yaml"
        return default if asked.config is None and default.is_file() else None
    for path in (Path(asked.config), folder / asked.config, folder / f"{asked.config}.yaml"):
        if path.is_file():
            return path
    near = get_close_matches(Path(asked.config).stem, [file.stem for file in folder.glob("*.yaml")], n=1)
    hint = f"did you mean {near[0]}?" if near else f"give a path, or a file of {folder}"
    raise SerError(f"--config {asked.config}: no such file; {hint}")


def recipes_folder() -> Path:
    """The recipes' folder, in a checkout or an installed wheel."""
    checkout = Path(__file__).parents[3] / "recipes"
    return checkout if checkout.is_dir() else Path(__file__).parents[1] / "recipes"


def _read_yaml(path: Path, known: set[str], system: System) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {error.problem}" if mark else str(error).splitlines()[0]
        raise SerError(f"{path}: not YAML ({where}); write `flag: value` lines") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SerError(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None
    if not isinstance(loaded, dict):
        raise SerError(f"{path}: must hold `flag: value` lines, got {type(loaded).__name__}")
    for key in loaded:
        if key not in known:
            raise SerError(f"{path}: {_unknown(str(key), known, system)}")
    return {key: json.dumps(v) if isinstance(v, dict) else v for key, v in loaded.items() if v is not None and v != []}


def word(value: Any) -> str:
    """A flag's value as it is typed.

    >>> word(True), word(3e-5)
    ('true', '3e-05')
    """
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


def _unknown(flag: str, known: set[str], system: System) -> str:
    ours = {entry.name for kind in vars(settings).values() if is_dataclass(kind) for entry in fields(kind)}
    if flag in ours | _foreign(system):
        return f"--{flag}: the recipe of {system.name} does not use it; leave it out"
    known = known - _foreign(system)
    near = get_close_matches(flag, known, n=1) or [name for name in sorted(known) if flag in name]
    return f"unknown flag --{flag}: " + (f"did you mean --{near[0]}?" if near else "see --help_all")


# ---- checks of several flags


def _check(values: argparse.Namespace, system: System, named: list[str]) -> None:
    if not values.dataset:
        raise SerError("--dataset is missing: name a corpus, `ser-hf corpora` lists them")
    flags = vars(values)
    for entry in [entry for kind in _concerns(system).values() for entry in fields(kind) if entry.name in named]:
        flag, needed = entry.metadata.get("only_with", (None, ()))
        if flag in flags and (flags[flag] not in needed if needed else not flags[flag]):
            why = f"{'with' if None in needed else 'without'} {_written(flag, needed)}"
            raise SerError(f"--{entry.name} {_shown(flags[entry.name])}: does nothing {why}; leave it out")
    if not values.do_train and not any(flags.get(flag) for flag in CHECKPOINTS):
        raise SerError("--do_train false: there is nothing to score; name a trained model by --model_name_or_path")
    if flags.get("model_type") and values.model_name_or_path:
        raise SerError("--model_type trains a random encoder and --model_name_or_path a pretrained one: give one")
    if flags.get("config_overrides"):
        try:
            overrides = json.loads(values.config_overrides)
        except json.JSONDecodeError:
            overrides = None
        if not isinstance(overrides, dict):
            raise SerError(f'--config_overrides {values.config_overrides}: must be JSON such as {{"layerdrop": 0}}')
    if flags.get("window_seconds") and values.trim_db is not None:
        raise SerError(f"--trim_db {values.trim_db:g}: shifts the times of windows; give it or --window_seconds")
    if flags.get("classifier") and values.do_train and not values.validation_fraction:
        raise SerError(
            "--validation_fraction 0: the complexity of the classifier is chosen on validation; leave it out"
        )
    for frozen in ("freeze_encoders", "freeze_encoder"):
        if flags.get("lora_r") and flags.get(frozen) and values.do_train:
            raise SerError(f"--lora_r {values.lora_r}: adapts the encoders; it needs --{frozen} false")
    if flags.get("freeze_layers"):
        masks = [name for name in flags if name.startswith(("mask_time_", "mask_feature_"))]
        for name in ("freeze_feature_encoder", *masks):
            if name in named:
                why = "does nothing with --freeze_layers, which keeps the encoder's input as it is"
                raise SerError(f"--{name} {_shown(flags[name])}: {why}; leave it out")
    if flags.get("freeze_encoder") and values.do_train:
        from ..data.augmentation import Augmentation

        for name in (*Augmentation.__dataclass_fields__, "draw_augmentation", "gradient_checkpointing"):
            if name in named and flags.get(name):
                why = "does nothing with --freeze_encoder true, each clip is encoded once"
                raise SerError(f"--{name} {_shown(flags[name])}: {why}; leave it out")


def _shown(value: Any) -> str:
    return " ".join(map(word, value)) if isinstance(value, list) else word(value)


def help_text(system: System, doc: str) -> str:
    """`--help` of a recipe: its docstring and this project's flags, without importing transformers."""
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=6, width=120)
    parser.description = doc.strip()
    for kind in _concerns(system).values():
        _add_flags(parser, kind)
    for action in parser._actions:
        if action.default not in (None, "") and action.default is not False:
            action.help += f" (default: {_shown(action.default)})".replace("%", "%%")
        action.metavar = None if action.choices else "true|false" if action.const else ""
    changed = ", ".join(f"{key}={word(value)}" for key, value in system.training_defaults.items())
    flags = "every flag" if system.training_flags is None else ", ".join(f"--{name}" for name in system.training_flags)
    training = f"And {flags} of transformers.TrainingArguments (--help_all lists them), with these defaults of ours:"
    parser.epilog = f"{training}\n  {changed}\n"
    return parser.format_help()
