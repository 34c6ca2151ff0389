"""Synthetic corpora from a seed: utterances as long as IEMOCAP's at 16 kHz, and as long as RAVDESS's at 48 kHz."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_hf.data.cache import content_hash

MEDIAN, LONGEST, SHORTEST = 3.4, 34.0, 0.6  # seconds, IEMOCAP's
SPREAD = 0.72  # of the logarithm: the mean is 3.4 * exp(0.72**2 / 2) = 4.4 s


@dataclass(frozen=True)
class Clips:
    """Files and their seconds; a file may be named more than once."""

    paths: list[str]
    seconds: np.ndarray

    def dataset(self):
        """As a `datasets.Dataset` with the columns that a Trainer reads of a corpus."""
        from datasets import Dataset

        number = len(self.paths)
        return Dataset.from_dict(
            {
                "id": [str(i) for i in range(number)],
                "audio": [{"bytes": None, "path": path} for path in self.paths],
                "audio_hash": [content_hash(path) for path in self.paths],  # a name of its own for each file
                "label": [i % 4 for i in range(number)],
                "duration": self.seconds,
            }
        )


def iemocap_lengths(clips: int, seed: int = 0) -> np.ndarray:
    """Seconds of `clips` utterances; the longest is always 34 s."""
    seconds = MEDIAN * np.exp(np.random.default_rng(seed).normal(0.0, SPREAD, clips))
    seconds = np.clip(seconds, SHORTEST, LONGEST)
    seconds[np.argmax(seconds)] = LONGEST
    return seconds


def voice(seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Harmonics under noise, as loud as speech: FLAC does about as much with it as with a recording."""
    time = np.arange(round(seconds * rate), dtype=np.float32) / rate
    pitch = np.float32(2 * np.pi * rng.uniform(90, 260))
    wave = sum(np.sin(pitch * k * time) / k for k in (1, 2, 3)) * (0.6 + 0.4 * np.sin(25 * time))
    return 0.1 * wave + 0.01 * rng.standard_normal(len(time), dtype=np.float32)


def write(folder: Path, seconds: np.ndarray, rate: int = 16000, formats: tuple[str, ...] = ("flac", "wav")) -> Clips:
    """One 16-bit file a length, the formats in turn; a folder that is there already is taken as it is."""
    import soundfile as sf

    paths = [folder / f"{i:05d}.{formats[i % len(formats)]}" for i in range(len(seconds))]
    if not folder.exists():
        folder.mkdir(parents=True)
        rng = np.random.default_rng(1)
        for path, length in zip(paths, seconds, strict=True):
            sf.write(path, voice(length, rate, rng), rate, subtype="PCM_16")
    exact = np.array([round(length * rate) / rate for length in seconds])
    return Clips([str(path) for path in paths], exact)


def iemocap_like(work: Path, files: int, times: int = 1) -> Clips:
    """`files` utterances on disk, each named `times` times: the batches are those of a corpus of files x times."""
    clips = write(work / f"iemocap_like_{files}", iemocap_lengths(files))
    return Clips(clips.paths * times, np.tile(clips.seconds, times))


def ravdess_like(work: Path, files: int) -> Clips:
    """`files` utterances of about 3.7 s at 48 kHz, WAV."""
    seconds = np.random.default_rng(2).normal(3.7, 0.3, files).clip(3.0, 5.3)
    return write(work / f"ravdess_like_{files}", seconds, 48000, ("wav",))
