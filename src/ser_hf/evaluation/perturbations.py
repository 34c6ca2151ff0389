"""Changes of recordings that a model is stressed by, as a table, each with its kind and its strength. And a model's
scores of changed clips, which are cached.

The small changes are those of Derington et al., "Testing correctness, fairness and robustness of speech emotion
recognition models" (arXiv 2312.06270; github.com/audeering/ser-tests), which listeners call subtle. All functions are
pure; randomness comes from the generator of the clip, which its id and the change's name seed: one clip has the same
noise at every strength, in any order and in any number of processes.
"""

import copy
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile as sf
import soxr
import torch
from datasets import Dataset
from scipy.signal import butter, sosfilt
from tqdm import tqdm

from ..data import acoustics, augmentation
from ..data.audio import AudioError, decode, prepared
from ..data.augmentation import gain, impulse_response, lowpass, noise_at_snr, reverb
from ..data.cache import Store, content_hash, settings_folder, source_hash
from ..models.audio_blocks import trim
from .scoring import pipeline_scores

logger = logging.getLogger("ser_hf")
VOICES = 5  # speakers of babble noise; 4 to 7 in ser-tests
MU = 255  # of ITU-T G.711's mu-law, 8 bit
BLOCK = 64  # clips that are scored, and kept, at a time
POOL, LONGEST = 64, 10.0  # clips of a corpus that babble is made of, and the seconds of each
MP3_DELAY = 1105  # samples that LAME and the decoder add where frames are too short for the tag that says so


@dataclass(frozen=True)
class Clip:
    """What a change may use: mono float samples, their rate in Hz, the clip's random numbers, other speakers' clips."""

    samples: np.ndarray
    rate: int
    generator: np.random.Generator
    voices: Sequence[np.ndarray] = ()


def pink(length: int, generator: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by 3 dB an octave, from 20 Hz at 16 kHz (the 800th part of the rate) on."""
    spectrum = np.fft.rfft(generator.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length), 1 / 800)
    return np.fft.irfft(spectrum / np.sqrt(frequency), length)


def babble(length: int, voices: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """`VOICES` of other speakers' clips, drawn without replacement, each repeated from a random place on, all of equal
    power."""
    mixture = np.zeros(length)
    for index in generator.permutation(len(voices))[:VOICES]:
        voice = np.asarray(voices[index], dtype=np.float64)
        part = voice[(np.arange(length) + generator.integers(len(voice))) % len(voice)]
        mixture += part / max(np.sqrt(np.square(part).mean()), 1e-9)
    return mixture


def dither(samples: np.ndarray, bits: int, generator: np.random.Generator) -> np.ndarray:
    """`samples` rounded to `bits` with triangular dither of one step to both sides."""
    steps = 2.0 ** (bits - 1)
    noise = generator.random(len(samples)) - generator.random(len(samples))
    return (np.clip(np.rint(samples * steps + noise), -steps, steps - 1) / steps).astype(np.float32)


def first_order(samples: np.ndarray, rate: int, hz: float, kind: str) -> np.ndarray:
    """A Butterworth filter of order 1, `kind` `highpass` or `lowpass`; unchanged where the rate holds no `hz`."""
    if hz >= rate / 2:
        return samples
    return sosfilt(butter(1, hz, kind, fs=rate, output="sos"), samples).astype(np.float32)


def clipped(samples: np.ndarray, per_cent: float) -> np.ndarray:
    """`samples` cut off at the level that `per_cent` of them exceed."""
    level = np.quantile(np.abs(samples), 1 - per_cent / 100, method="lower")
    return np.clip(samples, -level, level)


def telephone(samples: np.ndarray, rate: int, low: float = 300.0, high: float = 3400.0) -> np.ndarray:
    """The band of a telephone: Butterworth filters, of order 4 below and 12 above."""
    return lowpass(sosfilt(butter(4, low, "highpass", fs=rate, output="sos"), samples), rate, high)


def mu_law(samples: np.ndarray, rate: int, hz: int) -> np.ndarray:
    """`samples` at the rate `hz` in 8 bits of mu-law (G.711's curve), and back."""
    narrow = np.clip(soxr.resample(samples, rate, hz), -1, 1)
    code = np.rint(127 * np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / np.log1p(MU)) / 127
    wide = soxr.resample(np.sign(code) * np.expm1(np.abs(code) * np.log1p(MU)) / MU, hz, rate)
    return np.pad(wide, (0, max(0, len(samples) - len(wide))))[: len(samples)].astype(np.float32)


def mp3(samples: np.ndarray, rate: int, kbit: float) -> np.ndarray:
    """`samples` through MP3 of `kbit` kbit/s, not delayed. libsndfile takes 160 (level 0) to 8 kbit/s (level 1) at
    these rates."""
    file = io.BytesIO()
    level = (160 - kbit) / 152
    sf.write(file, samples, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=level)
    file.seek(0)
    decoded = sf.read(file, dtype="float32")[0]
    decoded = decoded[MP3_DELAY * (len(decoded) > len(samples)) :]
    return np.pad(decoded, (0, max(0, len(samples) - len(decoded))))[: len(samples)]


def tilt(samples: np.ndarray, rate: int, db_per_octave: float) -> np.ndarray:
    """`samples` whose spectrum rises by `db_per_octave`, from 50 Hz on, as loud (root mean square) as before."""
    frequency = np.maximum(np.fft.rfftfreq(len(samples), 1 / rate), 50.0)
    factor = 10 ** (db_per_octave * np.log2(frequency / 1000) / 20)
    tilted = np.fft.irfft(np.fft.rfft(samples) * factor, len(samples))
    power, after = np.square(samples, dtype=np.float64).mean(), np.square(tilted).mean()
    return (tilted * np.sqrt(power / after)).astype(np.float32) if after else samples


def trimmed(samples: np.ndarray, rate: int, db: float) -> np.ndarray:
    first, last = trim(samples, rate, db)
    return samples[first:last]


@dataclass(frozen=True)
class Change:
    """A row of the table. `function` returns the changed samples."""

    name: str
    kind: str  # of KINDS
    strength: float
    unit: str
    function: Callable[[Clip, float], np.ndarray]

    @property
    def key(self) -> str:
        """Its name and strength, which no other row has."""
        return f"{self.name} {self.strength:g} {self.unit}"


# Kinds in the order of reports. Nobody hears a small change, so that a model must not either.
KINDS = {
    "small": "small changes",
    "noise": "noise",
    "channel": "telephone and codecs",
    "room": "reverberation",
    "tilt": "spectral tilt",
    "silence": "silence",
}
# Name, kind, unit, strengths, function.
_TABLE: tuple[tuple[str, str, str, tuple, Callable], ...] = (
    ("gain", "small", "dB", (-2, 2), lambda c, db: gain(c.samples, db)),
    ("zeros before", "small", "samples", (100, 500, 1000), lambda c, n: np.pad(c.samples, (n, 0))),
    ("zeros after", "small", "samples", (100, 500, 1000), lambda c, n: np.pad(c.samples, (0, n))),
    ("dither", "small", "bit", (16,), lambda c, bits: dither(c.samples, bits, c.generator)),
    ("high-pass", "small", "Hz", (50, 100, 150), lambda c, hz: first_order(c.samples, c.rate, hz, "highpass")),
    ("low-pass", "small", "Hz", (7000,), lambda c, hz: first_order(c.samples, c.rate, hz, "lowpass")),
    ("clipping", "small", "%", (0.1,), lambda c, per_cent: clipped(c.samples, per_cent)),
    ("white noise", "noise", "dB", (20, 10, 5, 0), lambda c, snr: noise_at_snr(c.samples, snr, c.generator)),
    ("pink noise", "noise", "dB", (20, 10, 5, 0),
     lambda c, snr: noise_at_snr(c.samples, snr, c.generator, pink(len(c.samples), c.generator))),
    ("babble noise", "noise", "dB", (20, 10, 5, 0),
     lambda c, snr: noise_at_snr(c.samples, snr, c.generator, babble(len(c.samples), c.voices, c.generator))),
    ("telephone band to", "channel", "Hz", (3400,), lambda c, hz: telephone(c.samples, c.rate, high=hz)),
    ("mu-law at", "channel", "Hz", (8000,), lambda c, hz: mu_law(c.samples, c.rate, hz)),
    ("MP3", "channel", "kbit/s", (64, 32), lambda c, kbit: mp3(c.samples, c.rate, kbit)),
    ("reverberation", "room", "s", (0.3, 1.0),
     lambda c, seconds: reverb(c.samples, impulse_response(seconds, c.rate, c.generator))),
    ("tilt per octave", "tilt", "dB", (-3, 3), lambda c, db: tilt(c.samples, c.rate, db)),
    ("silence trimmed at", "silence", "dB", (30,), lambda c, db: trimmed(c.samples, c.rate, db)),
    ("zeros at both ends", "silence", "s", (0.5,), lambda c, seconds: np.pad(c.samples, round(seconds * c.rate))),
)  # fmt: skip
BABBLE = "babble noise"  # the change that needs other speakers
CHANGES = tuple(
    Change(name, kind, strength, unit, function)
    for name, kind, unit, strengths, function in _TABLE
    for strength in strengths
    if name != "MP3" or "MP3" in sf.available_formats()
)


def apply(change: Change, samples: np.ndarray, rate: int, id: str, voices: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The samples of the clip `id` after a change, float32. `voices` are clips of other speakers at the same rate."""
    generator = np.random.default_rng(int(content_hash(id, change.name), 16))
    changed = change.function(Clip(samples, rate, generator, voices), change.strength)
    return np.asarray(changed, dtype=np.float32)


# ---- answers to changed clips


class Voices:
    """Other speakers' clips at `rate`, for babble: the same `POOL` clips of a corpus in any order of its rows. A class
    because it holds decoded clips."""

    def __init__(self, corpus: Dataset, rate: int):
        ids, speakers = corpus["id"][:], corpus["speaker"][:]
        # as many of each speaker: the first clip of each, then the second, ...
        place, seen = {}, {}
        for row in sorted(range(len(ids)), key=lambda row: content_hash(ids[row])):
            seen[speakers[row]] = place[row] = seen.get(speakers[row], 0) + 1
        rows = sorted(place, key=lambda row: (place[row], content_hash(ids[row])))[:POOL]
        self.ids, self.speakers = [ids[row] for row in rows], [speakers[row] for row in rows]
        self._audio, self._rate, self._clips = corpus.select(rows)["audio"][:], rate, {}

    def other(self, id: str, speaker: str | None) -> list[np.ndarray]:
        """The clips that are not of a speaker; of an unknown one all but the clip itself. One that can no longer be
        read is left out, as in training."""
        rows = [
            row for row, name in enumerate(self.speakers) if (name is None or name != speaker) and self.ids[row] != id
        ]
        for row in rows:
            if row not in self._clips:
                try:
                    self._clips[row] = decode(self._audio[row], self._rate)[: round(LONGEST * self._rate)]
                except AudioError as error:
                    logger.warning("not in babble noise: %s", error)
                    self._clips[row] = None
        return [self._clips[row] for row in rows if self._clips[row] is not None]


def scores_of(
    pipe, rows: Dataset, change: Change | None, voices: Voices, store: Store, options: dict, reading: dict
) -> np.ndarray:
    """Scores `(clips, labels)` of a `SerPipeline` for the rows of a corpus (a fusion model reads their texts too) after
    a change (None: as they are), NaN where it has no answer. `reading` is the part of a changed clip that is scored, as
    `audio.prepared` takes it. Each block of clips is kept in `store`: an interrupted call goes on from there, and ends
    as an unbroken one would. AudioError: a clip cannot be read."""
    rate, key = rate_of(pipe), change.key if change else "clean"
    if reading:  # which trims, before it crops and pads
        pipe = copy.copy(pipe)
        pipe.feature_extractor = copy.copy(pipe.feature_extractor)
        pipe.feature_extractor.trim_db = None
    ids = rows["id"][:]
    names = [f"{key} {content_hash(*one)}" for one in zip(ids, rows["audio_hash"][:], rows["text"][:], strict=True)]
    labels = len(pipe.model.config.id2label)
    # The longest first, so that clips of a batch are of similar length.
    durations = rows["duration"][:]
    order = sorted(range(len(rows)), key=lambda row: (-(durations[row] or 0.0), ids[row]))
    blocks = [order[first : first + BLOCK] for first in range(0, len(order), BLOCK)]
    lacking = set(store.missing(names))
    todo = [block for block in blocks if lacking & set(block)]

    def clips(block: list[int]) -> Iterator[dict]:
        for row in rows.select(block):
            samples = decode(row["audio"], rate)
            if change:
                others = voices.other(row["id"], row["speaker"]) if change.name == BABBLE else ()
                samples = apply(change, samples, rate, row["id"], others)
            yield {"array": prepared(samples, rate, **reading), "sampling_rate": rate, "text": row["text"]}

    for block in tqdm(todo, key, unit=" blocks", disable=None, leave=False):
        answers = pipeline_scores(pipe, clips(block), **options)
        found = [np.full(labels, np.nan) if isinstance(answer, str) else answer for answer in answers]
        store.add({names[row]: torch.from_numpy(values) for row, values in zip(block, found, strict=True)})
    return np.stack([store[name].numpy() for name in names])


def rate_of(pipe) -> int:
    """The rate in Hz at which clips are changed: one for all models that read no more than 16 kHz, so that they get the
    same noise."""
    return max(acoustics.RATE, pipe.feature_extractor.sampling_rate)


def store_of(pipe, fingerprint: str, voices: Voices, options: dict, reading: dict) -> Store:
    """Where the scores of a model on a corpus are kept."""
    inputs = (pipe.processor if pipe.takes_text else pipe.feature_extractor).to_json_string()
    settings = fingerprint, inputs, sorted({**options, **reading}.items()), voices.ids
    code = source_hash(augmentation.__file__, acoustics.__file__)
    return Store(settings_folder("stress", __file__, code, *settings))
