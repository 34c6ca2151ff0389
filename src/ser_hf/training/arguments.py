"""Flags and YAML of all recipes. A YAML is flat and its keys are the flags; the command line wins.

Nothing heavy is imported before it is needed: `--help` answers without torch.
"""

import json
import sys
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from ..errors import SerError
from .flags import WindowArguments
from .systems import CHECKPOINTS, DEFAULT_MODEL, flags_of, training_defaults

# Never written into run.yaml: they are this machine's, or secrets, or not part of what was computed.
NOT_IN_RUN_YAML = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub", "hub_token", "config")


class Flags(NamedTuple):
    """What `parse` returns: the system's dataclasses of `flags.py`, and `given`, all flags that were set by defaults,
    YAML or command line. `augmentation` is None for systems without audio to change."""

    data: Any
    model: Any
    run: Any
    training: Any
    given: dict[str, Any]
    augmentation: Any


def parse(doc: str, system: str, argv: list[str] | None = None) -> Flags:
    """The flags of a recipe.

    Args:
        doc: The recipe's docstring; its text opens `--help`.
        system: Its system's name: `recipes/configs/<dataset>_<system>.yaml` holds the corpus's own settings.
        argv: Arguments without the program's name; those of this process if None.

    Raises:
        SerError: unknown flag, YAML key or value; suggests the nearest.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text(doc, system))
        raise SystemExit(0)
    cli = _pairs(argv)
    given, path, from_yaml = gather(cli, system)

    parser = _parser(system)
    known = {action.dest for action in parser._actions}
    for source, keys in ((path, from_yaml), ("command line", cli)):
        for key in keys:
            if key not in known and key != "help_all":
                near = get_close_matches(key, known, n=1)
                name = f"--{key}" if source == "command line" else f"{source}: key {key!r}"
                raise SerError(f"unknown flag {name}: " + (f"did you mean --{near[0]}?" if near else "see --help_all"))
    if "help_all" in given:
        parser.print_help()
        raise SystemExit(0)
    output_dir = given.get("output_dir", "runs/unnamed")
    data, model, run, *augmentation, training = _dataclasses(parser, {**given, "output_dir": output_dir})
    _check(data, model, run, training)
    for flag in set(CHECKPOINTS) & vars(model).keys():  # a fold's encoder was trained on that fold
        name = getattr(model, flag)
        setattr(model, flag, name and name.replace("{fold}", str(data.fold)).replace("{seed}", str(training.seed)))
    if "output_dir" not in given:
        training.output_dir = f"runs/{run_name(given, system)}_fold{data.fold}_seed{training.seed}"
    return Flags(data, model, run, training, given, augmentation[0] if augmentation else None)


def run_name(given: dict[str, Any], system: str) -> str:
    """What a run's folder is called where no --output_dir says it: as the YAML of the corpus that it was started with
    (each of them another system), or after corpus and system.

    >>> run_name({"dataset": "iemocap", "config": "recipes/configs/iemocap_text_bert_3class.yaml"}, "text")
    'iemocap_text_bert_3class'
    >>> run_name({"dataset": "/corpora/iemocap+smile", "config": "runs/x/run.yaml"}, "text")
    'iemocap+smile_text'
    """
    corpus, config = Path(str(given["dataset"])).name, Path(str(given.get("config"))).stem
    return config if config.startswith(f"{corpus.partition('+')[0]}_") else f"{corpus}_{system}"


def gather(cli: dict[str, Any], system: str) -> tuple[dict[str, Any], Path | None, dict[str, Any]]:
    """All flags of a run, from this project's defaults, the YAML and the command line; the later wins.

    Returns:
        The flags, the YAML they came from (None without one), and what was taken from it.
    """
    path = _config_path(cli, system)
    from_yaml = _read_yaml(path) if path else {}
    # A checkpoint on the command line replaces a YAML's random encoder, and the other way round.
    replaced = ("model_type", "config_overrides") if "model_name_or_path" in cli else ()
    replaced = ("model_name_or_path",) if "model_type" in cli else replaced
    from_yaml = {key: value for key, value in from_yaml.items() if key not in replaced}
    given = {**training_defaults(system, from_yaml | cli), **from_yaml, **cli}
    if not {"model_type", "model_name_or_path"} & given.keys() and system.split("_")[0] in DEFAULT_MODEL:
        given["model_name_or_path"] = DEFAULT_MODEL[system.split("_")[0]]
    if path and "config" not in given:
        given["config"] = path.name
    return given, path, from_yaml


def _pairs(argv: list[str]) -> dict[str, Any]:
    """`--key value ...` to a dict; a flag without a value is true.

    >>> _pairs(["--fold", "3", "--bf16", "--lr-scheduler=cosine"])
    {'fold': '3', 'bf16': 'true', 'lr_scheduler': 'cosine'}
    """
    pairs: dict[str, Any] = {}
    key = None
    for word in argv:
        if word.startswith("--"):
            key, _, value = word[2:].partition("=")
            key = key.replace("-", "_")
            pairs[key] = [value] if value else []
        elif key is None:
            raise SerError(f"{word!r}: flags are written --name value")
        else:
            pairs[key].append(word)
    return {key: "true" if not v else v[0] if len(v) == 1 else v for key, v in pairs.items()}


def _config_path(cli: dict, system: str) -> Path | None:
    folder = Path(__file__).parents[3] / "recipes" / "configs"
    if not folder.is_dir():  # an installed wheel
        folder = Path(__file__).parents[1] / "recipes" / "configs"
    wanted = cli.get("config")
    if wanted == "none":
        return None
    if wanted is None:
        own = folder / f"{cli.get('dataset')}_{system}.yaml"
        return own if own.is_file() else None
    for path in (Path(wanted), folder / wanted, folder / f"{wanted}.yaml"):
        if path.is_file():
            return path
    near = get_close_matches(Path(wanted).stem, [file.stem for file in folder.glob("*.yaml")], n=1)
    raise SerError(f"--config {wanted}: no such file" + (f"; did you mean {near[0]}?" if near else ""))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise SerError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(loaded, dict):
        raise SerError(f"{path}: must hold `flag: value` lines, got {type(loaded).__name__}")
    return {key: json.dumps(v) if isinstance(v, dict) else v for key, v in loaded.items() if v is not None and v != []}


def _parser(system: str):
    from transformers import HfArgumentParser, TrainingArguments

    class OneLineParser(HfArgumentParser):
        def error(self, message):
            raise SerError(message)

    return OneLineParser((*flags_of(system), TrainingArguments), allow_abbrev=False, add_help=False)


def _dataclasses(parser, given: dict[str, Any]):
    argv = []
    for key, value in given.items():
        if key != "config" or value:
            argv += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    try:
        return parser.parse_args_into_dataclasses(args=argv)
    except (ValueError, TypeError, ImportError) as error:
        raise SerError(" ".join(str(error).split())) from None


def check_whole_clips(data) -> None:
    """`--speaker_norm` is of whole clips: the mean of a speaker's windows or stretches is another than that of clips.

    Raises:
        SerError: something cuts or lengthens clips.
    """
    for flag in ("window_seconds", "max_seconds", "min_seconds"):
        if value := getattr(data, flag):
            raise SerError(f"--{flag} {value}: speakers' means are those of whole clips; not with --speaker_norm")


def _check(data, model, run, training) -> None:
    if not data.dataset:
        raise SerError("--dataset is missing: name a corpus, `ser-hf corpora` lists them")
    if not 0 <= data.validation_fraction < 1:
        raise SerError(f"--validation_fraction {data.validation_fraction}: must be at least 0 and below 1")
    if isinstance(data, WindowArguments) and data.window_seconds is not None:
        data.window_hop = data.window_hop or data.window_seconds / 2
        if data.window_seconds <= 0 or data.window_hop <= 0:
            raise SerError(f"--window_seconds {data.window_seconds} --window_hop {data.window_hop}: must be above 0")
        if data.trim_db is not None:
            raise SerError("--trim_db shifts the times of windows: give it or --window_seconds, not both")
    for name, value in vars(run).items():
        if name.startswith("batch_") and value is not None and value <= 0:
            setattr(run, name, None)  # a fixed count instead of a budget
    asked = vars(model)
    if asked.get("speaker_norm"):
        check_whole_clips(data)
    if asked.get("lora_r", 0) < 0:
        raise SerError(f"--lora_r {model.lora_r}: must be at least 1, or 0 to train the weights themselves")
    if asked.get("lora_r") and not training.do_train:
        model.lora_r = 0  # of a run.yaml whose model is scored: there are no adapters, and the report speaks of none
    if asked.get("model_type") and model.model_name_or_path:
        raise SerError("--model_type trains a random encoder and --model_name_or_path a pretrained one: give one")
    if asked.get("config_overrides"):
        try:
            overrides = json.loads(model.config_overrides)
        except json.JSONDecodeError:
            overrides = None
        if not isinstance(overrides, dict):
            raise SerError(f'--config_overrides {model.config_overrides}: must be JSON such as {{"layerdrop": 0}}')


def help_text(doc: str, system: str) -> str:
    """`--help` of a recipe: its docstring and this project's flags, written without importing transformers."""
    lines = [doc.strip(), ""]
    for kind in flags_of(system):
        lines.append(kind.__doc__.strip().splitlines()[0])
        for entry in fields(kind):
            kinds = (entry.type, *get_args(entry.type))  # itself, or one of a union
            choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
            value = entry.default if entry.default_factory is MISSING else " ".join(map(str, entry.default_factory()))
            default = "" if value in (None, "", MISSING) else f" (default: {value})"
            lines.append(f"  --{entry.name} {'{' + ','.join(choices) + '}' if choices else ''}".rstrip())
            lines.append(f"      {entry.metadata['help']}{default}")
        lines.append("")
    changed = ", ".join(f"{key}={value}" for key, value in training_defaults(system).items())
    lines += [
        "And every flag of transformers.TrainingArguments (--help_all lists them), with these defaults of ours:",
        f"  {changed}",
        "",
    ]
    return "\n".join(lines)
