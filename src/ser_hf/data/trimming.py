"""How long clips are once they are trimmed, which says how many of them fill a batch."""

import numpy as np
from datasets import Dataset

from . import audio
from .cache import Store, settings_folder
from .columns import select_present

RATE = 16000  # Hz; at another rate a trimmed length differs by a few milliseconds


def trimmed_durations(rows: Dataset, trim_db: float | None) -> list[float | None]:
    """Seconds of each row's audio that `audio.prepared` leaves by `trim_db`; None without audio. Parts of a recording
    (`window_start`) are not trimmed, and None as `trim_db` trims nothing. Each clip is read once, then known under
    $SER_CACHE by its hash. A clip that can no longer be read counts whole: who needs it says so."""
    durations, has = rows["duration"][:], rows.column_names
    if trim_db is None or "window_start" in has or "audio_hash" not in has:
        return durations
    import torch

    from ..models.audio_blocks import trim

    hashes, speeds = rows["audio_hash"][:], rows["speed"][:] if "speed" in has else [None] * len(rows)
    numbers, clips = [i for i, name in enumerate(hashes) if name], select_present(rows, ("audio",))

    def seconds(position: int) -> torch.Tensor:
        try:
            samples, _ = audio.read(clips[numbers[position]]["audio"], RATE)
        except audio.AudioError:
            return torch.tensor(np.inf)
        first, last = trim(samples, RATE, trim_db)
        return torch.tensor((last - first) / RATE)

    store = Store(settings_folder("trimmed", __file__, trim_db))
    store.fill([hashes[i] for i in numbers], seconds)
    found = {i: float(store[hashes[i]]) / (speeds[i] or 1.0) for i in numbers}
    return [None if whole is None else min(whole, found.get(i, whole)) for i, whole in enumerate(durations)]
