"""Flags of a recipe, read once: from the command line, before a YAML (`flag: value`), before this project's defaults.

Nothing here imports torch before it is needed: `--help` answers at once.
"""

import argparse
import json
import math
import operator
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import SerError, one_line
from . import settings
from .flag_checks import as_typed, check_flags, check_training, concerns_of, idle_flags, with_value, word
from .settings import MAYBE_CHECKPOINTS, OF_TOKENS, TRAINING_LIMITS, Settings, System

# Never in run.yaml: they belong to this machine, are secret, or are not part of the computation.
NOT_IN_RUN_YAML = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub", "config", "profile")


def parse(system: System, doc: str, argv: list[str] | None = None) -> Settings:
    """The settings of a recipe by the command line `argv` (this process's if None); its docstring opens `--help`.
    Raises SerError: unknown flag, YAML key or value (suggests the nearest), or a flag that would do nothing."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(help_text(system, doc))
        raise SystemExit(0)
    from .record import TrackedArguments

    values, overrides = read(system, argv)
    if not values.output_dir:
        values.output_dir = f"runs/{run_name(values, system)}_fold{values.fold}_seed{values.seed}"
    for flag in set(MAYBE_CHECKPOINTS) & vars(values).keys():  # a fold's encoder was trained on that fold
        name = getattr(values, flag)
        setattr(values, flag, name and name.replace("{fold}", str(values.fold)).replace("{seed}", str(values.seed)))
    concerns = {name: build(kind, values) for name, kind in concerns_of(system).items()}
    training = build(TrackedArguments, values)
    check_training(training, overrides)
    return system.settings(**concerns, training=training, overrides=overrides)


def read(system: System, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """All values of a recipe's flags, and those that were set by this project's defaults, the YAML or the command line.
    They are checked, except by `TrainingArguments` itself, which needs the device. Raises SerError as `parse`."""
    argv = take_token(spelled(argv))
    named = list(dict.fromkeys(word[2:].partition("=")[0] for word in argv if word.startswith("--")))
    parser, foreign = _parser(system), _foreign(system)
    known = {action.dest: action for action in parser._actions if action.dest not in foreign}
    if "help_all" in named:
        parser.print_help()
        raise SystemExit(0)
    for flag in named:
        if flag in foreign:
            raise SerError(_unknown(flag, known, system))
    asked, _ = parser.parse_known_args(argv)
    path = _config_path(asked.config, asked.dataset, system)
    yaml = _read_yaml(path, known, system) if path else {}
    if "hub_token" in yaml:
        raise SerError(f"{path}: hub_token: a secret does not belong into a file; give --hub_token, or set HF_TOKEN")
    # A checkpoint on the command line replaces a YAML's random encoder, and the other way round.
    replaces = {"model_name_or_path": ("model_type", "config_overrides"), "model_type": ("model_name_or_path",)}
    replaced = [key for flag in named for key in replaces.get(flag, ())]
    yaml = {key: value for key, value in yaml.items() if key not in replaced}

    def parsed() -> argparse.Namespace:
        words = []
        for key, value in yaml.items():
            words += [f"--{key}", *value] if isinstance(value, list) else [f"--{key}={value}"]
        values, rest = parser.parse_known_args([*words, *argv])
        if rest:
            flag = rest[0].partition("=")[0]
            if not flag.startswith("--"):
                raise SerError(f"{flag!r}: flags are written --name value")
            raise SerError(_unknown(flag[2:], known, system))
        return values

    values = parsed()
    # What a flag of the command line makes idle in the YAML is left out, as if the YAML did not have it.
    idle = {name for name, cause, _ in idle_flags(values, system, [*yaml]) if name not in named and cause in named}
    if idle:
        yaml = {key: value for key, value in yaml.items() if key not in idle}
        values = parsed()
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
    check_flags(values, system, [*yaml, *named])
    return values, {name: getattr(values, name) for name in dict.fromkeys([*defaults, *yaml, *named])}


def spelled(argv: list[str]) -> list[str]:
    """Flags as the recipes spell them: `--data-dir` is `--data_dir`.

    >>> spelled(["--data-dir=a-b", "x-y"])
    ['--data_dir=a-b', 'x-y']
    """
    return [re.sub("^--[^=]*", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in argv]


def take_token(argv: list[str]) -> list[str]:
    """A command line, as `spelled`, without `--hub_token`, which becomes HF_TOKEN of this process and its children: all
    requests to the Hub use it, and it stands in no file, message or command. SerError: it has no value."""
    words, rest = iter(argv), []
    for one in words:
        flag, _, value = one.partition("=")
        if flag != "--hub_token":
            rest.append(one)
        elif (token := value or next(words, "--")).startswith("--"):
            raise SerError("--hub_token: needs a value; leave it out to use that of `hf auth login`")
        else:
            os.environ["HF_TOKEN"] = token
    return rest


def build(kind: type, values: argparse.Namespace) -> Any:
    """A dataclass from the values of its flags. Raises SerError if the dataclass refuses them."""
    try:
        return kind(**{name: value for name, value in vars(values).items() if name in kind.__dataclass_fields__})
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise SerError(one_line(error)) from None


def run_name(values: argparse.Namespace, system: System) -> str:
    """The first part of the name of a run's folder: the corpus's YAML, else corpus and system."""
    corpus, config = Path(values.dataset).name, Path(str(values.config)).stem
    return config if config.startswith(f"{corpus.partition('+')[0]}_") else f"{corpus}_{system.name}"


# ---- the parser


NEGATIVE = re.compile(r"^-(\d|\.\d|inf$|nan$)")  # argparse's own takes -1e-5 for a flag
# A type in argparse's words, and in a user's.
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def readable(message: str) -> str:
    """A message of argparse in a user's words.

    >>> readable("argument --fold: invalid int value: '1.5'")
    "--fold: '1.5': must be a whole number"
    """
    message = re.sub(r"^argument (--\w+)(/--[\w-]+)?", r"\1", message)  # without the second spelling, with dashes
    return re.sub(r"invalid (\w+) value: (.*)", lambda m: f"{m[2]}: must be {KINDS.get(m[1], m[1])}", message)


def _error(message: str) -> None:
    raise SerError(readable(message))


def _parser(system: System) -> argparse.ArgumentParser:
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser(TrainingArguments, allow_abbrev=False, add_help=False)
    parser.error, parser._negative_number_matcher = _error, NEGATIVE
    for action in parser._actions:
        limits = TRAINING_LIMITS.get(action.dest, {})
        if action.type in (int, float, str):
            action.type = converter(action.type, limits)
        if limits:
            action.help = _help({"help": (action.help or "").replace("%%", "%"), **limits})
        if action.dest == "report_to":
            action.nargs = "+"  # which HfArgumentParser does not read from its type
        if action.dest in _foreign(system):
            action.help = argparse.SUPPRESS
    for kind in concerns_of(system).values():
        add_flags(parser, kind)
    return parser


def _foreign(system: System) -> set[str]:
    """The flags of TrainingArguments that would do nothing in a recipe."""
    from transformers import TrainingArguments

    foreign = set() if "text" in system.settings.__dataclass_fields__ else {*OF_TOKENS}
    if system.training_flags is not None:
        foreign |= {entry.name for entry in fields(TrainingArguments)} - {*system.training_flags}
    return foreign


def add_flags(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add the fields of a dataclass of flags as a group, which its docstring names."""
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
        options |= {"type": converter(base, entry.metadata), "help": _help(entry.metadata)}
        group.add_argument(f"--{entry.name}", **options)


def converter(base: type, limits: Mapping[str, Any]) -> Callable[[str], Any]:
    """The `type` of an argument for argparse: `base`, one of `KINDS` or str, within `limits` as of `columns.flag`."""

    def convert(text: str):
        if base is bool:
            if text.lower() not in ("true", "false", "yes", "no", "1", "0", "t", "f", "y", "n"):
                raise ValueError
            return text.lower() in ("true", "yes", "1", "t", "y")
        value = base(text)
        if base is float and not math.isfinite(value):
            raise ValueError
        if base is int and abs(value) >= 2**63:
            raise argparse.ArgumentTypeError(f"{text[:20]}...: is too large")
        if base is str and ("\0" in text or text.encode(errors="ignore").decode() != text):
            raise argparse.ArgumentTypeError(f"{ascii(text)}: must be UTF-8 text")
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
    return " and ".join(f"{words} {limits[name]:.10g}" for name, (words, _) in RANGES.items() if name in limits)


def _help(metadata: Mapping[str, Any]) -> str:
    text = metadata["help"]
    if allowed := _range(metadata):
        text = f"{text.rstrip('.')} ({allowed})."
    if "only_with" in metadata:
        flag, values = metadata["only_with"]
        text += f" {'Not' if None in values else 'Only'} with {with_value(flag, values)}."
    return text.replace("%", "%%")


# ---- YAML

YAML = "tag:yaml.org,2002:"  # the tags of YAML's own types begin with it


def _config_path(config: str | None, dataset: str, system: System) -> Path | None:
    """The file that `--config` names, or the corpus's own. Raises SerError: no such file."""
    folder = recipes_folder() / "configs"
    if config == "none":
        return None
    if config is None:
        default = folder / f"{dataset}_{system.name}.yaml"
        return default if default.is_file() else None
    for path in (Path(config), folder / config, folder / f"{config}.yaml"):
        if path.is_file():
            return path
    near = get_close_matches(Path(config).stem, [file.stem for file in folder.glob("*.yaml")], n=1)
    hint = f"did you mean {near[0]}?" if near else f"give a path, or a file of {folder}"
    raise SerError(f"--config {config}: no such file; {hint}")


def recipes_folder() -> Path:
    """The recipes' folder, in a checkout or an installed wheel."""
    checkout = Path(__file__).parents[3] / "recipes"
    return checkout if checkout.is_dir() else Path(__file__).parents[1] / "recipes"


def _read_yaml(path: Path, known: Mapping[str, argparse.Action], system: System) -> dict[str, Any]:
    """The flags of a YAML: a scalar is the text as it stands there, which the flag's own type reads as if it were typed
    (YAML's `010` is 8, its `no` is false), a mapping is JSON; null and `[]` are left out."""
    import yaml

    def mistake(node: yaml.Node, problem: str) -> SerError:
        return SerError(f"{path}: line {node.start_mark.line + 1}: {problem}")

    def scalar(node: yaml.Node, key: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.tag.startswith(YAML):
            raise mistake(node, f"{key}: must be plain values, got {_shortened(node.tag)}")
        if node.value.startswith("--"):
            raise mistake(node, f"{key}: {node.value}: a value must not begin with --")
        return node.value

    def value_of(node: yaml.Node, key: str) -> str | list[str] | None:
        if isinstance(node, yaml.MappingNode):
            return json.dumps(loader.construct_document(node))
        if isinstance(node, yaml.SequenceNode):
            if known[key].nargs != "+":
                raise mistake(node, f"{key}: takes one value, got a list of {len(node.value)}")
            return [scalar(item, key) for item in node.value]
        return None if node.tag == f"{YAML}null" else scalar(node, key)

    try:
        loader = yaml.SafeLoader(path.read_bytes().decode("utf-8"))
        root, flags = loader.get_single_node(), {}
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise mistake(root, f"must hold `flag: value` lines, got {_shortened(root.tag)}")
        for name, node in root.value if root else []:
            if name.tag != f"{YAML}str" or not isinstance(name, yaml.ScalarNode):
                raise mistake(name, f"{_shortened(name.tag)} {name.value!r:.40} is no flag; write `flag: value`")
            if name.value not in known:
                raise mistake(name, _unknown(name.value, known, system))
            if name.value in flags:
                raise mistake(name, f"{name.value} is there twice; keep one")
            flags[name.value] = value_of(node, name.value)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {error.problem}" if mark else str(error).splitlines()[0]
        raise SerError(f"{path}: not YAML ({where}); write `flag: value` lines") from None
    except (ValueError, TypeError, RecursionError) as error:  # a mapping that is no JSON, or not UTF-8
        hint = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "write `flag: value` lines"
        raise SerError(f"{path}: cannot be read ({one_line(error)}); {hint}") from None
    return {key: value for key, value in flags.items() if value not in (None, [])}


def _shortened(tag: str) -> str:
    """A YAML tag in a user's words: `int` for `tag:yaml.org,2002:int`."""
    return {"seq": "a list", "map": "a mapping", "str": "text"}.get(name := tag.rpartition(":")[2], name)


def _unknown(flag: str, known: Collection[str], system: System) -> str:
    ours = {entry.name for kind in vars(settings).values() if is_dataclass(kind) for entry in fields(kind)}
    if flag in ours | _foreign(system):
        return f"--{flag}: the recipe of {system.name} does not use it; leave it out"
    near = get_close_matches(flag, known, n=1) or [name for name in sorted(known) if flag in name]
    return f"unknown flag --{flag}: " + (f"did you mean --{near[0]}?" if near else "see --help_all")


def help_text(system: System, doc: str) -> str:
    """`--help` of a recipe: its docstring and this project's flags, without importing transformers."""
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=6, width=120)
    parser.description = doc.strip()
    for kind in concerns_of(system).values():
        add_flags(parser, kind)
    for action in parser._actions:
        if action.default not in (None, "") and action.default is not False:
            action.help += f" (default: {as_typed(action.default)})".replace("%", "%%")
        action.metavar = None if action.choices else "true|false" if action.const else ""
    changed = ", ".join(f"{key}={word(value)}" for key, value in system.training_defaults.items())
    flags = "every flag" if system.training_flags is None else ", ".join(f"--{name}" for name in system.training_flags)
    training = f"And {flags} of transformers.TrainingArguments (--help_all lists them), with these defaults of ours:"
    parser.epilog = f"{training}\n  {changed}\n"
    return parser.format_help()
