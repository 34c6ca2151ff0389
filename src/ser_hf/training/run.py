"""What all recipes share around their spine: a clean start, loading the model, resuming, and a complete finish."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .. import torchaudio_cpu
from ..errors import SerError
from .flags import ClipArguments, WindowArguments
from .provenance import check_checkpoints
from .record import Setup, describe, describe_model, versions, write_flags
from .systems import CHECKPOINTS

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


def start(training, run, given: dict) -> str | None:
    """Before anything slow: logging, the output folder, the Hub login, the seed. Returns the repository to push to.

    The Trainer is told nothing of the push: it would create a public repository at once and upload every checkpoint,
    with its pickled training arguments.

    Raises:
        SerError: the folder cannot be written to or holds another run; `--push_to_hub` would fail later.
    """
    import datasets
    import torch
    import transformers

    from .hub import check_push

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    transformers.logging.set_verbosity_warning()
    datasets.logging.set_verbosity_warning()
    with training.main_process_first():
        if training.process_index == 0:
            _claim(Path(training.output_dir), training, run)
    transformers.utils.logging.disable_progress_bar()  # of loading and saving weights; training keeps its own
    transformers.set_seed(training.seed)
    if torch.cuda.is_available() and "dataloader_num_workers" not in given:
        training.dataloader_num_workers = 4  # one process decodes too slowly for a GPU (shared/PERFORMANCE.md C)
    if not training.push_to_hub:
        return None
    training.push_to_hub = False
    return check_push(training.hub_model_id)


def prepare(recipe: str, flags, problem_types: tuple[str, ...] | None = None) -> Setup:
    """Everything before the model: names looked up, folder, Hub login and seed, then corpus, folds and leak check.

    Args:
        recipe: The recipe's file stem.
        flags: What `args.parse` returned.
        problem_types: Kinds of labels the recipe learns; None for all.

    Raises:
        SerError: anything a user can have got wrong so far.
    """
    from ..data.mixing import add_to_train, load_data
    from ..data.splits import check_disjoint, find_protocol, split

    data, training = flags.data, flags.training
    check_names(data, problem_types)
    push_to = start(training, flags.run, flags.given)
    with training.main_process_first():
        corpus, report, mixed = load_data(data, isinstance(data, ClipArguments))
    protocol = find_protocol(report.corpus, data.protocol)
    splits = split(corpus, report.corpus, data.protocol, data.fold, data.validation_fraction, data.split_seed)
    splits = add_to_train(splits, mixed)
    check_disjoint(splits, protocol.speaker_independent, protocol.validation)
    setup = Setup(recipe, flags.given, splits, report, mixed, protocol, data.fold, push_to)
    say_setup(setup)
    checkpoints = [value for flag, value in vars(flags.model).items() if flag in CHECKPOINTS and value]
    return replace(setup, trained_on=check_checkpoints(checkpoints, setup, training.do_train))


def check_names(data, problem_types: tuple[str, ...] | None = None) -> None:
    """Corpus, label set, protocol and folder are looked up before torch has anything to do.

    Raises:
        SerError: one of them does not exist, or the label set is not of a kind that the recipe learns.
    """
    from ..data.mixing import find_mixture

    names = (data.dataset, data.labels, data.data_dir, data.test_on, data.add_labels, data.protocol)
    source = find_mixture(*names).tested
    kind = source.config.problem_type
    if problem_types and kind not in problem_types:
        fitting = [c.name for c in source.corpus.BUILDER_CONFIGS if c.problem_type in problem_types]
        hint = f"choose --labels {' or '.join(fitting)}" if fitting else "use another recipe"
        raise SerError(f"{source.shown}'s labels {source.config.name!r} are of the kind {kind}: {hint}")
    if kind == "regression" and isinstance(data, WindowArguments) and data.combine == "vote":
        raise SerError("--combine vote: windows cannot vote on values; choose mean, max or attention")


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
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of LoRA, which the new run may not use
        (folder / "results.json").unlink(missing_ok=True)
    elif training.do_train and finished:
        raise SerError(f"--output_dir {folder} holds a finished run: choose another, or --overwrite_output_dir true")
    elif checkpoints and not training.resume_from_checkpoint and training.do_train:
        raise SerError(
            f"--output_dir {folder} holds an unfinished run: --resume_from_checkpoint true goes on with it, "
            "--overwrite_output_dir true starts anew"
        )


def say_setup(setup) -> None:
    """What was found and how it is split, on the screen, with a warning where the protocol leaks."""
    sizes = ", ".join(
        f"{part} {size['utterances']} ({size['speakers']} speakers)" for part, size in describe(setup.splits).items()
    )
    warning = setup.protocol.warning and f"; {setup.protocol.warning}"
    say(*setup.corpus_lines(), f"{setup.protocol.name} fold {setup.fold}: {sizes}{warning}")


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
    seen = len(trainer.train_dataset) * trainer.state.epoch
    heard = sum(seconds or 0.0 for seconds in trainer.train_dataset["duration"][:]) * trainer.state.epoch
    return {
        "epochs": trainer.state.epoch,
        "steps": steps,
        "seconds": round(seconds, 1),
        "utterances_per_second": None if resume else round(seen / seconds, 1),
        "audio_seconds_per_second": None if resume or not heard else round(heard / seconds, 1),
        "selected_step": trainer.state.best_global_step or steps,
        "selected_by": training.metric_for_best_model if trainer.state.best_metric is not None else "last epoch",
        "best_validation": trainer.state.best_metric,
        "resumed": resume is not None,
        "processes": training.world_size,
    }


def finish(
    trainer,
    flags,
    processor,
    setup,
    trained: dict | None,
    windowed=None,
    task: str = "audio-classification",
    others: dict | None = None,
    remarks: list[str] | None = None,
    model=None,
) -> dict:
    """Score test once, write everything a run leaves behind, print the report, push if asked. Returns the results.

    Args:
        trainer: A `SerTrainer` whose model is the selected one.
        flags: What `args.parse` returned.
        processor: The feature extractor, tokenizer or processor to save with the model.
        setup: `results.Setup`; its parts are what is scored.
        trained: What `train` returned, or None.
        windowed: The parts as windows (`make_windows`), if the model was trained on windows.
        task: Of the pipeline that loads the model.
        others: Logits on test of systems to compare with, by name.
        remarks: What a reader of the figures must know besides.
        model: What is saved, where the trainer's model is only a part of it.
    """
    from ..evaluation.comparing import compare
    from ..evaluation.report import lines, write_report
    from ..evaluation.scoring import decision_thresholds, predictions_table, score, utterance_logits
    from .hub import push_folder, save_model
    from .lora import save_adapter

    data, training = flags.data, flags.training
    folder, splits, report_at = Path(training.output_dir), setup.splits, flags.run.thresholds
    names, kind = setup.report.label_names, setup.report.problem_type

    def predict(part: str):
        """Logits of the part's utterances, and of their windows if there are any."""
        if not len(splits[part]):
            return None, None
        if windowed is None:
            return trainer.predict(splits[part]).predictions, None
        logits = trainer.predict(windowed[part]).predictions
        return utterance_logits(logits, windowed[part], splits[part], kind, data.combine), logits

    test, test_windows = predict("test")
    validation, _ = predict("validation")
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if training.process_index != 0:
        return {}
    model = model or trainer.accelerator.unwrap_model(trainer.model)
    if state is not None:  # a sharded model, gathered
        model = type(model)(model.config)
        model.load_state_dict(state)
    model = save_adapter(model, folder, getattr(flags.model, "model_name_or_path", None))
    limits = decision_thresholds(splits["validation"], validation, names, kind)
    if limits:
        model.config.thresholds = dict(zip(names, limits, strict=True))
    saved = save_model(model.to("cpu"), processor, folder)
    scored = {
        "model": describe_model(vars(flags.model), model, saved, task),
        "seed": training.seed,
        "training": trained,
        "test": score(splits["test"], test, names, kind, limits, report_at),
        "validation": None,
    }
    scored["test"]["remarks"] += remarks or []
    if validation is not None:
        scored["validation"] = score(splits["validation"], validation, names, kind, limits, report_at)
    if test_windows is not None:
        scored["test_windows"] = score(windowed["test"], test_windows, names, kind, limits, report_at)
        scored["windows"] = {"seconds": data.window_seconds, "hop": data.window_hop, "combine": data.combine}
    if others:
        scored["comparisons"] = compare(splits["test"], test, others, names, kind, limits)
    results = {**setup.facts(), **scored, "versions": versions()}
    write_flags(folder, setup.given)
    table = predictions_table(splits["test"], test, names, kind, others)
    write_report(folder, results, table, setup.push_to)
    say(*lines(results), "", f"saved {saved.__name__} and the report in {folder}")
    if setup.push_to:
        say(f"pushed to {push_folder(folder, setup.push_to, private=training.hub_private_repo is not False)}")
    return results
