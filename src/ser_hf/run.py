"""What all recipes share around their spine: a clean start, loading the model, resuming, and a complete finish."""

import json
import logging
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import __version__, torchaudio_cpu
from .args import NOT_IN_RUN_YAML
from .errors import SerError

logger = logging.getLogger("ser_hf")


def cli(main: Callable[[], None]) -> None:
    """Run a recipe: a user's mistake is one line on stderr and exit status 2, not a traceback."""
    main_process = os.environ.get("RANK", "0") == "0"
    try:
        torchaudio_cpu.check()
        main()
    except SerError as error:
        if main_process:
            sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if main_process:
            sys.stderr.write("stopped; --resume_from_checkpoint true goes on from the last checkpoint\n")
        raise SystemExit(130) from None


def say(*lines: str) -> None:
    """Print to the screen, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def start(training, run) -> str | None:
    """Before anything slow: logging, the output folder, the Hub login, the seed. Returns the repository to push to.

    The Trainer is told nothing of the push: it would create a public repository at once and upload every checkpoint,
    with its pickled training arguments.

    Raises:
        SerError: the folder cannot be written to or holds another run; `--push_to_hub` would fail later.
    """
    import datasets
    import transformers

    from .hub import check_push

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    transformers.logging.set_verbosity_warning()
    datasets.logging.set_verbosity_warning()
    with training.main_process_first():
        if training.process_index == 0:
            _claim(Path(training.output_dir), training, run)
    transformers.set_seed(training.seed)
    if not training.push_to_hub:
        return None
    training.push_to_hub = False
    return check_push(training.hub_model_id)


def check_names(data) -> None:
    """Corpus, label set, protocol and folder are looked up before torch has anything to do.

    Raises:
        SerError: one of them does not exist.
    """
    from .corpora import find_corpus, label_config
    from .protocols import find_protocol

    label_config(data.dataset, data.labels)
    find_protocol(data.dataset, data.protocol)
    find_corpus(data.dataset, data.data_dir)


def _claim(folder: Path, training, run) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / f".writable.{os.getpid()}").touch()
        probe.unlink()
    except OSError as error:
        raise SerError(f"--output_dir {folder}: cannot write there ({error.strerror}); choose another") from None
    checkpoints = sorted(folder.glob("checkpoint-*"))
    finished = (folder / "results.json").exists()
    if run.overwrite_output_dir:
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint)
        (folder / "results.json").unlink(missing_ok=True)
    elif training.do_train and finished:
        raise SerError(f"--output_dir {folder} holds a finished run: choose another, or --overwrite_output_dir true")
    elif checkpoints and not training.resume_from_checkpoint and training.do_train:
        raise SerError(
            f"--output_dir {folder} holds an unfinished run: --resume_from_checkpoint true goes on with it, "
            "--overwrite_output_dir true starts anew"
        )


def audio_model(args, report, do_train: bool = True):
    """The audio model and the feature extractor that the flags ask for.

    A new head is made for training; for `--do_train false` the checkpoint must have one.

    Args:
        args: `ModelArguments`.
        report: `CorpusReport`, for the labels.
        do_train: False loads a fine-tuned model and checks that its labels are the corpus's.

    Raises:
        SerError: checkpoint not found or not usable as the flags say.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, Wav2Vec2FeatureExtractor

    from .hub import load_finetuned
    from .models import SerConfig, SerForAudioClassification

    name = args.model_name_or_path or "facebook/wav2vec2-base"
    head = {
        "pooling": args.pooling,
        "head": args.head,
        "head_size": args.head_size,
        "use_weighted_layer_sum": args.use_weighted_layer_sum,
        "id2label": dict(enumerate(report.label_names)),
        "label2id": {label: index for index, label in enumerate(report.label_names)},
        "problem_type": report.problem_type,
    }
    overrides = json.loads(args.config_overrides or "{}")
    try:
        if args.model_type:
            audio = AutoConfig.for_model(args.model_type, **overrides)
            extractor = Wav2Vec2FeatureExtractor(return_attention_mask=audio.feat_extract_norm == "layer")
            model = SerForAudioClassification(SerConfig(audio_config=audio, **head))
        else:
            extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=args.trust_remote_code)
            if do_train:
                model = SerForAudioClassification.from_encoder(name, overrides, **head)
            else:
                model = load_finetuned(name, args.trust_remote_code)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"model {args.model_type or name!r}: {' '.join(str(error).split())}") from None
    if not do_train and list(model.config.id2label.values()) != report.label_names:
        raise SerError(
            f"{name} answers {', '.join(model.config.id2label.values())}, "
            f"but the corpus's labels are {', '.join(report.label_names)}: choose another --labels"
        )
    if args.freeze_feature_encoder:
        model.freeze_feature_encoder()
    return model, extractor


def split_line(splits, protocol, fold: int) -> str:
    """One line on the parts, with a warning where the protocol leaks."""
    sizes = ", ".join(
        f"{part} {size['utterances']} ({size['speakers']} speakers)" for part, size in describe(splits).items()
    )
    leak = "" if protocol.speaker_independent else "; LEAKS SPEAKERS by construction"
    return f"{protocol.name} fold {fold}: {sizes}{leak}"


def select_on_validation(training, metric: str, has_validation: bool) -> None:
    """Keep the checkpoint with the best validation metric; without validation the last one."""
    if has_validation:
        training.metric_for_best_model = training.metric_for_best_model or metric
        if training.metric_for_best_model == "loss" and training.greater_is_better is False:
            training.metric_for_best_model, training.greater_is_better = metric, True
    else:
        training.eval_strategy = "no"
        training.load_best_model_at_end = False
        training.metric_for_best_model = None


def pads_change_output(model) -> bool:
    """Whether the encoder's output depends on the padding even with a mask (group norm over time in its first layer,
    as in the base-size checkpoints): evaluation then pads nothing."""
    return getattr(model.config.audio_config, "feat_extract_norm", None) == "group"


def train(trainer, training) -> dict:
    """Train, from the last checkpoint if asked to; returns what is reported about it."""
    from transformers.trainer_utils import get_last_checkpoint

    resume = training.resume_from_checkpoint
    if str(resume).lower() in ("true", "1"):
        resume = get_last_checkpoint(training.output_dir)
        if resume is None:
            say(f"no checkpoint in {training.output_dir} yet: starting from the beginning")
    elif str(resume).lower() in ("false", "none", "0", ""):
        resume = None
    elif not Path(resume).is_dir():
        raise SerError(f"--resume_from_checkpoint {resume}: no such folder; `true` takes the last one of the run")
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - started
    steps = trainer.state.global_step
    hours = sum(trainer.train_dataset["duration"]) / 3600 * trainer.state.epoch
    return {
        "epochs": trainer.state.epoch,
        "steps": steps,
        "seconds": round(seconds, 1),
        "audio_seconds_per_second": None if resume else round(hours * 3600 / seconds, 1),
        "selected_step": trainer.state.best_global_step or steps,
        "selected_by": training.metric_for_best_model if trainer.state.best_metric is not None else "last epoch",
        "best_validation": trainer.state.best_metric,
        "resumed": resume is not None,
    }


def command(recipe: str, given: dict) -> str:
    """The command that repeats a run on another machine: no local folders."""
    words = ["accelerate", "launch", f"recipes/{recipe}.py"]
    from .args import TRAINING_DEFAULTS

    for key, value in given.items():
        if key in NOT_IN_RUN_YAML or key == "data_dir" or TRAINING_DEFAULTS.get(key) == value:
            continue
        if key == "model_name_or_path" and Path(str(value)).exists():
            value = Path(str(value)).name
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def describe(splits) -> dict:
    """Utterances, speakers and hours of each part."""
    return {
        part: {
            "utterances": len(rows),
            "speakers": len(set(rows["speaker"])),
            "hours": round(sum(rows["duration"]) / 3600, 4),
        }
        for part, rows in splits.items()
    }


def finish(
    trainer, training, recipe: str, given: dict, extractor, splits, report, protocol, fold, trained, push_to
) -> dict:
    """Score test once, write everything a run leaves behind, print the report, push if asked. Returns the results.

    Args:
        trainer: A `SerTrainer` whose model is the selected one.
        training: `TrainingArguments`.
        recipe: The recipe's file stem.
        given: All flags that were set (`args.parse`).
        extractor: The feature extractor to save with the model.
        splits: `DatasetDict` of train, validation, test.
        report: `CorpusReport`.
        protocol, fold: The `Protocol` and its fold.
        trained: What `train` returned, or None.
        push_to: What `start` returned.
    """
    import transformers
    import yaml

    from .corpora import corpus_class
    from .files import write
    from .hub import push_folder, save_model, stock_class
    from .report import lines, predictions_table, score, write_report

    folder = Path(training.output_dir)
    test = trainer.predict(splits["test"]).predictions
    validation = trainer.predict(splits["validation"]).predictions if len(splits["validation"]) else None
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if training.process_index != 0:
        return {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if state is not None:
        model = type(model)(model.config)
        model.load_state_dict(state)
    encoder = given.get("model_name_or_path") or (f"random {given['model_type']}" if given.get("model_type") else None)
    encoder = encoder or "facebook/wav2vec2-base"
    local = Path(encoder).exists()
    model.to("cpu")
    saved = save_model(model, extractor, folder)
    card = corpus_class(report.corpus).CARD
    results = {
        "ser_hf": __version__,
        "recipe": recipe,
        "command": command(recipe, given),
        "corpus": report.as_dict()
        | {"lines": report.lines(), "title": card.title, "licence": card.licence, "citation": card.citation}
        | {"notes": card.notes, "languages": list(card.languages)},
        "protocol": {
            "name": protocol.name,
            "source": protocol.source,
            "fold": fold,
            "speaker_independent": protocol.speaker_independent,
        },
        "splits": describe(splits),
        "model": {
            "class": saved,
            "stock": stock_class(model.config) is not None,
            "encoder": Path(encoder).name if local else encoder,
            "pretrained": not local and not given.get("model_type"),
            "pooling": model.config.pooling,
            "head": model.config.head,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        "seed": training.seed,
        "training": trained,
        "chance_uar": 1 / len({*splits["test"]["label"]}),
        "test": score(splits["test"], test, report.label_names),
        "validation": score(splits["validation"], validation, report.label_names) if validation is not None else None,
        "versions": {
            "python": platform.python_version(),
            "torch": __import__("torch").__version__,
            "transformers": transformers.__version__,
            "datasets": __import__("datasets").__version__,
        },
    }
    flags = {key: value for key, value in given.items() if key not in NOT_IN_RUN_YAML}
    write(folder / "run.yaml", yaml.safe_dump(flags, sort_keys=False, allow_unicode=True))
    table = predictions_table(splits["test"], test, report.label_names)
    write_report(folder, results, table, push_to)
    say(*lines(results), "", f"saved {saved} and the report in {folder}")
    if push_to:
        say(f"pushed to {push_folder(folder, push_to, private=training.hub_private_repo is not False)}")
    return results
