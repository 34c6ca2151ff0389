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


def babble(seed: int, seconds: float = 2.0, rate: int = 16000) -> np.ndarray:
    """Harmonics of a gliding pitch under formants that change every 80 ms, with pauses: as many details as speech."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    knots = np.arange(0, seconds + 0.08, 0.08)
    pitch = np.interp(time, knots, rng.uniform(110, 220, len(knots)))
    wave = np.zeros(len(time))
    for number in range(1, 16):
        level = np.interp(time, knots, rng.exponential(1, len(knots)) * (rng.random(len(knots)) > 0.2))
        wave += level * np.sin(2 * np.pi * number * np.cumsum(pitch) / rate) / number
    return (0.4 * wave / np.abs(wave).max() + rng.normal(0, 1e-4, len(wave))).astype(np.float32)
