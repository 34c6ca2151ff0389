"""Synthetic copies of every corpus in its native layout, with every trap of it; nothing of a real corpus is in them.

One file per corpus: `make(root)` writes the copy; `EXPECTED` holds the counts of each label configuration;
`ROWS` holds hand-checked values of some rows, `{id: {column: value}}`, in the default configuration.
"""

import os
from pathlib import Path

# The conformance suite must not print a progress bar per corpus.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import soundfile as sf


def voice(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1, seed: int | str = 0, **write) -> Path:
    """A harmonic tone with noise, different for every `seed` (its text may be the file name); equal channels."""
    number = seed if isinstance(seed, int) else int.from_bytes(seed.encode()[-6:], "little")
    rng = np.random.default_rng(number)
    time = np.arange(round(seconds * rate)) / rate
    pitch = rng.uniform(90, 260)
    wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3)) * 0.2 + rng.normal(0, 0.01, len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    write.setdefault("subtype", "PCM_16")
    sf.write(path, np.repeat(wave[:, None], channels, axis=1), rate, **write)
    return path
