"""Speaker normalisation: whose features it needs, and what a report says of it. No label is read."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

import torch
from datasets import Dataset

from ..errors import SerError
from .record import RELATIVE_TO
from .settings import ClipArguments


def check_speakers(parts: Mapping[str, Dataset]) -> None:
    """Raises SerError if an utterance has no speaker."""
    speakers = [speaker for rows in parts.values() for speaker in rows["speaker"]]
    if None in speakers:
        count = f"{speakers.count(None)} of {len(speakers)} utterances have no speaker"
        raise SerError(f"--speaker_norm: {count}; --speaker_norm false goes without")


def check_whole_clips(speaker_norm: bool, clips: ClipArguments, windowed: bool) -> None:
    """Raises SerError if clips are cut or zero-padded and `speaker_norm`: the mean of a speaker's windows or crops is
    not that of whole clips."""
    changed = [flag for flag in ("max_seconds", "min_seconds") if getattr(clips, flag)]
    changed += ["window_seconds"] if windowed else []
    if speaker_norm and changed:
        raise SerError(f"--{changed[0]}: the means of --speaker_norm are those of whole clips; leave one of them out")


def means_by(pairs: Iterable[tuple[Hashable, torch.Tensor]]) -> dict[Hashable, torch.Tensor]:
    """The mean of the tensors of each key.

    >>> means_by([("ann", torch.tensor(1.0)), ("ben", torch.tensor(5.0)), ("ann", torch.tensor(2.0))])
    {'ann': tensor(1.5000), 'ben': tensor(5.)}
    """
    sums, counts = {}, Counter()
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
        counts[key] += 1
    return {key: total / counts[key] for key, total in sums.items()}


def speaker_remark(splits: Mapping[str, Dataset], model_type: str) -> str:
    """A line on the number of utterances by which test speakers are normalised."""
    utterances = Counter(speaker for rows in splits.values() for speaker in rows["speaker"])
    counts = [utterances[speaker] for speaker in set(splits["test"]["speaker"])]
    return (
        f"SPEAKER-NORMALISED: features are relative to each speaker's {RELATIVE_TO[model_type]}, in test of "
        f"{min(counts)} to {max(counts)} utterances; do not compare with systems that read one clip of an unknown "
        "speaker"
    )
