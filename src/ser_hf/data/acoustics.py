"""What recordings sound like, in numbers: level, bandwidth, noise, duration, pitch and share of speech of a clip.

All functions are pure and take mono float samples at `RATE`. `measure` takes about as long as reading the clip does.
"""

import numpy as np
import torch
from datasets import Dataset

from .audio import decode
from .cache import Store, settings_folder

RATE = 16000  # Hz; measures of clips of other rates are of the resampled clip
FRAME, HOP = 512, 256  # samples: 32 ms every 16 ms
LONG = 1024  # samples of a frame of spectra: three periods of the lowest pitch
WINDOW = np.hanning(LONG).astype(np.float32)
SILENCE_DB = -100.0  # of full scale; digital silence is no lower
SPEECH_DB = 35.0  # dB below the loud frames, the most that a frame of speech may be
BAND = 16  # bins of a band of 125 Hz
BAND_DB = 50.0  # dB below the strongest band, the most that a band may be
LAGS = np.arange(RATE // 500, RATE // 60 + 1)  # samples: pitch from 60 to 500 Hz
VOICED = 0.6  # the least autocorrelation of a voiced frame
MOST_FRAMES = 60  # of speech, evenly spread, that spectra are taken from
TOP = 2**-14  # of full scale: samples this near to a clip's highest are at its top

# Measure and unit, in the order of reports.
MEASURES = {
    "level": "dBFS",
    "bandwidth": "Hz",
    "noise floor": "dBFS",
    "signal to noise": "dB",
    "duration": "s",
    "pitch": "Hz",
    "speech": "share",
}


def frame_levels(samples: np.ndarray) -> np.ndarray:
    """Mean power of each frame in dBFS (a full-scale square wave is 0); a clip shorter than a frame is one frame.

    >>> frame_levels(np.full(16000, 0.1))[:2].round(6).tolist()
    [-20.0, -20.0]
    """
    squares = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    first = np.arange(0, max(len(samples) - FRAME, 0) + 1, HOP)
    power = (squares[np.minimum(first + FRAME, len(samples))] - squares[first]) / min(FRAME, len(samples))
    return 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))


def speech_frames(levels: np.ndarray) -> np.ndarray:
    """Which frames are speech: those nearer to the loud frames (95th percentile) than to the quiet ones (10th), in dB,
    and at most `SPEECH_DB` below the loud ones."""
    quiet, loud = np.percentile(levels, (10, 95))
    return levels >= max((quiet + loud) / 2, loud - SPEECH_DB)


def mean_db(levels: np.ndarray) -> float:
    """The level of the mean power."""
    return float(10 * np.log10(np.mean(10 ** (levels / 10))))


def signal_to_noise(levels: np.ndarray, speech: np.ndarray) -> float:
    """Power of speech without noise over power of noise, in dB. The noise is the 10th percentile of frames, so a clip
    must have pauses; where it has none, its quietest tenth is taken for noise. From the distribution of frame energies
    as NIST's STNR, which fits it."""
    noise = 10 ** (np.percentile(levels, 10) / 10)
    signal = 10 ** (mean_db(levels[speech]) / 10) - noise
    return float(10 * np.log10(max(signal / noise, 1e-2)))


def power_spectra(samples: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Power spectra `(frames, LONG + 1)` from 0 Hz to half of `RATE`, of the frames of `LONG` samples that begin at
    `first`; zeros follow the clip."""
    frames = np.pad(samples, (0, LONG))[first[:, None] + np.arange(LONG)].astype(np.float32)
    spectra = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * WINDOW, 2 * LONG)
    return np.square(spectra.real) + np.square(spectra.imag)


def bandwidth(spectra: np.ndarray) -> float:
    """Upper edge in Hz of the highest band that is at most `BAND_DB` below the strongest one. A band's level is its
    95th percentile over frames: fricatives count, though rare."""
    bands = spectra[:, :LONG].reshape(len(spectra), -1, BAND).mean(axis=2)
    levels = np.percentile(bands, 95, axis=0)
    return float((np.flatnonzero(levels >= levels.max() * 10 ** (-BAND_DB / 10))[-1] + 1) * BAND * RATE / 2 / LONG)


def pitch(spectra: np.ndarray) -> float:
    """Median fundamental frequency in Hz of the voiced frames; NaN if there is none. By autocorrelation, divided by
    that of the window (Boersma 1993)."""
    values = _correlation(spectra) / _correlation(np.square(np.abs(np.fft.rfft(WINDOW, 2 * LONG))))
    # Multiples of the period correlate as well: the first peak is taken that is nearly as high as the highest.
    inner = values[:, 1:-1]
    height = np.where((inner >= values[:, :-2]) & (inner >= values[:, 2:]), inner, 0.0)
    highest = height.max(axis=1, keepdims=True)
    lag = LAGS[1:-1][(height >= 0.9 * highest).argmax(axis=1)]
    voiced = highest[:, 0] >= VOICED
    return float(np.median(RATE / lag[voiced])) if voiced.any() else float("nan")


def _correlation(spectra: np.ndarray) -> np.ndarray:
    """Autocorrelation at `LAGS`, relative to that at 0."""
    values = np.fft.irfft(spectra)
    return values[..., LAGS] / np.maximum(values[..., :1], 1e-20)


def measure(samples: np.ndarray) -> np.ndarray:
    """The `MEASURES` of a clip, in their order; NaN where one is undefined."""
    levels = frame_levels(samples)
    speech = speech_frames(levels)
    first = np.flatnonzero(speech) * HOP
    spectra = power_spectra(samples, first[:: -(-len(first) // MOST_FRAMES)])
    return np.array(
        [
            mean_db(levels[speech]),
            bandwidth(spectra),
            np.percentile(levels, 10),
            signal_to_noise(levels, speech),
            len(samples) / RATE,
            pitch(spectra),
            speech.mean(),
        ]
    )


def clipped_share(samples: np.ndarray) -> float:
    """The share of samples in runs of three at the clip's top, or at full scale; 0 for a clip that is nowhere loud.

    >>> clipped_share(np.array([0.0, 1.0, 1.0, 1.0])), clipped_share(np.array([0.0, 0.9, 1.0, 1.0]))
    (0.25, 0.0)
    """
    levels = np.abs(samples)
    top = levels >= min(levels.max(), 1.0) - TOP
    return float((top[2:] & top[1:-1] & top[:-2]).sum() / len(samples)) if levels.max() > 0.1 else 0.0


def measure_rows(rows: Dataset) -> np.ndarray:
    """`measure` of the clips of a corpus, `(rows, measures)`; each clip is measured once and cached by its hash.
    AudioError: a clip cannot be read."""
    store, names, audio = Store(settings_folder("acoustics", __file__)), rows["audio_hash"][:], rows["audio"]
    store.fill(names, lambda row: torch.from_numpy(measure(decode(audio[row], RATE))))
    return np.stack([store[name].numpy() for name in names])
