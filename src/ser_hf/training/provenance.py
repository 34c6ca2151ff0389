"""The provenance of checkpoints, from the records of their runs: no encoder may be tested on its training data."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..data.cache import content_hash
from ..data.columns import select_present
from ..data.corpus import CROSS_CORPUS
from ..data.splits import Protocol
from ..errors import SerError
from ..files import optional_file
from .output import SPLIT, read_record, trainings_in
from .record import Setup


def rows_hash(splits: DatasetDict) -> str:
    """A hash of the ids, content and labels of all parts."""
    columns, parts = ("id", "audio_hash", "text", "label"), []
    for name in sorted(splits):
        parts += [name, *sorted(repr(list(row.values())) for row in select_present(splits[name], columns).to_list())]
    return content_hash(*parts)


def training_of(setup: Setup) -> dict[str, Any]:
    """The corpora and the split that a run trains on, with hashes of its test ids and test speakers (None where train
    may have the same speakers), and of all its clips. `setup` is that of `run.prepare`, with all utterances."""
    test = setup.splits["test"]
    speakers = sorted({str(name) for name in test["speaker"][:]}) if setup.protocol.speaker_independent else None
    return {
        "corpus": setup.report.corpus,
        "added": list(setup.mixed.counts) if setup.mixed else [],
        "protocol": setup.protocol.name,
        "fold": setup.fold,
        "split_seed": int(setup.overrides.get("split_seed", 42)),
        "test_ids": content_hash(*sorted(test["id"][:])),
        "test_speakers": speakers and content_hash(*speakers),
        "clips": rows_hash(setup.splits),
        "seed": int(setup.overrides.get("seed", 42)),
    }


def trainings_of(name_or_path: str) -> list[dict[str, Any]]:
    """The trainings of a checkpoint and of those it was made from: from the record of its folder (of its run, for a
    `checkpoint-100`), else from its `results.json`, there or on the Hub; none without. SerError: it is damaged."""
    folder, run = Path(name_or_path).expanduser(), _run_of(name_or_path)
    if record := read_record(folder) or read_record(run):
        return record["trained_on"]
    results = results_of(name_or_path)
    if not results and (run / "run.yaml").is_file():
        why = "what it was trained on, and so what may be tested, is not known; copy the run again with all its files"
        raise SerError(f"{name_or_path}: a run without record.json and results.json: {why}")
    return trainings_in(results)


def corpora_of(training: dict[str, Any]) -> list[str]:
    """The corpora that a training, as from `trainings_of`, has read utterances of: not one that was only tested."""
    return [*([training["corpus"]] if training["protocol"] != CROSS_CORPUS.name else []), *training["added"]]


def results_of(name_or_path: str) -> dict[str, Any]:
    """The `results.json` of a model: of its folder (of its run, for a `checkpoint-100`) or on the Hub; empty without
    such a file, or with one that is not ours. SerError: a damaged one."""
    folder, run = Path(name_or_path).expanduser(), _run_of(name_or_path)
    file = optional_file(name_or_path if run == folder else str(run), "results.json")
    try:
        results = json.loads(file.read_text()) if file else {}
    except (OSError, ValueError):
        why = "which says what the model was trained on, is damaged; copy or download it again"
        raise SerError(f"{name_or_path}: results.json, {why}") from None
    ours = isinstance(results, dict) and isinstance(results.get("corpus", {}), dict)
    return results if ours else {}


def _run_of(name_or_path: str) -> Path:
    folder = Path(name_or_path).expanduser()
    return folder.parent if re.fullmatch(r"checkpoint-\d+", folder.name) else folder


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
    if now["corpus"] not in corpora_of(before) or before["test_ids"] == now["test_ids"]:
        return None
    differs = [f"{key} {before[key]} and not {now[key]}" for key in SPLIT if before[key] != now[key]]
    if differs:
        return f"with {', '.join(differs)}"
    # Another label set may keep other rows, whose speakers are held out all the same, unless it moves the folds.
    fixed = protocol.by != "random" and bool(protocol.folds)
    speakers = now["test_speakers"] is not None and before["test_speakers"] == now["test_speakers"]
    return None if fixed or speakers else "with another test set, of other labels or files"
