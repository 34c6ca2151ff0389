"""Random changes of training clips: of waveforms, spectrograms and batches, one function per change.

All randomness comes from a `numpy.random.Generator`, the same in any worker; torchaudio's transforms draw from a global
state. Waveforms are mono float32 samples (not clipped: they may exceed 1), spectrograms `(frequencies, frames)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf

from ..errors import SerError
from ..files import png
from .audio import crop, decode, zero_pad
from .columns import flag

if TYPE_CHECKING:
    import torch

SOUND_FILES = (".wav", ".flac", ".ogg", ".mp3", ".aiff")
# Level in dB of the direct sound of a synthetic room above all its reverberation: a speaker about one metre away.
DIRECT_DB = 6.0
WAVEFORM = ("crop_p", "speed_p", "pitch_p", "reverb_p", "noise_p", "lowpass_p", "gain_p")  # what `augment` applies


def gain(samples: np.ndarray, db: float) -> np.ndarray:
    """`samples` louder by `db` decibels."""
    return samples * np.float32(10 ** (db / 20))


def noise_at_snr(
    samples: np.ndarray, snr_db: float, generator: np.random.Generator, noise: np.ndarray | None = None
) -> np.ndarray:
    """`samples` plus noise whose power over the clip (pauses included) is exactly `snr_db` below the clip's.

    The noise is white and Gaussian, or a random part of the recording `noise` at the clip's rate, repeated if it is
    shorter. The clip is unchanged if it or the noise is digital silence.
    """
    if noise is None:
        added = generator.standard_normal(len(samples))
    else:
        last = len(noise) - len(samples) if len(noise) > len(samples) else len(noise) - 1
        added = noise[(np.arange(len(samples)) + generator.integers(last + 1)) % len(noise)]
    signal, power = np.square(samples, dtype=np.float64).mean(), np.square(added, dtype=np.float64).mean()
    if not signal or not power:
        return samples
    return samples + (added * np.sqrt(signal / power * 10 ** (-snr_db / 10))).astype(np.float32)


def speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """`round(len / factor)` samples, at least one: `factor` times as fast, pitch and formants that much higher."""
    import soxr

    return soxr.resample(samples, factor, 1.0) if round(len(samples) / factor) else samples[:1]


def pitch(samples: np.ndarray, rate: int, semitones: float) -> np.ndarray:
    """`samples` with pitch and formants `semitones` higher (12 are an octave), of the same length and tempo.

    The algorithm of torchaudio.functional.pitch_shift (phase vocoder, 32 ms Hann windows every 8 ms), with soxr,
    because torchaudio's resampling kernels for such ratios take 10 to 27 s for a clip of 2 s (measured; this takes 0.03
    s for 4 s) and round the ratio; and with zero-padding, because torchaudio's reflection fails below 256 samples.
    """
    import soxr
    import torch
    from torchaudio.functional import phase_vocoder

    if not semitones:
        return samples
    ratio = 2 ** (semitones / 12)
    hop = max(1, round(0.008 * rate))
    size = 4 * hop
    window = torch.hann_window(size)
    wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    spectrum = torch.stft(wave, size, hop, window=window, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, torch.pi * hop, size // 2 + 1).unsqueeze(-1)  # (frequencies, 1), radians a hop
    spectrum = phase_vocoder(spectrum, 1 / ratio, advance)
    stretched = torch.istft(spectrum, size, hop, window=window, length=max(1, round(len(samples) * ratio)))
    shifted = soxr.resample(stretched.numpy(), ratio, 1.0)[: len(samples)]
    return np.pad(shifted, (0, len(samples) - len(shifted)))  # rounding may lack a sample


def impulse_response(seconds: float, rate: int, generator: np.random.Generator) -> np.ndarray:
    """A synthetic room with a reverberation time (60 dB) of `seconds`: one direct impulse, then white noise that decays
    exponentially (Polack's model, 1988), in total `DIRECT_DB` below the impulse."""
    time = np.arange(1, max(1, round(seconds * rate)) + 1) / rate
    tail = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)  # 60 dB are a factor of 1000
    tail *= np.sqrt(10 ** (-DIRECT_DB / 10) / np.square(tail).sum())
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverb(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`samples` in the room of an impulse response at the same rate: as long and as loud (root mean square) as before,
    and not delayed: the peak of the response, its direct sound, stays at time 0."""
    from scipy.signal import oaconvolve

    peak = int(np.abs(response).argmax())
    wet = oaconvolve(samples.astype(np.float64), response.astype(np.float64))[peak : peak + len(samples)]
    loudness, power = np.square(samples, dtype=np.float64).mean(), np.square(wet).mean()
    return (wet * np.sqrt(loudness / power)).astype(np.float32) if power else samples


def lowpass(samples: np.ndarray, rate: int, hz: float) -> np.ndarray:
    """`samples` without what lies above `hz`, as a telephone or a codec leaves them: a Butterworth filter of order 12,
    -3 dB at `hz`, at least -66 dB an octave above. Unchanged where the rate holds no more than `hz`."""
    from scipy.signal import butter, sosfilt

    if hz >= rate / 2:
        return samples
    return sosfilt(butter(12, hz, fs=rate, output="sos"), samples).astype(np.float32)


def spans(length: int, count: int, width: int, generator: np.random.Generator, limit: float = 0.5) -> np.ndarray:
    """`count` random spans of an axis, which may overlap, as `(length,)` booleans, True = masked. Widths are drawn from
    0 to `width`, at most `floor(limit * length / count)`: together they never mask more than `limit` of the axis."""
    if not 0 <= limit < 1:
        raise SerError(f"spans: limit {limit}: must be at least 0 and below 1")
    masked = np.zeros(length, dtype=bool)
    widest = min(width, int(limit * length / count)) if count else 0
    for _ in range(count):
        wide = int(generator.integers(widest + 1))
        start = int(generator.integers(length - wide + 1))
        masked[start : start + wide] = True
    return masked


def mixup(
    values: "torch.Tensor",
    labels: "torch.Tensor",
    alpha: float,
    generator: np.random.Generator,
    mask: "torch.Tensor | None" = None,
    p: float = 1.0,
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]":
    """A batch in which a part `p` of the clips is mixed with others: `lambda * clip + (1 - lambda) * other`, labels
    likewise (Zhang et al. 2018), with a lambda from Beta(alpha, alpha) for every clip.

    Args:
        values: `(batch, ...)` padded, normalised inputs from the collator (so that lambda is the ratio of loudness).
        labels: `(batch, labels)` floats: one-hot classes, votes, multi-label or regression vectors.
        mask: `(batch, time)`, 1 = real; after a clip's end `values` must be 0 (silence): the mixture is as long as the
            longer clip, whose end is alone.
    """
    import torch

    if labels.ndim != 2:
        raise ValueError(f"mixup needs (batch, labels) floats, got labels of shape {tuple(labels.shape)}")
    count = len(values)
    partner = torch.from_numpy((np.arange(count) + generator.integers(1, max(2, count), count)) % count)  # never itself
    chosen = torch.from_numpy(generator.random(count) < p) & (partner != torch.arange(count))
    weight = torch.from_numpy(generator.beta(alpha, alpha, count)).float().to(values.device)  # (batch,)
    partner, chosen = partner.to(values.device), chosen.to(values.device)

    def mixed(rows: torch.Tensor) -> torch.Tensor:
        column = (-1, *[1] * (rows.ndim - 1))
        lam = weight.view(column).to(rows.dtype)
        return torch.where(chosen.view(column), lam * rows + (1 - lam) * rows[partner], rows)

    if mask is not None:
        mask = torch.where(chosen.unsqueeze(-1), mask | mask[partner], mask)
    return mixed(values), mixed(labels.float()), mask


_probability = partial(flag, 0.0, least=0, most=1)


def _of(change: str, default: Any, help: str, **limits: Any) -> Any:
    """A flag that means something only where clips are changed so."""
    return flag(default, help, only_with=(f"{change}_p", ()), **limits)


@dataclass
class Augmentation:
    """Random changes of training clips. Every `_p` is a probability per clip; 0, the default, is never. A range is two
    numbers, between which a value is drawn uniformly, or one number that is always used."""

    crop_p: float = _probability("Crop the clip at random.")
    crop_keep: list[float] = _of("crop", [0.6, 1.0], "Range of the length kept, relative to the clip.", above=0, most=1)
    speed_p: float = _probability("Play faster or slower (pitch changes too).")
    speed_factor: list[float] = _of("speed", [0.9, 1.1], "Range of the speed; above 1 is faster and shorter.", above=0)
    pitch_p: float = _probability("Shift the pitch, at the same tempo.")
    pitch_semitones: list[float] = _of("pitch", [-2.0, 2.0], "Range of the shift in semitones.")
    reverb_p: float = _probability("Add reverberation.")
    reverb_seconds: list[float] = _of(
        "reverb", [0.1, 0.6], "Range of a synthetic room's reverberation time (60 dB).", above=0
    )
    reverb_dir: str | None = _of("reverb", None, "Folder of impulse responses to draw from instead of synthetic rooms.")
    noise_p: float = _probability("Add noise.")
    noise_snr_db: list[float] = _of("noise", [10.0, 30.0], "Range of the signal-to-noise ratio in dB.")
    noise_dir: str | None = _of("noise", None, "Folder of noise recordings to draw from instead of white noise.")
    lowpass_p: float = _probability("Cut high frequencies off, as a telephone or a codec does.")
    lowpass_hz: list[float] = _of(
        "lowpass", [3000.0, 4000.0], "Range of the highest frequency in Hz that is left.", above=0
    )
    gain_p: float = _probability("Change the level; no effect if the feature extractor normalises clips.")
    gain_db: list[float] = _of("gain", [-6.0, 6.0], "Range of the change in dB.")
    spec_p: float = _probability("Mask bands and times of the spectrogram, or of log-mel input (SpecAugment).")
    spec_freq_masks: int = _of("spec", 2, "Number of masked bands.", least=0)
    spec_freq_width: int = _of("spec", 15, "Widest masked band, in rows of the spectrogram.", least=0)
    spec_time_masks: int = _of("spec", 2, "Number of masked times.", least=0)
    spec_time_width: int = _of("spec", 70, "Longest masked time, in frames.", least=0)
    spec_growth: float = _of("spec", 0.0, "Masks grow to these sizes over this share of the training.", least=0, most=1)
    mixup_p: float = _probability("Mix the clip and its label with another clip of the batch.")
    mixup_alpha: float = _of("mixup", 0.2, "Parameter of Beta(alpha, alpha): near 0 mixes little, 1 evenly.", above=0)

    def __post_init__(self):
        for name, value in vars(self).items():
            if name.endswith("_p") and not 0 <= value <= 1:
                raise SerError(f"--{name} {value}: must be a probability, 0 to 1")
            if isinstance(value, list) and not (len(value) in (1, 2) and value[0] <= value[-1]):
                raise SerError(f"--{name} {' '.join(map(str, value))}: must be one number or two, the lowest first")
            if isinstance(value, str) and not sound_files(value):
                raise SerError(f"--{name} {value}: no audio file below this folder ({', '.join(SOUND_FILES)})")

    @property
    def changes_waveforms(self) -> bool:
        """Whether `augment` changes any clip."""
        return any(getattr(self, name) for name in WAVEFORM)


@lru_cache(maxsize=16)
def sound_files(folder: str) -> tuple[str, ...]:
    """Audio files below a folder, sorted: the same draw is the same file on every machine."""
    files = Path(folder).expanduser().rglob("*")
    return tuple(sorted(str(file) for file in files if file.suffix.lower() in SOUND_FILES))


def _sound(folder: str, rate: int, generator: np.random.Generator, seconds: float | None = None) -> np.ndarray:
    """A random file of a folder; a random part of `seconds` of a longer one, so that no long file is decoded."""
    files = sound_files(folder)
    path = files[generator.integers(len(files))]
    if seconds is None:
        return decode(path, rate)
    try:
        spare = max(0.0, sf.info(path).duration - seconds)
    except sf.LibsndfileError:
        spare = 0.0  # decode raises with the reason
    start = spare * generator.random()
    return decode(path, rate, start, start + seconds)


def _between(limits: Sequence[float], generator: np.random.Generator) -> float:
    return float(generator.uniform(limits[0], limits[-1]))


def augment(samples: np.ndarray, rate: int, config: Augmentation, generator: np.random.Generator) -> np.ndarray:
    """One clip's samples changed by `config`: cropped, then in the order in which sound travels: voice (speed, pitch),
    room, noise, channel, level; unchanged if every probability is 0. AudioError: an unreadable file of a folder."""
    if config.crop_p and generator.random() < config.crop_p:  # 0 draws nothing
        samples = crop(samples, _between(config.crop_keep, generator) * len(samples), 1, generator)
    if generator.random() < config.speed_p:
        samples = speed(samples, _between(config.speed_factor, generator))
    if generator.random() < config.pitch_p:
        samples = pitch(samples, rate, _between(config.pitch_semitones, generator))
    if generator.random() < config.reverb_p:
        if config.reverb_dir:
            response = _sound(config.reverb_dir, rate, generator)
        else:
            response = impulse_response(_between(config.reverb_seconds, generator), rate, generator)
        samples = reverb(samples, response)
    if generator.random() < config.noise_p:
        noise = _sound(config.noise_dir, rate, generator, len(samples) / rate) if config.noise_dir else None
        samples = noise_at_snr(samples, _between(config.noise_snr_db, generator), generator, noise)
    if config.lowpass_p and generator.random() < config.lowpass_p:  # likewise
        samples = lowpass(samples, rate, _between(config.lowpass_hz, generator))
    if generator.random() < config.gain_p:
        samples = gain(samples, _between(config.gain_db, generator))
    return samples


def spec_augment(
    spectrogram: np.ndarray, generator: np.random.Generator, config: Augmentation | None = None, grown: float = 1.0
) -> np.ndarray:
    """SpecAugment without its time warp (Park et al. 2019), with the numbers of `config` (default: the Switchboard mild
    policy) and `grown` times its sizes. The spectrogram is log or dB and not padded: masks get its mean."""
    config = config or Augmentation()
    rows = spans(spectrogram.shape[0], config.spec_freq_masks, round(grown * config.spec_freq_width), generator)
    frames = spans(spectrogram.shape[1], config.spec_time_masks, round(grown * config.spec_time_width), generator)
    return np.where(rows[:, None] | frames, spectrogram.mean(dtype=np.float64), spectrogram).astype(spectrogram.dtype)


def augment_spectrogram(
    spectrogram: np.ndarray, config: Augmentation, generator: np.random.Generator, passed: float = 1.0
) -> np.ndarray:
    """`spec_augment` with the probability `config.spec_p`, after the share `passed` of the training."""
    grown = min(1.0, passed / config.spec_growth) if config.spec_growth else 1.0
    return spec_augment(spectrogram, generator, config, grown) if generator.random() < config.spec_p else spectrogram


def draw_examples(samples: np.ndarray, rate: int, config: Augmentation, seed: int) -> bytes:
    """PNG: waveform and spectrogram of a clip, after each transform in use alone, and after two draws of all together,
    without mixup, which requires two clips."""
    from matplotlib.figure import Figure

    never = {entry.name: 0.0 for entry in fields(config) if entry.name.endswith("_p")}
    used = [name for name in never if getattr(config, name) and name != "mixup_p"]
    rows = [("as recorded", replace(config, **never))]
    rows += [(name.removesuffix("_p"), replace(config, **{**never, name: 1.0})) for name in used]
    rows += [(f"as in training, draw {number}", config) for number in (1, 2)] if used else []
    figure, longest = Figure(figsize=(10, 1.8 * len(rows)), layout="constrained"), 0.0
    panels = figure.subplots(len(rows), 2, squeeze=False, sharex=True)
    for index, (name, row) in enumerate(rows):
        generator, (wave, image) = np.random.default_rng((seed, index)), panels[index]
        clip = augment(samples, rate, row, generator)
        picture = augment_spectrogram(_decibels(clip, rate), row, generator)
        longest = max(longest, len(clip) / rate)
        wave.set_title(name, loc="left", fontsize="medium")
        wave.plot(np.arange(len(clip)) / rate, clip, linewidth=0.4)
        extent = (0, len(clip) / rate, 0, rate / 2000)
        image.imshow(picture, origin="lower", aspect="auto", extent=extent, vmin=picture.max() - 80, cmap="magma")
        image.set_ylabel("kHz")
    for axes in panels[-1]:
        axes.set(xlabel="seconds", xlim=(0, longest))
    return png(figure)


def _decibels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Power spectrogram in dB, `(frequencies, frames)`: 25 ms Hann windows every 10 ms."""
    size, hop = max(2, round(0.025 * rate)), max(1, round(0.010 * rate))
    frames = np.lib.stride_tricks.sliding_window_view(zero_pad(samples, size), size)[::hop] * np.hanning(size)
    return 20 * np.log10(np.abs(np.fft.rfft(frames)).T + 1e-6)
