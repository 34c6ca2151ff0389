"""The provenance of checkpoints, from the records of their runs: no encoder may be tested on its training data.

A record (`record.json`) is written when a run starts, and lies in its folder and in each of its checkpoints:
`trained_on` are the trainings of the model, as `training_of` describes them, `files` are those that the run writes, in
a checkpoint with their size. It is the last file of a checkpoint: one without it, or with other files, is incomplete.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers.utils import cached_file

from ..data.cache import content_hash
from ..data.splits import Protocol
from ..errors import SerError
from ..files import flush, write
from .record import Setup

RECORD = "record.json"
# The flags that decide the folds.
SPLIT = ("protocol", "fold", "split_seed")


def rows_hash(splits: DatasetDict) -> str:
    """A hash of the ids, content and labels of all parts."""
    columns, parts = ("id", "audio_hash", "text", "label"), []
    for name in sorted(splits):
        rows = splits[name].select_columns([column for column in columns if column in splits[name].column_names])
        parts += [name, *sorted(repr(list(row.values())) for row in rows)]
    return content_hash(*parts)


def training_of(setup: Setup) -> dict[str, Any]:
    """The corpora and the split that a run trains on, with hashes of its test ids and test speakers (None where train
    may have the same speakers), and of all its clips. `setup` is that of `run.prepare`, with all utterances."""
    test = setup.splits["test"]
    speakers = sorted({str(name) for name in test["speaker"]}) if setup.protocol.speaker_independent else None
    return {
        "corpus": setup.report.corpus,
        "added": list(setup.mixed.counts) if setup.mixed else [],
        "protocol": setup.protocol.name,
        "fold": setup.fold,
        "split_seed": int(setup.overrides.get("split_seed", 42)),
        "test_ids": content_hash(*sorted(test["id"])),
        "test_speakers": speakers and content_hash(*speakers),
        "clips": rows_hash(setup.splits),
        "seed": int(setup.overrides.get("seed", 42)),
    }


def trainings_of(name_or_path: str) -> list[dict[str, Any]]:
    """The trainings of a checkpoint and of those it was made from: from the record of its folder (of its run, for a
    `checkpoint-100`), else from its `results.json`, there or on the Hub; empty without such a file."""
    folder = Path(name_or_path).expanduser()
    run = folder.parent if re.fullmatch(r"checkpoint-\d+", folder.name) else folder
    if record := read_record(folder) or read_record(run):
        return record["trained_on"]
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        file = cached_file(name_or_path if run is folder else str(run), "results.json", **quiet)
        results = json.loads(Path(file).read_text()) if file else {}
    except (OSError, ValueError):
        return []  # no such checkpoint: loading it will raise; or a file of that name that is not ours
    return _described(results)


def _described(record: Any) -> list[dict[str, Any]]:
    needed = {"corpus", "added", "test_ids", "test_speakers", *SPLIT}
    trainings = record.get("trained_on") if isinstance(record, dict) else None
    trainings = trainings if isinstance(trainings, list) else []  # a file of that name that is not ours
    return [one for one in trainings if isinstance(one, dict) and needed <= one.keys()]


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run or a checkpoint: `trained_on` and `files`; None if it has none."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return {"trained_on": _described(record), "files": dict(record["files"])}
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


# ---- checkpoints of a run


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, by their step."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def seal(checkpoint: Path) -> None:
    """Write the record of a checkpoint, all of whose files are there, from its run's."""
    run = read_record(checkpoint.parent)
    write_record(checkpoint, run["trained_on"] if run else [], files_of(checkpoint))


def complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has its record, and every file of it in its size."""
    record = read_record(checkpoint)
    sizes = {} if record is None else record["files"]
    return record is not None and all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == sizes[name] for name in sizes
    )


def check_resumed(checkpoint: Path, setup: Setup) -> None:
    """Raises SerError: a run cannot go on from this checkpoint, which is incomplete, has no state of the optimizer, or
    is of another fold, seed, or other clips."""
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


def halves(folder: Path) -> list[Path]:
    """The incomplete checkpoints in a run's folder. Raises SerError: one may be complete, of an earlier version of
    ser_hf, whose runs have no record."""
    found = [checkpoint for checkpoint in checkpoints_of(folder) if not complete(checkpoint)]
    if found and not (folder / RECORD).exists():
        why = f"has no {RECORD} that says what it was trained on, and whether it is complete"
        raise SerError(f"{found[-1]}: {why}; start anew: --overwrite_output_dir true")
    return found


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


def move_in(staging: Path, folder: Path) -> None:
    """Move the files of a finished run into its folder, `results.json` last; its record names them before."""
    record, new = read_record(folder) or {"trained_on": [], "files": {}}, files_of(staging)
    write_record(folder, record["trained_on"], {**record["files"], **new})
    for name in sorted(new, key=lambda name: name == "results.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, folder / name)


# ---- the check


def check_checkpoints(names: Sequence[str], setup: Setup, do_train: bool = True) -> list[dict[str, Any]]:
    """The trainings of a run's model: the run's own, if it trains, and those of its checkpoints (folders or Hub ids).
    Raises SerError: a checkpoint, or one it was made from, was trained on utterances that are tested."""
    now = training_of(setup)
    trainings = [now] if do_train else []
    for name in names:
        for before in trainings_of(name):
            if how := _contamination(before, now, setup.protocol):
                give = "give the checkpoint of this very split ({fold} in its name stands for the fold)"
                why = "and so on utterances that are tested here"
                raise SerError(f"leak: {name} was trained on {now['corpus']} {how}, {why}; {give}")
            trainings += [before] if before not in trainings else []
    return trainings


def _contamination(before: dict[str, Any], now: dict[str, Any], protocol: Protocol) -> str | None:
    """How an earlier training may contain utterances of this test set; None where it cannot."""
    if now["corpus"] in before["added"]:
        return "as a whole"
    if before["corpus"] != now["corpus"] or before["test_ids"] == now["test_ids"]:
        return None
    differs = [f"{key} {before[key]} and not {now[key]}" for key in SPLIT if before[key] != now[key]]
    if differs:
        return f"with {', '.join(differs)}"
    # Another label set may keep other rows, whose speakers are held out all the same, unless it moves the folds.
    fixed = protocol.by != "random" and bool(protocol.folds)
    speakers = now["test_speakers"] is not None and before["test_speakers"] == now["test_speakers"]
    return None if fixed or speakers else "with another test set, of other labels or files"
