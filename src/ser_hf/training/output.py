"""The output folder of a run: its record, its checkpoints, and whether another run may write there.

The record (`record.json`) lies in the folder of a run, from its start on, and in each of its checkpoints. `trained_on`
are the trainings of the model, as `provenance.training_of` describes them; `files` are the files that the run writes,
in a checkpoint with their sizes. It is written last: a checkpoint without it, or with other files, is incomplete.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import SerError
from ..files import SAVING, flush, hold, write
from .run import changed, say
from .settings import Settings

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from .record import Setup

RECORD = "record.json"
# The flags that decide the folds.
SPLIT = ("protocol", "fold", "split_seed")


def trainings_in(record: Any) -> list[dict[str, Any]]:
    """The trainings in a record, or in `results.json`; none in a file that is not ours."""
    needed = {"corpus", "added", "test_ids", "test_speakers", *SPLIT}
    trainings = record.get("trained_on") if isinstance(record, dict) else None
    trainings = trainings if isinstance(trainings, list) else []
    return [one for one in trainings if isinstance(one, dict) and needed <= one.keys()]


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run or a checkpoint: `trained_on` and `files`; None if it has none."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return {"trained_on": trainings_in(record), "files": dict(record["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: Path, trained_on: Sequence[dict], files: Mapping[str, int | None]) -> None:
    """Write the record of a folder."""
    record = {"trained_on": list(trained_on), "files": dict(files)}
    write(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def files_of(folder: Path) -> dict[str, int]:
    """All files below a folder, but for its record, and their sizes in bytes, once they are on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD)
    for file in files:
        flush(file)
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}


# ---- the files of a run, and its checkpoints


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, by their step."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(checkpoints, key=lambda path: int(path.name.partition("-")[2]))


def seal(checkpoint: Path) -> None:
    """Write the record of a checkpoint, all of whose files are there, from its run's."""
    run = read_record(checkpoint.parent)
    write_record(checkpoint, run["trained_on"] if run else [], files_of(checkpoint))


def complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has its record, and all files of the record in their recorded sizes."""
    if not (record := read_record(checkpoint)):
        return False
    files = [(checkpoint / name, size) for name, size in record["files"].items()]
    return all(file.is_file() and file.stat().st_size == size for file, size in files)


def halves(folder: Path) -> list[Path]:
    """The incomplete checkpoints in a run's folder. SerError: it has no record that says what is complete."""
    incomplete = [checkpoint for checkpoint in checkpoints_of(folder) if not complete(checkpoint)]
    if incomplete and not (folder / RECORD).exists():
        why = f"has no {RECORD} that says what it was trained on, and whether it is complete"
        raise SerError(f"{incomplete[-1]}: {why}; start anew: --overwrite_output_dir true")
    return incomplete


def rotate(newest: Path, best: str | None, limit: int | None) -> None:
    """Remove the oldest checkpoints of a run beyond `limit`, but never the newest and the best one. (Trainer's function
    also takes a copy such as `checkpoint-mine` for one of them.)"""
    stay = {newest, Path(best or newest)}
    others = [path for path in checkpoints_of(newest.parent) if path not in stay]
    most = len(others) if limit is None else max(0, limit - len(stay))
    for old in sorted(others, key=lambda path: path.stat().st_mtime)[: max(0, len(others) - most)]:
        shutil.rmtree(old)


def remove_run(folder: Path) -> None:
    """Remove what an earlier run has written in its folder; a user's own files stay."""
    for checkpoint in checkpoints_of(folder):
        shutil.rmtree(checkpoint)
    record = (read_record(folder) or {"files": None})["files"]
    logs = [file.relative_to(folder) for file in folder.glob("runs/*/events.out.tfevents.*") if record]  # TensorBoard's
    for name in ("results.json", *(record or ()), *logs, RECORD):  # without results.json it is no finished run
        if Path(name).is_absolute() or ".." in Path(name).parts:
            continue
        (folder / name).unlink(missing_ok=True)
        for parent in list(Path(name).parents)[:-1]:
            if (folder / parent).is_dir() and not any((folder / parent).iterdir()):
                (folder / parent).rmdir()


@contextmanager
def saving_run(folder: Path) -> Iterator[Path]:
    """A temporary folder, whose files are moved to that of the run after the block, `results.json` last; the run's
    record names them before."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=SAVING) as staging:
        yield Path(staging)
        record, new = read_record(folder) or {"trained_on": [], "files": {}}, files_of(Path(staging))
        write_record(folder, record["trained_on"], {**record["files"], **new})
        for name in sorted(new, key=lambda name: name == "results.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(staging, name), folder / name)


# ---- whether a run may write in a folder, and where it goes on


def claim_output(folder: Path, settings: Settings) -> None:
    """Hold the output folder. Raises SerError: it holds a run that this one would write over."""
    training, resume = settings.training, _resume(settings.training)
    hold(folder, f"--output_dir {folder}")
    for flag, name in settings.checkpoints.items():
        if Path(name).exists() and Path(name).resolve().is_relative_to(folder.resolve()):
            raise SerError(f"--output_dir {folder} holds the checkpoint of --{flag}: choose another --output_dir")
    if settings.run.overwrite_output_dir:
        if resume and (resume == "true" or Path(resume).resolve().is_relative_to(folder.resolve())):
            raise SerError("--overwrite_output_dir true removes what --resume_from_checkpoint goes on from: give one")
        return
    anew = "--overwrite_output_dir true starts anew"
    if (folder / "results.json").exists():
        if not (training.do_train and resume and _trains_on(folder, settings)):
            more = "--resume_from_checkpoint true with more --num_train_epochs trains on"
            raise SerError(f"--output_dir {folder} holds a finished run: choose another, {anew}, {more}")
    elif checkpoints_of(folder) and not (training.do_train and resume):
        choice = f"--resume_from_checkpoint true goes on with it, {anew}"
        raise SerError(f"--output_dir {folder} holds an unfinished run: {choice}")


def _trains_on(folder: Path, settings: Settings) -> bool:
    """Whether the settings ask for a longer training than that of the finished run in a folder."""
    training = settings.training
    if not (folder / "run.yaml").exists():
        return False
    before = {"num_train_epochs": 3, "max_steps": -1} | yaml.safe_load((folder / "run.yaml").read_text())
    length = "max_steps" if training.max_steps > 0 else "num_train_epochs"
    longer = getattr(training, length) > float(before[length])
    if longer and settings.overrides.get("one_cycle"):
        raise SerError("--one_cycle true: the cycle of the learning rate is over, a finished run cannot be trained on")
    return longer


def from_checkpoint(settings: Settings, setup: "Setup") -> Settings:
    """Settings whose `resume_from_checkpoint` is the checkpoint that the training goes on from, or None: for `true` the
    last complete one. Raises SerError: the training cannot go on from it."""
    training, folder = settings.training, Path(settings.training.output_dir)
    checkpoint = resume = _resume(training)
    if resume == "true":
        left_out = halves(folder)
        checkpoint = next((str(last) for last in checkpoints_of(folder)[::-1] if last not in left_out), None)
    if checkpoint:
        check_resumed(Path(checkpoint), setup)
        state = f"rng_state_{training.process_index}.pth" if training.world_size > 1 else "rng_state.pth"
        if not (Path(checkpoint) / state).exists():
            why = "was saved by another number of processes"
            say(f"{checkpoint} {why}: random numbers, such as dropout's, are not those of an unbroken run")
    elif resume:
        say(f"no complete checkpoint in {folder} yet: starting from the beginning")
    return replace(settings, training=changed(training, resume_from_checkpoint=checkpoint))


def check_resumed(checkpoint: Path, setup: "Setup") -> None:
    """Raises SerError: the checkpoint is incomplete, has no optimizer state, or is of other data or another seed."""
    flag, anew = f"--resume_from_checkpoint {checkpoint}", "choose another, or start anew in another --output_dir"
    if not complete(checkpoint):
        raise SerError(f"{flag}: is incomplete (no {RECORD}, or a file that is in it is missing or cut off); {anew}")
    record = read_record(checkpoint)
    if not any(name.startswith(("optimizer", "global_step")) for name in record["files"]):
        raise SerError(f"{flag}: has no state of the optimizer (--save_only_model true); {anew}")
    before, now = record["trained_on"], list(setup.trained_on)
    if before != now:
        was, wanted = before[0] if before else {}, now[0]
        names = [name for name in wanted if was.get(name) != wanted[name]]
        flags = [name for name in ("corpus", *SPLIT, "seed") if name in names]
        how = ", ".join(f"{name} {was.get(name)} and not {wanted[name]}" for name in flags)
        other = "other clips or labels" if names else "other checkpoints to start from"
        raise SerError(f"{flag}: was trained with {how or other}; {anew}")


def _resume(training: "TrainingArguments") -> str | None:
    """`--resume_from_checkpoint`: a folder, "true" for the last checkpoint, or None. SerError: no such folder."""
    resume = str(training.resume_from_checkpoint)
    if resume.lower() in ("false", "none", "0", ""):
        return None
    if resume.lower() in ("true", "1"):
        return "true"
    if not Path(resume).is_dir():
        raise SerError(f"--resume_from_checkpoint {resume}: no such folder; `true` takes the last one of the run")
    return resume
