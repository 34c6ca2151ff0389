"""The systems that recipes train: which flags each takes, and with which defaults."""

from pathlib import Path

from .flags import (
    AudioArguments,
    AugmentedRunArguments,
    ClipArguments,
    DataArguments,
    FusionArguments,
    RunArguments,
    SpectrogramArguments,
    SpectrogramRunArguments,
    TextArguments,
    TextRunArguments,
    WindowArguments,
)

# Where these recipes differ from transformers' TrainingArguments, and where one system differs from the others.
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
OF_ONE_SYSTEM = {
    "spectrogram": {"learning_rate": "1e-3", "num_train_epochs": 60},  # trained from random weights
    "fusion": {"learning_rate": "1e-3", "num_train_epochs": 30, "per_device_train_batch_size": 32},  # a head
}

# The flags that name checkpoints.
CHECKPOINTS = ("model_name_or_path", "audio_model", "text_model")
# What is fine-tuned if neither --model_name_or_path nor --model_type says it.
DEFAULT_MODEL = {"wav2vec2": "facebook/wav2vec2-base", "text": "bert-base-uncased"}

# What each system's recipes take beside TrainingArguments: data, model, run.
SYSTEMS = {
    "wav2vec2": (WindowArguments, AudioArguments, AugmentedRunArguments),
    "spectrogram": (WindowArguments, SpectrogramArguments, SpectrogramRunArguments),
    "text": (DataArguments, TextArguments, TextRunArguments),
    "fusion": (ClipArguments, FusionArguments, RunArguments),
}
WITH_AUGMENTATION = ("wav2vec2", "spectrogram")


def flags_of(system: str) -> tuple[type, ...]:
    """All dataclasses of a system's flags beside TrainingArguments; a function, because augmentation loads NumPy.

    >>> [kind.__name__ for kind in flags_of("text")]
    ['DataArguments', 'TextArguments', 'TextRunArguments']
    """
    name = system.split("_")[0]
    if name not in WITH_AUGMENTATION:
        return SYSTEMS[name]
    from ..data.augmentation import Augmentation

    return (*SYSTEMS[name], Augmentation)


def training_defaults(system: str, given: dict | None = None) -> dict:
    """A system's values of `TrainingArguments` where they are not transformers' own.

    Args:
        system: Such as `fusion_cls`.
        given: All other flags: with `--freeze_encoders false` whole encoders are trained, and not a head.
    """
    whole = str((given or {}).get("freeze_encoders")).lower() == "false"
    return {**TRAINING_DEFAULTS, **({} if whole else OF_ONE_SYSTEM.get(system.split("_")[0], {}))}


def without_folders(name: str) -> str:
    """A checkpoint's or corpus's name for others: of a folder of this machine, its last part alone.

    >>> without_folders("facebook/wav2vec2-base"), without_folders("runs/x_cv/fold{fold}_seed{seed}")
    ('facebook/wav2vec2-base', 'fold{fold}_seed{seed}')
    """
    return Path(name).name if "{" in name or Path(name).exists() else name
