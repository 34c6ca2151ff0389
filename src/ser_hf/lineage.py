"""What a checkpoint was trained on, as far as its own run says: nothing may be tested on what its encoder has heard."""

import json
from pathlib import Path

import yaml

from .errors import SerError


def training_of(name_or_path: str) -> dict | None:
    """`{"corpus", "added", "protocol", "fold", "split_seed"}` of a run of these recipes, from its `results.json` and
    `run.yaml` in a folder or on the Hub; None for any other checkpoint, of which nothing is known."""
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        found = [cached_file(name_or_path, file, **quiet) for file in ("results.json", "run.yaml")]
    except OSError:
        return None  # there is no such checkpoint: who loads it says so
    if None in found:
        return None
    results, flags = json.loads(Path(found[0]).read_text()), yaml.safe_load(Path(found[1]).read_text())
    if not {"ser_hf", "corpus", "protocol"} <= results.keys():
        return None
    return {
        "corpus": results["corpus"]["corpus"],
        "added": list(results["mixed"] or {}),
        "protocol": results["protocol"]["name"],
        "fold": results["protocol"]["fold"],
        "split_seed": int(flags.get("split_seed", 42)),
    }


def check_checkpoints(names: list[str], setup) -> None:
    """Stop when a checkpoint was fine-tuned on another split of the corpus that is tested: it has heard test speakers.

    Args:
        names: Checkpoints, folders or Hub ids.
        setup: `results.Setup`.

    Raises:
        SerError: names the checkpoint, its fold and the run's.
    """
    corpus = setup.report.corpus
    now = {"protocol": setup.protocol.name, "fold": setup.fold, "split_seed": int(setup.given.get("split_seed", 42))}
    for name in names:
        before = training_of(name)
        if before is None or corpus not in (before["corpus"], *before["added"]):
            continue
        differs = [f"{key} {before[key]} and not {value}" for key, value in now.items() if before[key] != value]
        how = f"with {', '.join(differs)}" if corpus == before["corpus"] else "as a whole"
        if differs or corpus in before["added"]:
            raise SerError(
                f"leak: {name} was trained on {corpus} {how}: it has heard utterances that are tested here; give the "
                "checkpoint of this very split ({fold} in its name stands for the fold)"
            )
