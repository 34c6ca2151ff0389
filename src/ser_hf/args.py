"""Flags and YAML of all recipes. A YAML is flat and its keys are the flags; the command line wins.

Nothing heavy is imported before it is needed: `--help` answers without torch.
"""

import json
import sys
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from .errors import SerError

# Where these recipes differ from transformers' TrainingArguments.
TRAINING_DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,  # the best and the last
    "load_best_model_at_end": True,
    "learning_rate": "3e-5",
    "warmup_steps": 0.1,  # of all steps
    "num_train_epochs": 15,
    "logging_strategy": "epoch",
    "remove_unused_columns": False,  # the collator reads columns the model does not know
    "do_train": True,
}
# Never written into run.yaml: they are this machine's, or secrets, or not part of what was computed.
NOT_IN_RUN_YAML = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub", "hub_token", "config")


@dataclass
class DataArguments:
    """What is learned from."""

    dataset: str = field(
        default="",
        metadata={
            "help": "A corpus (a file of loading_scripts/), a folder with a metadata.csv, a Hub dataset user/name, or "
            "several corpora a+b+c of which --test_on is split and the others add to train."
        },
    )
    test_on: str | None = field(default=None, metadata={"help": "Of several corpora, the one that is tested."})
    add_labels: list[str] | None = field(
        default=None, metadata={"help": "Of several corpora, take only these labels from those that add to train."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "The corpus's folder. Without it the corpus is looked for under $SER_DATA_DIR."}
    )
    labels: str | None = field(
        default=None, metadata={"help": "Label configuration of the corpus, such as 4class; its default otherwise."}
    )
    protocol: str | None = field(
        default=None, metadata={"help": "How to split; the corpus's default, which is speaker-independent, otherwise."}
    )
    fold: int = field(default=0, metadata={"help": "Fold of the protocol, from 0."})
    validation_fraction: float = field(
        default=0.2, metadata={"help": "Part of train that becomes validation, as whole speakers; 0 for none."}
    )
    split_seed: int = field(default=42, metadata={"help": "Chooses validation speakers; not the training seed."})
    window_seconds: float | None = field(
        default=None, metadata={"help": "Cut utterances into windows of this length; reported before and after."}
    )
    window_hop: float | None = field(
        default=None, metadata={"help": "From one window's start to the next; half a window without it."}
    )
    window_last: Literal["pad", "drop", "shift"] = field(
        default="pad", metadata={"help": "The audio behind the last whole window: a shorter one, none, or one more."}
    )
    combine: Literal["mean", "max", "vote", "attention"] = field(
        default="mean", metadata={"help": "Scores of windows to the score of their utterance."}
    )
    trim_db: float | None = field(
        default=None, metadata={"help": "Cut silence at both ends, this many dB below the clip's own loudest."}
    )
    min_seconds: float = field(default=0.0, metadata={"help": "Shorter clips get zeros behind."})
    max_seconds: float | None = field(
        default=None, metadata={"help": "Of longer clips a stretch: at random in training, the middle in evaluation."}
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that scan the corpus the first time."})
    strict: bool = field(
        default=False, metadata={"help": "Stop when files are missing or unusable instead of reporting it."}
    )


@dataclass
class ModelArguments:
    """What is fine-tuned."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Pretrained encoder: a Hub id or a folder. facebook/wav2vec2-base if nothing else is said."},
    )
    model_type: str | None = field(
        default=None, metadata={"help": "Instead: train a random encoder of this type (wav2vec2, hubert, wavlm)."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": 'JSON changes to the encoder\'s configuration, such as {"layerdrop": 0}.'}
    )
    pooling: Literal["mean", "max", "meanmax", "attentive"] = field(
        default="mean", metadata={"help": "Frames to one vector. Mean-pooled models are published as stock classes."}
    )
    head: Literal["linear", "mlp"] = field(
        default="linear", metadata={"help": "linear: project, pool, classify. mlp: pool, dense, tanh, project (soxan)."}
    )
    head_size: int = field(default=256, metadata={"help": "Width of the linear head's projection."})
    use_weighted_layer_sum: bool = field(default=False, metadata={"help": "Learn a weighted sum of all layers."})
    freeze_feature_encoder: bool | None = field(
        default=None,
        metadata={"help": "Do not train the convolutions. Without it: frozen if pretrained, trained if random."},
    )
    mask_time_prob: float | None = field(
        default=None,
        metadata={"help": "SpecAugment on the encoder's frames: part that is masked; its own if unset."},
    )
    mask_time_length: int | None = field(default=None, metadata={"help": "Frames of such a mask (20 ms each)."})
    mask_feature_prob: float | None = field(
        default=None, metadata={"help": "The same over the encoder's features (hidden dimensions)."}
    )
    mask_feature_length: int | None = field(default=None, metadata={"help": "Features of such a mask."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the checkpoint."})


@dataclass
class RunArguments:
    """How it is trained, beside transformers' TrainingArguments."""

    batch_seconds: float | None = field(
        default=36.0,
        metadata={"help": "Padded seconds of audio in a device's batch; 0: per_device_train_batch_size clips instead."},
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: each class weighs the inverse of its frequency in train."}
    )
    loss: Literal["cross_entropy", "focal", "bce", "mse", "l1", "ccc", "ccc_mse"] | None = field(
        default=None,
        metadata={"help": "Classes: cross_entropy (default), focal. Values: mse (default), l1, ccc, ccc_mse."},
    )
    sampling: Literal["none", "class", "speaker"] = field(
        default="none",
        metadata={"help": "Draw training clips so that each class, or each speaker, comes equally often."},
    )
    soft_labels: bool = field(
        default=False, metadata={"help": "Train on the raters' votes where the corpus has them, not on the label."}
    )
    draw_augmentation: bool = field(
        default=False, metadata={"help": "Draw what augmentation does to a training clip, into figures/."}
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "Exponent of the focal loss."})
    ccc_weight: float = field(default=0.5, metadata={"help": "Share of 1 - CCC in ccc_mse."})
    thresholds: list[float] | None = field(
        default=None, metadata={"help": "Values: also report them as present or absent at these thresholds."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Start anew in a folder that holds a run."})
    config: str | None = field(
        default=None,
        metadata={"help": "YAML of flags. recipes/configs/<dataset>_<recipe>.yaml if there is one; none: no YAML."},
    )


OWN = (DataArguments, ModelArguments, RunArguments)


def own() -> tuple[type, ...]:
    """All dataclasses of flags beside TrainingArguments; a function, because augmentation loads NumPy."""
    from .augmentation import Augmentation

    return (*OWN, Augmentation)


class Flags(NamedTuple):
    """What `parse` returns; `given` are all flags that were set by defaults, YAML or command line."""

    data: DataArguments
    model: ModelArguments
    run: RunArguments
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
        sys.stdout.write(help_text(doc))
        raise SystemExit(0)
    cli = _pairs(argv)
    given, path, from_yaml = gather(cli, system)

    parser = _parser()
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
    data, model, run, augmentation, training = _dataclasses(parser, {**given, "output_dir": output_dir})
    _check(data, model, run)
    if "output_dir" not in given:
        name = Path(data.dataset).name
        training.output_dir = f"runs/{name}_{system}_fold{data.fold}_seed{training.seed}"
    return Flags(data, model, run, training, given, augmentation)


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
    given = {**TRAINING_DEFAULTS, **from_yaml, **cli}
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
    folder = Path(__file__).parents[2] / "recipes" / "configs"
    if not folder.is_dir():  # an installed wheel
        folder = Path(__file__).parent / "recipes" / "configs"
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


def _parser():
    from transformers import HfArgumentParser, TrainingArguments

    class OneLineParser(HfArgumentParser):
        def error(self, message):
            raise SerError(message)

    return OneLineParser((*own(), TrainingArguments), allow_abbrev=False, add_help=False)


def _dataclasses(parser, given: dict[str, Any]):
    argv = []
    for key, value in given.items():
        if key != "config" or value:
            argv += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    try:
        return parser.parse_args_into_dataclasses(args=argv)
    except (ValueError, TypeError, ImportError) as error:
        raise SerError(" ".join(str(error).split())) from None


def _check(data: DataArguments, model: ModelArguments, run: RunArguments) -> None:
    if not data.dataset:
        raise SerError("--dataset is missing: name a corpus, `ser-hf corpora` lists them")
    if not 0 <= data.validation_fraction < 1:
        raise SerError(f"--validation_fraction {data.validation_fraction}: must be at least 0 and below 1")
    if data.window_seconds is not None:
        data.window_hop = data.window_hop or data.window_seconds / 2
        if data.window_seconds <= 0 or data.window_hop <= 0:
            raise SerError(f"--window_seconds {data.window_seconds} --window_hop {data.window_hop}: must be above 0")
        if data.trim_db is not None:
            raise SerError("--trim_db shifts the times of windows: give it or --window_seconds, not both")
    if model.model_type and model.model_name_or_path:
        raise SerError("--model_type trains a random encoder and --model_name_or_path a pretrained one: give one")
    if run.batch_seconds is not None and run.batch_seconds <= 0:
        run.batch_seconds = None
    if model.config_overrides:
        try:
            overrides = json.loads(model.config_overrides)
        except json.JSONDecodeError:
            overrides = None
        if not isinstance(overrides, dict):
            raise SerError(f'--config_overrides {model.config_overrides}: must be JSON such as {{"layerdrop": 0}}')


def help_text(doc: str) -> str:
    """`--help` of a recipe: its docstring and this project's flags, written without importing transformers."""
    lines = [doc.strip(), ""]
    for kind in own():
        lines.append(kind.__doc__.strip().splitlines()[0])
        for entry in fields(kind):
            choices = get_args(entry.type) if get_origin(entry.type) is Literal else ()
            value = entry.default if entry.default_factory is MISSING else " ".join(map(str, entry.default_factory()))
            default = "" if value in (None, "", MISSING) else f" (default: {value})"
            lines.append(f"  --{entry.name} {'{' + ','.join(choices) + '}' if choices else ''}".rstrip())
            lines.append(f"      {entry.metadata['help']}{default}")
        lines.append("")
    changed = ", ".join(f"{key}={value}" for key, value in TRAINING_DEFAULTS.items())
    lines += [
        "And every flag of transformers.TrainingArguments (--help_all lists them), with these defaults of ours:",
        f"  {changed}",
        "",
    ]
    return "\n".join(lines)
