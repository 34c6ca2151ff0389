"""What a checkpoint was trained on, and those it was made from, as far as their own runs say: nothing may be tested on
what its encoder has heard."""

import json
import re
from pathlib import Path

import yaml

from ..errors import SerError
from .record import Setup
from .settings import CHECKPOINTS

# What a split follows from, beside the rows that a label set keeps.
SPLIT = ("protocol", "fold", "split_seed")


def own_training(setup: Setup) -> dict:
    """What a run trains on and must not: `{"corpus", "added", "protocol", "fold", "split_seed", "test_ids",
    "test_speakers"}`, the last two as hashes; that of speakers is None where train may have the same.

    Args:
        setup: `results.Setup`, before a recipe leaves utterances out that it cannot read.
    """
    from ..data.cache import content_hash

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
    }


def trainings_of(name_or_path: str, seen: frozenset[str] = frozenset()) -> list[dict]:
    """What a run's model was trained on, and the checkpoints it was made from: entries as `own_training`'s.

    They are in the `results.json` of its folder or on the Hub, of a `checkpoint-100` in the run's own folder. Of a run
    of before they were (without hashes), they are gathered from its `run.yaml`, and from the checkpoints named there if
    they are still found. Of a checkpoint that no run of these recipes made nothing is known, and there are none.
    """
    from transformers.utils import cached_file

    folder = Path(name_or_path)
    if re.fullmatch(r"checkpoint-\d+", folder.name) and (folder.parent / "run.yaml").exists():
        name_or_path = str(folder.parent)
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        found = [cached_file(name_or_path, file, **quiet) for file in ("results.json", "run.yaml")]
    except OSError:
        return []  # there is no such checkpoint: who loads it says so
    results = json.loads(Path(found[0]).read_text()) if found[0] else {}
    if "trained_on" in results:
        return results["trained_on"]
    if found[1] is None or not {"ser_hf", "corpus", "protocol"} <= results.keys():
        return []
    flags, fold = yaml.safe_load(Path(found[1]).read_text()), results["protocol"]["fold"]
    entry = {"corpus": results["corpus"]["corpus"], "added": list(results.get("mixed") or {})}
    entry |= {"protocol": results["protocol"]["name"], "fold": fold, "split_seed": int(flags.get("split_seed", 42))}
    seen |= {name_or_path}
    names = [str(flags[flag]) for flag in CHECKPOINTS if flags.get(flag)]
    names = [n.replace("{fold}", str(fold)).replace("{seed}", str(results.get("seed", 42))) for n in names]
    return [entry, *(one for name in names if name not in seen for one in trainings_of(name, seen))]


def check_checkpoints(names: list[str], setup: Setup, do_train: bool = True) -> list[dict]:
    """Stop when a checkpoint, or one it was made from, was trained on what is tested: it has heard test speakers.

    Args:
        names: Checkpoints, folders or Hub ids.
        setup: `results.Setup`.
        do_train: Whether this run trains.

    Returns:
        What the run's model was trained on once it is done, for its `results.json`: the run's own entry and all of its
        checkpoints.

    Raises:
        SerError: names the checkpoint and how its split differs.
    """
    now = own_training(setup)
    entries = [now] if do_train else []
    for name in names:
        for before in trainings_of(name):
            if how := _heard(before, now, setup.protocol):
                raise SerError(
                    f"leak: {name} was trained on {now['corpus']} {how}: it has heard utterances that are tested here; "
                    "give the checkpoint of this very split ({fold} in its name stands for the fold)"
                )
            entries += [before] if before not in entries else []
    return entries


def _heard(before: dict, now: dict, protocol) -> str | None:
    """How an earlier training may have heard this test set; None where it has not."""
    if now["corpus"] in before["added"]:
        return "as a whole"
    if before["corpus"] != now["corpus"] or before.get("test_ids") == now["test_ids"]:
        return None
    differs = [f"{key} {before[key]} and not {now[key]}" for key in SPLIT if before[key] != now[key]]
    if differs:
        return f"with {', '.join(differs)}"
    # Another label set may keep other rows, whose speakers are held out all the same, unless it moves the folds.
    fixed = protocol.by != "random" and bool(protocol.folds)
    speakers = now["test_speakers"] is not None and before.get("test_speakers") == now["test_speakers"]
    return None if fixed or speakers or "test_ids" not in before else "with another test set, of other labels or files"
