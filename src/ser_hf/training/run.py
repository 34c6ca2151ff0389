"""The parts of a run that all recipes share, in their order: start, data, training, results."""

import copy
import json
import logging
import os
import select
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import torchaudio_cpu
from ..data.columns import Columns
from ..errors import SerError, door
from ..files import release, write
from .flag_checks import check_checkpoints_exist
from .settings import VALUES, ClipArguments, DataArguments, LoopArguments, Settings, System, WindowArguments

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset, DatasetDict
    from transformers import FeatureExtractionMixin, PreTrainedModel, ProcessorMixin, TrainingArguments

    from ..data.augmentation import Augmentation
    from ..data.mixing import Mixed, Mixture
    from ..data.splits import Protocol
    from .hub import Repository
    from .record import Setup
    from .trainer import SerTrainer

logger = logging.getLogger("ser_hf")
PARENT = "SER_HF_PARENT"  # in the environment: the id of the process without which a recipe ends
AUGMENTATION = "figures/augmentation.png"
PROFILE = "profile.json.gz"
STARTED = time.perf_counter()  # of this process, in effect
SAME = 1e-3  # seconds: a smaller difference of lengths is that of sampling rates
DATALOADER_WORKERS = 4  # on a GPU: one process decodes too slowly for it


def cli(main: Callable[[], None]) -> None:
    """Run a recipe and exit: `errors.door` says with which status, and what is printed."""

    def body() -> None:
        torchaudio_cpu.check()
        _end_with(os.environ.get(PARENT))
        try:
            main()
        finally:
            release()

    stopped = "stopped; --resume_from_checkpoint true goes on from the last checkpoint"
    if status := door(body, stopped):
        raise SystemExit(status)


def _end_with(parent: str | None) -> None:
    """End this process when another one, given by its id, has ended in whatever way; on Linux."""
    if parent is None or not hasattr(os, "pidfd_open"):
        return
    try:
        ended = os.pidfd_open(int(parent))
    except ProcessLookupError:
        os._exit(143)
    except OSError:  # a Linux before 5.3, or a container that forbids it
        return

    def watch() -> None:
        select.select([ended], [], [])
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


def say(*lines: str) -> None:
    """Print, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


# ---- before the model


def start(settings: Settings) -> "tuple[Settings, Repository | None]":
    """Logging, the output folder, the seed and the repository to push to, which is claimed; returns the settings to
    train with and the repository. Raises SerError: the folder cannot be written to or is in use, holds another run
    or files of the user that would be replaced; `--push_to_hub` would fail later."""
    import datasets
    import torch
    import transformers

    from .hub import claim, destination, published_files
    from .output import claim_output, read_record
    from .trackers import PRIVATE

    training, overwrite = settings.training, settings.run.overwrite_output_dir
    folder, push_to = Path(training.output_dir), destination(training, settings.overrides)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    transformers.logging.set_verbosity_warning()
    datasets.logging.set_verbosity_warning()
    with training.main_process_first():
        if training.process_index == 0:
            claim_output(folder, settings)
            fresh = not overwrite and not training.resume_from_checkpoint
            own = (read_record(folder) or {"files": ()})["files"]  # of a run that was interrupted
            if fresh and (others := [name for name in published_files(folder) if name not in own]):
                why = "which no run wrote, and which this one would write over or push"
                choice = "choose an empty folder, or --overwrite_output_dir true"
                raise SerError(f"--output_dir {folder} holds {others[0]}, {why}: {choice}")
            if push_to:
                claim(push_to, "--hub_model_id")
    transformers.utils.logging.disable_progress_bar()  # of loading and saving weights; training keeps its own
    transformers.set_seed(training.seed)
    changes = {"push_to_hub": False}  # the Trainer would create a public repository and upload every checkpoint
    if training.report_to:
        os.environ.update({name: value for name, value in PRIVATE.items() if name not in os.environ})
        changes["run_name"] = training.run_name or f"{folder.name} {datetime.now():%Y-%m-%d %H:%M:%S}"
    if torch.cuda.is_available() and "dataloader_num_workers" not in settings.overrides:
        changes["dataloader_num_workers"] = DATALOADER_WORKERS
    return replace(settings, training=changed(training, **changes)), push_to


def changed(training: "TrainingArguments", **values) -> "TrainingArguments":
    """A copy of training arguments with other values. `dataclasses.replace` would initialise the device again."""
    other = copy.copy(training)
    vars(other).update(values)
    return other


def prepare(recipe: str, system: System, settings: Settings) -> tuple[Settings, "Setup"]:
    """Everything before the model: names, output folder, Hub login and seed, then corpus, fold and leak check. Returns
    the settings to train with, and the run's data. `recipe` is the stem of the recipe's file.
    Raises SerError: a wrong flag or corpus."""
    from ..data.mixing import load_mixture
    from .hub import check_public
    from .output import from_checkpoint
    from .provenance import check_checkpoints
    from .record import Setup, portable

    data = settings.data
    mixture, protocol = resolve(system, data, settings.columns, getattr(settings, "windows", None))
    config = mixture.tested.config
    if settings.run.thresholds and config.problem_type != VALUES:
        raise SerError(f"--thresholds: the labels {config.name!r} are no values; it is for regression, leave it out")
    if settings.run.stress and not system.reads_audio:
        raise SerError("--stress true: changes recordings, and this recipe reads texts; leave it out")
    _selection(settings, config.problem_type, config.label_names or ["a", "b"])
    check_checkpoints_exist(settings)
    settings, push_to = start(settings)
    with settings.training.main_process_first():
        options = {"with_audio": system.reads_audio, "num_proc": data.num_proc, "strict": data.strict}
        corpus, report, mixed = load_mixture(mixture, **options)
    splits = make_fold(corpus, mixed, protocol, data, data.fold, report.corpus)
    setup = Setup(recipe, system, settings.overrides, splits, report, mixed, protocol, data.fold, push_to)
    say(*setup.corpus_lines(), setup.split_line())
    trained_on = check_checkpoints(list(settings.checkpoints.values()), setup, settings.training.do_train)
    setup = replace(setup, trained_on=trained_on)
    if push_to:
        folders = settings.training.output_dir, data.data_dir
        check_public("results.json", setup.facts(), folders)
        check_public("run.yaml", portable(settings.overrides), folders)
    has_validation = len(splits["validation"]) > 0
    settings = replace(settings, training=changed(settings.training, about=setup.about()))
    settings = select_on_validation(settings, report.problem_type, report.label_names, has_validation)
    return from_checkpoint(settings, setup), setup


def resolve(
    system: System, data: DataArguments, columns: Columns, windows: WindowArguments | None = None
) -> "tuple[Mixture, Protocol]":
    """The corpora and the protocol that the flags name, without torch.
    Raises SerError: one of them does not exist, or the recipe does not learn such labels."""
    from ..data.mixing import find_mixture

    names = data.dataset, data.labels, data.data_dir, data.test_on, data.add_labels, data.protocol
    mixture = find_mixture(*names, columns)
    tested = mixture.tested
    kind = tested.config.problem_type
    if kind not in system.tasks:
        fitting = [config.name for config in tested.corpus.BUILDER_CONFIGS if config.problem_type in system.tasks]
        hint = f"choose --labels {' or '.join(fitting)}" if fitting else "use another recipe"
        raise SerError(f"{tested.shown}'s labels {tested.config.name!r} are of the kind {kind}: {hint}")
    if data.add_labels and not mixture.added:
        raise SerError("--add_labels: does nothing without a second corpus in --dataset; leave it out")
    if kind == VALUES and windows and windows.combine == "vote":
        raise SerError("--combine vote: windows cannot vote on values; choose mean, max or attention")
    return mixture, tested.protocol


def make_fold(
    corpus: "Dataset", mixed: "Mixed | None", protocol: "Protocol", data: DataArguments, fold: int, name: str
) -> "DatasetDict":
    """Train, validation and test of one fold, with a share of train's speakers if so asked, and the other corpora's
    utterances in train. Raises SerError: no such fold, an empty part, or a leak."""
    from ..data.mixing import add_to_train
    from ..data.splits import check_disjoint, cross_corpus, some_speakers, split

    alone = protocol.by == "corpus"  # the tested corpus is not trained on
    if alone and fold:
        raise SerError(f"--fold {fold}: {protocol.name} has one fold, 0")
    how = data.validation_fraction, data.split_seed
    splits = cross_corpus(corpus, mixed.rows, protocol, *how) if alone else split(corpus, name, protocol, fold, *how)
    if data.train_speakers is not None:
        splits["train"] = some_speakers(splits["train"], data.train_speakers, (data.split_seed, fold))
    splits = splits if alone else add_to_train(splits, mixed)
    check_disjoint(splits, protocol.speaker_independent, protocol.validation, protocol.hint)
    return splits


def begin(settings: Settings, setup: "Setup") -> None:
    """Make the output folder that of this run, once nothing else can be wrong: remove incomplete checkpoints, or the
    run that is overwritten; write what is trained on, and the flags."""
    from .output import halves, read_record, remove_run, write_record
    from .record import write_flags

    training, folder = settings.training, Path(settings.training.output_dir)
    with training.main_process_first():
        if training.process_index == 0:
            if settings.run.overwrite_output_dir:
                remove_run(folder)
            for half in halves(folder):
                say(f"{half} is incomplete: removed")
                shutil.rmtree(half)
            if not training.resume_from_checkpoint:  # nothing of a run that was interrupted before its first checkpoint
                remove_run(folder)
            (folder / "results.json").unlink(missing_ok=True)  # of a finished run that is trained on
            written = read_record(folder) or {"files": {}}
            own = dict.fromkeys(["run.yaml", AUGMENTATION, PROFILE])
            write_record(folder, setup.trained_on, {**written["files"], **own})
            write_flags(folder, setup.overrides)


def select_on_validation(
    settings: Settings, problem_type: str, label_names: Sequence[str], has_validation: bool
) -> Settings:
    """Settings that keep the checkpoint with the best validation metric; without validation the last one. Raises
    SerError: `--metric_for_best_model` is no metric of this kind of labels, or the best may not be saved."""
    values = {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}
    if has_validation:
        training, (metric, greater) = settings.training, _selection(settings, problem_type, label_names)
        by_steps = training.load_best_model_at_end and training.save_strategy == training.eval_strategy == "steps"
        if by_steps and training.save_steps != training.eval_steps:
            steps = f"--save_steps {training.save_steps:g} and --eval_steps {training.eval_steps:g}"
            raise SerError(f"{steps}: must be equal, else the best checkpoint is not saved; or --save_strategy best")
        values = {"metric_for_best_model": metric, "greater_is_better": greater}
    return replace(settings, training=changed(settings.training, **values))


def _selection(settings: Settings, problem_type: str, label_names: Sequence[str]) -> tuple[str, bool]:
    """As `Task.selection`. Raises SerError also if `--greater_is_better` is wrong."""
    from ..evaluation.tasks import TASKS

    training = settings.training
    metric, greater = TASKS[problem_type].selection(settings.overrides.get("metric_for_best_model"), label_names)
    if "greater_is_better" in settings.overrides and training.greater_is_better != greater:
        raise SerError(f"--greater_is_better {training.greater_is_better}: is wrong for {metric}; leave it out")
    return metric, greater


# ---- windows and figures


@dataclass(frozen=True)
class Windowed:
    """A split corpus as windows: parts with a row for each window, and the flags by which they were cut."""

    parts: dict[str, "Dataset"]
    flags: WindowArguments


def cut_windows(splits: "DatasetDict", windows: WindowArguments) -> Windowed | None:
    """The parts as windows, or None without `--window_seconds`; cut after the split: no clip is in two parts."""
    from ..data.windows import to_windows

    if windows.window_seconds is None:
        return None
    cut = windows.window_seconds, windows.hop, windows.window_last
    return Windowed({name: to_windows(rows, *cut) if len(rows) else rows for name, rows in splits.items()}, windows)


def draw_augmentation(
    splits: "DatasetDict", extractor, augmentation: "Augmentation", training: "TrainingArguments"
) -> None:
    """Draw the first training clip and the effect of each transform on it into the run's `figures/augmentation.png`."""
    from ..data.audio import decode
    from ..data.augmentation import draw_examples

    if training.process_index == 0:
        samples = decode(splits["train"][0]["audio"], extractor.sampling_rate)
        image = draw_examples(samples, extractor.sampling_rate, augmentation, training.seed)
        write(Path(training.output_dir) / AUGMENTATION, image)


# ---- training and after


def train(trainer: "SerTrainer", loop: LoopArguments) -> dict:
    """Train, from a checkpoint if asked to; returns the training's part of `results.json`."""
    from .trainer import Profile

    training, rows = trainer.args, trainer.train_dataset
    resume = training.resume_from_checkpoint  # as `prepare` has found it
    if loop.profile:
        trainer.add_callback(Profile(Path(training.output_dir) / PROFILE))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    state, seconds = trainer.state, time.perf_counter() - started
    if loop.profile:
        say(f"a trace of three steps is in {Path(training.output_dir) / PROFILE}: open it in https://ui.perfetto.dev")
    drawn = {"epoch", "loss", "eval_loss", f"eval_{training.metric_for_best_model}"}
    best = training.load_best_model_at_end and state.best_model_checkpoint
    selected = best and Path(best).is_dir()  # else the Trainer has kept the last model
    return {
        "epochs": state.epoch,
        "steps": state.global_step,
        "seconds": round(seconds, 1),
        "utterances_per_second": None if resume else round(len(rows) * state.epoch / seconds, 1),
        "audio_seconds_per_second": trainer.length_per_second if trainer.length == "duration" else None,
        "padding_factor": trainer.padding_factor,
        "selected_step": state.best_global_step if selected else state.global_step,
        "selected_by": training.metric_for_best_model if selected else "last epoch",
        "best_validation": state.best_metric if selected else None,
        "resumed": resume is not None,
        "processes": training.world_size,
        "curve": [c for e in state.log_history if len(c := {k: v for k, v in e.items() if k in drawn}) > 1],
    }


def finish(
    trainer: "SerTrainer",
    settings: Settings,
    setup: "Setup",
    trained: dict | None,  # as `train` returned it
    processor,  # the feature extractor, tokenizer or processor to save with the model
    *,
    windowed: Windowed | None = None,  # the parts as windows, if the model was trained on windows
    task: str = "audio-classification",  # of the pipeline that loads the model
    others: dict[str, "np.ndarray"] | None = None,  # logits on test of systems to compare with, by name
    remarks: Sequence[str] = (),  # lines of the report
    model: "PreTrainedModel | None" = None,  # the model to save, where the trainer's is only a part of it
    validation: "np.ndarray | None" = None,  # logits on validation, where the model to save was fitted on it too
    speaker_normalised: bool = False,
) -> dict:
    """Score test once, save the selected model and its report, print the report, push if asked; returns the results."""
    from ..evaluation import CLASSES, shift
    from ..evaluation.calibration import calibrate, describe
    from ..evaluation.card import read_stress, write_report
    from ..evaluation.report import lines
    from ..evaluation.scoring import compare, decision_thresholds, groups, predictions_table, score, utterance_logits
    from ..evaluation.stress import small_line
    from .hub import push_run
    from .lora import save_adapter
    from .output import saving_run
    from .record import describe_model, machine, versions
    from .saved_model import divide_logits, last_layer, save_model
    from .trackers import track

    training, splits = trainer.args, setup.splits
    folder, checkpoints = Path(training.output_dir), settings.checkpoints
    names, kind = setup.report.label_names, setup.report.problem_type

    def predict(part: str) -> "np.ndarray | None":
        rows = windowed.parts[part] if windowed else splits[part]
        return trainer.predict(rows).predictions if len(rows) else None

    def logits(part: str, raw: "np.ndarray", temperature: float) -> "np.ndarray":
        """Logits of utterances after a temperature."""
        if not windowed:
            return raw / temperature
        return utterance_logits(raw / temperature, windowed.parts[part], splits[part], kind, windowed.flags.combine)

    # 1. All processes predict; the first one goes on alone.
    raw_test, raw_validation = predict("test"), predict("validation") if validation is None else validation
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if training.process_index != 0:
        return {}

    # 2. The model: gathered if it was sharded, calibrated on validation, merged with its adapters, with its decision
    # thresholds.
    model = model or trainer.accelerator.unwrap_model(trainer.model)
    if state is not None:
        model = type(model)(model.config)
        model.load_state_dict(state)
    lora_rank = model.peft_config["default"].r if hasattr(model, "peft_config") else 0
    calibrated, temperature = None, 1.0
    if kind == CLASSES:
        why_not = {
            "the model was not trained here": trained is None,
            "there is no validation": raw_validation is None,
            "windows vote, and votes have no temperature": windowed is not None and windowed.flags.combine == "vote",
            "the last layer is not linear": last_layer(model) is None,
        }
        calibrated = calibrate(lambda t: logits("validation", raw_validation, t), splits["validation"], why_not)
        temperature = calibrated["temperature"] or 1.0
        divide_logits(model, temperature)
        if calibrated["sets"]:
            model.config.label_sets = calibrated["sets"]
    test = logits("test", raw_test, temperature)
    validation = None if raw_validation is None else logits("validation", raw_validation, temperature)
    with saving_run(folder) as new:
        model = save_adapter(model, new, checkpoints.get("model_name_or_path"))
        limits = decision_thresholds(splits["validation"], validation, names, kind)
        if limits:
            model.config.thresholds = dict(zip(names, limits, strict=True))
        saved = save_model(model.to("cpu"), processor, new)

        if trained and setup.system.reads_audio:
            described = shift.describe(splits["train"], names, kind)
            write(new / shift.TRAINING_DATA, json.dumps(described, indent=1) + "\n")

        # 3. Scores, report, push.
        how, at = {"names": names, "problem_type": kind, "thresholds": limits}, settings.run.thresholds
        results = setup.facts() | {
            "model": describe_model(model, saved, task, list(checkpoints.values()), lora_rank, speaker_normalised),
            "seed": training.seed,
            "training": trained,
            "test": score(splits["test"], test, **how, report_at=at) | groups(splits["test"], test, **how),
            "validation": None if validation is None else score(splits["validation"], validation, **how, report_at=at),
        }
        scored, reading = windowed.parts if windowed else splits, replace(trainer.clips, trim_db=trainer.trim_db)
        unlike = unlike_saved(scored["test"], reading, getattr(processor, "feature_extractor", processor))
        results["test"]["remarks"] += [*remarks, *unlike]
        results |= {"clips": vars(reading)} if unlike else {}
        if calibrated:
            before = logits("test", raw_test, 1.0)
            results["calibration"] = calibrated | describe(before, test, splits["test"], calibrated["sets"])
        if windowed:
            results["test_windows"] = score(windowed.parts["test"], raw_test / temperature, **how, report_at=at)
            flags = windowed.flags
            results["windows"] = {"seconds": flags.window_seconds, "hop": flags.hop, "combine": flags.combine}
        if others:
            results["comparisons"] = compare(splits["test"], test, others, names, kind, limits)
        results |= {"versions": versions(), "machine": machine(training.use_cpu)}
        results["seconds"] = round(time.perf_counter() - STARTED, 1)
        if settings.run.stress:
            for name, content in stress_files(model, processor, setup, results, training.device).items():
                write(new / name, content)
        table = predictions_table(splits["test"], test, names, kind, others)
        write_report(new, results, table, setup.push_to and setup.push_to.id)
    if training.report_to:
        track(trainer, folder, results)
    stressed = [small_line(report)] if (report := read_stress(folder)) else []
    say(*lines(results), *stressed, "", f"saved {saved.__name__} and the report in {folder}")
    if setup.push_to:
        say(f"pushed to {push_run(folder, setup.push_to)}")
    return results


def unlike_saved(rows: "Dataset", clips: ClipArguments, extractor) -> list[str]:
    """A remark on the rows that were scored trimmed, cropped or padded, which the model saved with this feature
    extractor does not do; none if there are no such rows."""
    import numpy as np

    from ..data.trimming import trimmed_durations

    durations = rows["duration"][:], trimmed_durations(rows, clips.trim_db)
    whole, read = (np.array(one, dtype=float) for one in durations)
    trims = getattr(extractor, "trim_db", None) is not None
    done = {
        f"trimmed by --trim_db {clips.trim_db}": (read < whole - SAME) & (not trims),
        f"cropped by --max_seconds {clips.max_seconds}": read > (clips.max_seconds or np.inf) + SAME,
        f"padded by --min_seconds {clips.min_seconds}": read < clips.min_seconds - SAME,
    }
    parts = [f"{which.sum()} {how}" for how, which in done.items() if which.any()]
    windows = "window_start" in rows.column_names
    what, more = ("windows", ", as ser-hf stress does not") if windows else ("clips", "")
    counts = f"of {len(rows)} test {what} {', '.join(parts)}"
    return [f"{counts}; the saved model does not do that: give it such {what}{more}"] if parts else []


def stress_files(
    model: "PreTrainedModel",
    processor: "ProcessorMixin | FeatureExtractionMixin",  # of a fusion model, or of audio alone
    setup: "Setup",
    results: dict,
    device: "torch.device",
) -> dict[str, str | bytes]:
    """`--stress`: the files of `ser-hf stress` on the test part of a run."""
    from datasets import concatenate_datasets

    from ..evaluation.perturbations import CHANGES
    from ..evaluation.stress import clip_options, files, stress
    from ..models import SerPipeline
    from .encoder_states import fingerprint

    fused = hasattr(model.config, "text_config")
    audio = {"feature_extractor": processor.feature_extractor if fused else processor}
    pipe = SerPipeline(model=model, device=device, processor=processor if fused else None, **audio)
    rows = setup.splits["test"]
    corpus = concatenate_datasets([part.select_columns(["id", "audio", "speaker"]) for part in setup.splits.values()])
    found = stress(pipe, rows, corpus, fingerprint(model), CHANGES, **clip_options(results))
    about = {"corpus": setup.report.corpus, "labels": setup.report.labels, "part": "test"}
    about |= {"protocol": setup.protocol.name, "fold": setup.fold}
    return files({"model": setup.system.name, **about}, found)
