"""Flags that go together, and those that do not: each mistake is one line, before anything slow."""

import argparse
import copy
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_type_hints

from ..errors import SerError, one_line
from ..files import check_checkpoint
from .settings import CHECKPOINTS, JSON_FLAGS, ORDERED, Settings, System

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, TrainingArguments

# Keys of a configuration that are sizes, and those that are fractions.
SIZES = r"^num_(?!adapter)|^max_|^d_model$|_(size|dim|heads|layers|length|stride|kernel|groups)$"
FRACTIONS = r"dropout|layerdrop|^mask_\w+_prob$"


def concerns_of(system: System) -> dict[str, type]:
    """The dataclasses of a system's settings by name, without `TrainingArguments`."""
    from ..data.augmentation import Augmentation  # loads NumPy

    types = get_type_hints(system.settings, localns={"Augmentation": Augmentation, "TrainingArguments": NoneType})
    return {name: kind for name, kind in types.items() if name not in ("training", "overrides")}


def word(value: Any) -> str:
    """A flag's value as it is typed.

    >>> word(True), word(3e-5)
    ('true', '3e-05')
    """
    value = value.value if isinstance(value, Enum) else value
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


def as_typed(value: Any) -> str:
    """A flag's value or values as they are typed."""
    return " ".join(map(word, value)) if isinstance(value, list) else word(value)


def with_value(flag: str, values: tuple) -> str:
    """A flag and the values of `only_with`, as they are typed."""
    return f"--{flag} {' or '.join(map(word, values))}" if values and None not in values else f"--{flag}"


def idle_flags(
    values: argparse.Namespace, system: System, overrides: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """Each flag that was set (`overrides`) and would do nothing, the flag that is the cause, and why."""
    flags = vars(values)
    for entry in [entry for kind in concerns_of(system).values() for entry in fields(kind) if entry.name in overrides]:
        flag, needed = entry.metadata.get("only_with", (None, ()))
        if flag in flags and (flags[flag] not in needed if needed else not flags[flag]):
            yield entry.name, flag, f"does nothing {'with' if None in needed else 'without'} {with_value(flag, needed)}"
    if flags.get("freeze_layers"):
        masks = [name for name in flags if name.startswith(("mask_time_", "mask_feature_"))]
        why = "does nothing with --freeze_layers, which keeps the encoder's input as it is"
        yield from ((name, "freeze_layers", why) for name in ("freeze_feature_encoder", *masks) if name in overrides)
    if flags.get("freeze_encoder") and values.do_train:
        from ..data.augmentation import Augmentation

        names = (*Augmentation.__dataclass_fields__, "draw_augmentation", "gradient_checkpointing")
        why = "does nothing with --freeze_encoder true, each clip is encoded once"
        yield from ((name, "freeze_encoder", why) for name in names if name in overrides and flags.get(name))


def check_flags(values: argparse.Namespace, system: System, overrides: Collection[str]) -> None:
    """Raises SerError: flags that do not go together; the YAML or the command line has set `overrides`."""
    if not values.dataset:
        raise SerError("--dataset is missing: name a corpus, `ser-hf corpora` lists them")
    flags = vars(values)
    ours = {entry.name for kind in concerns_of(system).values() for entry in fields(kind)}
    for name in ours & {*overrides}:
        if flags[name] == "":
            raise SerError(f"--{name} '': is empty; leave it out")
    for name, _, why in idle_flags(values, system, overrides):
        raise SerError(f"--{name} {as_typed(flags[name])}: {why}; leave it out")
    if not values.do_train and not any(flags.get(flag) and flag in overrides for flag in CHECKPOINTS):
        raise SerError("--do_train false: there is nothing to score; name a trained model by --model_name_or_path")
    if flags.get("model_type") and values.model_name_or_path:
        raise SerError("--model_type trains a random encoder and --model_name_or_path a pretrained one: give one")
    if flags.get("model_type") or flags.get("config_overrides"):
        _check_overrides(flags.get("model_type"), flags.get("config_overrides"))
    for small, large in ORDERED:
        if None not in (flags.get(small), flags.get(large)) and flags[small] > flags[large]:
            raise SerError(f"--{small} {flags[small]:g}: must be at most --{large}, which is {flags[large]:g}")
    for name in {*JSON_FLAGS} & {*overrides}:
        _check_json(name, flags[name])
    if "report_to" in overrides:
        _check_trackers(flags["report_to"])
    if flags.get("window_seconds") and values.trim_db is not None:
        raise SerError(f"--trim_db {values.trim_db:g}: shifts the times of windows; give it or --window_seconds")
    if flags.get("classifier") and values.do_train and not values.validation_fraction:
        why = "the complexity of the classifier is chosen on validation"
        raise SerError(f"--validation_fraction 0: {why}; leave it out")
    for frozen in ("freeze_encoders", "freeze_encoder"):
        if flags.get("lora_r") and flags.get(frozen) and values.do_train:
            raise SerError(f"--lora_r {values.lora_r}: adapts the encoders; it needs --{frozen} false")


def _check_overrides(model_type: str | None, text: str | None) -> None:
    """Raises SerError: `--model_type` is none of transformers', or `--config_overrides` is no JSON object, has a key
    that this configuration lacks, or a value with which no model can be built."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

    if model_type is not None and model_type not in CONFIG_MAPPING:
        near = get_close_matches(model_type, list(CONFIG_MAPPING), n=1)
        hint = f"did you mean {near[0]}?" if near else "name one such as wav2vec2, whisper or bert"
        raise SerError(f"--model_type {model_type}: transformers has no such model; {hint}")
    try:
        overrides = json.loads(text or "{}")
    except (json.JSONDecodeError, RecursionError):
        overrides = None
    if not isinstance(overrides, dict):
        raise SerError(f'--config_overrides {text}: must be JSON such as {{"layerdrop": 0}}')
    for key, value in overrides.items():
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float):
                continue
            if re.search(SIZES, key) and not 1 <= number < 2**31:
                raise SerError(f"--config_overrides {key} {number}: must be at least 1 and below 2^31")
            if re.search(FRACTIONS, key) and not 0 <= number <= 1:
                raise SerError(f"--config_overrides {key} {number}: must be at least 0 and at most 1")
    if model_type is None:
        return  # the checkpoint's configuration decides which keys there are
    check_keys(CONFIG_MAPPING[model_type](), overrides)
    if overrides:
        import torch

        try:
            with torch.device("meta"):  # no memory, no time
                AutoModel.from_config(AutoConfig.for_model(model_type, **overrides))
        except Exception as error:  # whatever an impossible size or name leads to
            raise SerError(f"--config_overrides {text}: {one_line(error)}") from None


def check_keys(config: "PreTrainedConfig", overrides: Collection[str]) -> None:
    """Raises SerError: one of `--config_overrides` is no setting of this configuration; suggests the nearest."""
    known = {*config.to_dict(), *config.attribute_map, *getattr(config, "__dataclass_fields__", ())}
    for key in overrides:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see its documentation"
            raise SerError(f"--config_overrides {key}: {config.model_type} has no such setting; {hint}")


def check_checkpoints_exist(settings: Settings) -> None:
    """Raises SerError: a checkpoint does not exist, is gated or damaged, or lacks a key of `--config_overrides`."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    from .. import models  # noqa: F401  (our model types)

    concerns = [getattr(settings, name, None) for name in ("encoder", "fusion")]
    trust = any(getattr(concern, "trust_remote_code", False) for concern in concerns)
    overrides = json.loads(getattr(concerns[0], "config_overrides", None) or "{}")
    if settings.training.do_train and {"audio_model", "model_name_or_path"} <= settings.checkpoints.keys():
        name, why = settings.checkpoints["model_name_or_path"], "is scored with --do_train false"
        raise SerError(f"--model_name_or_path {name}: {why}; to train, give --audio_model and --text_model")
    for flag, name in settings.checkpoints.items():
        check_checkpoint(name, f"--{flag}")
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=trust)
        except (OSError, ValueError, StrictDataclassError) as error:
            raise SerError(f"--{flag} {name}: {one_line(error)}") from None
        if overrides:
            check_keys(getattr(config, "audio_config", config), overrides)


def _check_json(flag: str, value: str | None) -> None:
    """Raises SerError: the value of one of `JSON_FLAGS` is no JSON object, nor a file of one where it may be."""
    text = value or "{}"
    if JSON_FLAGS[flag] and not text.lstrip().startswith("{"):
        try:
            text = Path(text).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            why = (getattr(error, "strerror", None) or "not UTF-8 text").lower()
            raise SerError(f"--{flag} {value}: {why}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        or_file = ", or a file that holds one" if JSON_FLAGS[flag] else ""
        raise SerError(f"--{flag} {value}: must be a JSON object{or_file}")


def check_training(training: "TrainingArguments", overrides: Collection[str]) -> None:
    """Raises SerError: the flags that were set (`overrides`) make no optimizer, schedule or compiled model."""
    import torch
    from transformers import Trainer, get_scheduler

    def tried(flags: tuple[str, ...], make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (ValueError, TypeError, ImportError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            shown = " ".join(f"--{flag} {as_typed(vars(training)[flag])}" for flag in flags if vars(training)[flag])
            raise SerError(f"{shown}: {one_line(error)}") from None

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight])
    names = ("optim", "optim_args")
    if {*names} & {*overrides}:
        kind, options = tried(names, lambda: Trainer.get_optimizer_cls_and_kwargs(training))
        plain = copy.copy(training)
        plain.optim_args = None
        if training.optim_args and options == Trainer.get_optimizer_cls_and_kwargs(plain)[1]:
            raise SerError(f"--optim_args {training.optim_args}: does nothing with --optim {word(training.optim)}")
        if "params" not in options and "optimizer_dict" not in options:
            optimizer = tried(names, lambda: kind([weight], **options))
    names = ("lr_scheduler_type", "lr_scheduler_kwargs")
    if {*names} & {*overrides}:
        kind, options = training.lr_scheduler_type, training.lr_scheduler_kwargs
        tried(names, lambda: get_scheduler(kind, optimizer, 1, 10, scheduler_specific_kwargs=options))
    if training.optim_target_modules and not str(training.optim).startswith(("galore", "apollo", "lomo")):
        raise SerError(f"--optim_target_modules: does nothing with --optim {word(training.optim)}; leave it out")
    if training.use_liger_kernel and not find_spec("liger_kernel"):
        raise SerError("--use_liger_kernel true: liger-kernel is not installed here; install it, or leave it out")
    if training.torch_compile:
        allowed = {
            "torch_compile_backend": torch._dynamo.list_backends(exclude_tags=()),
            "torch_compile_mode": ["default", *torch._inductor.list_mode_options()],
        }
        for flag, choices in allowed.items():
            if (value := getattr(training, flag)) not in (None, *choices):
                raise SerError(f"--{flag} {value}: choose {', '.join(choices)}")


def _check_trackers(names: str | list[str] | None) -> None:
    """Raises SerError: `--report_to` names no tracker, or one that is not installed."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    asked = [names] if isinstance(names, str) else names or []
    if len(asked) > 1 and {"all", "none"} & {*asked}:
        raise SerError(f"--report_to {as_typed(asked)}: all and none stand alone; name the trackers")
    for name in asked:
        if name not in ("all", "none", *INTEGRATION_TO_CALLBACK):
            raise SerError(f"--report_to {name}: no tracker; choose {', '.join([*INTEGRATION_TO_CALLBACK, 'none'])}")
        if name not in ("all", "none", *get_available_reporting_integrations()):
            raise SerError(f"--report_to {name}: is not installed here: pip install {name}; or leave it out")
