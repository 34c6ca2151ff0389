"""Speech-like babble from a seed, for the `demo` corpus: a glottal source through the formants of a vowel, syllable by
syllable, with fricatives, stops and pauses between them. numpy and scipy only; the same seed gives the same samples.

`speakers` draws speakers who differ in pitch, vocal tract, tempo and timbre; `utter` synthesises a few syllables of one
of them at a point of the arousal-valence plane. Arousal raises pitch, pitch range, tempo and vocal effort and lowers
breathiness and pauses; valence turns falling syllables into rising ones, spreads the lips (higher formants) and takes
the roughness out of the voice. Directions after Banse & Scherer (1996) and Gobl & Ni Chasaide (2003); sizes are chosen.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter, sosfilt

RATE = 16000

# F1 to F3 in Hz of five vowels said by men, Peterson & Barney (1952), table II; F4 and F5 of a 17.5 cm tube.
VOWELS = np.array(
    [
        (270, 2290, 3010),  # heed
        (530, 1840, 2480),  # head
        (730, 1090, 2440),  # hod
        (570, 840, 2410),  # hawed
        (300, 870, 2240),  # who'd
    ],
    dtype=float,
)
UPPER = (3500.0, 4500.0)
BANDWIDTHS = np.array((70.0, 90.0, 140.0, 200.0, 280.0))


@dataclass(frozen=True)
class Speaker:
    """One voice; the cues of an emotion are relative to it, and `expression` scales them."""

    name: str
    gender: str
    pitch: float  # Hz
    tract: float  # formant frequencies relative to VOWELS
    tempo: float  # syllables per second
    tilt: float  # fall of the source's spectrum, exponent of the harmonic number
    breath: float  # dB of aspiration noise relative to the voice
    rough: float  # depth of the period-doubling
    bright: float  # dB by which the voice stands out around 3 kHz
    noise: float  # dB of room noise relative to the voice
    expression: float


def speakers(women: int, men: int, rng: np.random.Generator) -> list[Speaker]:
    """`women` + `men` speakers, every trait spread evenly over its range (a Latin hypercube)."""

    def spread(low: float, high: float, count: int) -> np.ndarray:
        return low + (high - low) * rng.permutation((np.arange(count) + rng.uniform(0.2, 0.8, count)) / count)

    everyone = women + men
    shared = {
        "tempo": spread(4.0, 5.6, everyone),
        "tilt": spread(0.8, 0.95, everyone),
        "breath": spread(-27.0, -21.0, everyone),
        "rough": spread(0.0, 0.08, everyone),
        "bright": spread(-1.5, 1.5, everyone),
        "noise": spread(-50.0, -44.0, everyone),
        "expression": spread(0.85, 1.15, everyone),
    }
    pitch = np.r_[spread(165.0, 250.0, women), spread(85.0, 150.0, men)]
    tract = np.r_[spread(1.06, 1.24, women), spread(0.88, 1.06, men)]
    names = [f"f{i + 1}" for i in range(women)] + [f"m{i + 1}" for i in range(men)]
    return [
        Speaker(
            name=name,
            gender="female" if name[0] == "f" else "male",
            pitch=float(pitch[i]),
            tract=float(tract[i]),
            **{trait: float(values[i]) for trait, values in shared.items()},
        )
        for i, name in enumerate(names)
    ]


def utter(speaker: Speaker, arousal: float, valence: float, rng: np.random.Generator) -> np.ndarray:
    """A few syllables by `speaker`, 1 to 2.2 s of float32 at `RATE`; arousal and valence are about -1 to 1."""
    arousal, valence = arousal * speaker.expression, valence * speaker.expression
    starts, lengths, seconds = _rhythm(speaker, arousal, rng)
    pitch = _pitch(speaker, arousal, valence, starts, lengths, round(seconds * RATE), rng)
    source = _source(speaker, arousal, valence, pitch, rng)
    return _articulate(speaker, arousal, valence, source, starts, lengths, rng)


def _rhythm(speaker: Speaker, arousal: float, rng: np.random.Generator):
    """Start and length in seconds of every syllable, and the utterance's length."""
    tempo = speaker.tempo * 2 ** (0.45 * arousal + rng.normal(0, 0.07))
    count = max(4, round(rng.uniform(1.1, 1.9) * tempo))
    lengths = rng.uniform(0.8, 1.2, count) / tempo
    lengths[-1] *= 1.3  # final lengthening
    pauses = (rng.random(count) < np.clip(0.14 - 0.16 * arousal, 0.02, 0.4)) * rng.uniform(0.10, 0.22, count)
    pauses[-1] = 0.0
    starts = 0.06 + np.r_[0.0, np.cumsum(lengths + pauses)[:-1]]
    room = min(1.0, 2.05 / (starts[-1] + lengths[-1]))  # slow speakers stay within the longest length
    return starts * room, lengths * room, (starts[-1] + lengths[-1]) * room + 0.1


def _pitch(speaker, arousal, valence, starts, lengths, samples, rng) -> np.ndarray:
    """Fundamental frequency in Hz at every sample: level, declination, accents, a glide in each syllable, jitter."""
    level = 3.0 * arousal + rng.normal(0, 1.0)  # semitones from the speaker's own pitch
    accents = 1.6 * 2 ** (0.8 * arousal + 0.3 * valence) * rng.choice((-0.5, 0.3, 1.0), len(starts), p=(0.4, 0.3, 0.3))
    glide = 3.0 * valence + rng.normal(0, 0.8, len(starts))
    decline = (-1.5 + 1.5 * valence) * (starts - starts[0]) / max(starts[-1] - starts[0], 0.1)
    at = (starts[:, None] + lengths[:, None] * np.array((0.0, 0.5, 1.0))).ravel()
    tones = (level + accents + decline)[:, None] + glide[:, None] * np.array((-0.5, 0.0, 0.5))
    contour = np.interp(np.arange(samples) / RATE, at, tones.ravel())
    wander = lfilter([0.02], [1.0, -0.98], rng.normal(0, 1.0, samples))  # jitter: noise below 50 Hz
    return speaker.pitch * 2 ** ((contour + (0.6 + 4 * _roughness(speaker, arousal, valence)) * wander) / 12)


def _roughness(speaker: Speaker, arousal: float, valence: float) -> float:
    """Depth of period doubling: a pressed, harsh voice at low valence, most of all at high arousal."""
    return float(np.clip(speaker.rough + 0.6 * max(0.0, -valence) * (1 + 0.4 * arousal), 0.0, 0.8))


def _source(speaker, arousal, valence, pitch, rng) -> np.ndarray:
    """The voice at the glottis: a band-limited pulse at the phase of `pitch`, with roughness and breath."""
    phase = np.cumsum(pitch / RATE)
    harmonics = np.arange(1, int(7600 / pitch.max()) + 1)
    tilt = max(0.1, speaker.tilt - 0.6 * arousal + rng.normal(0, 0.06))
    spectrum = np.zeros(1025, dtype=complex)
    spectrum[harmonics] = -1j * harmonics**-tilt
    table = np.fft.irfft(spectrum)
    voice = table[(phase % 1 * len(table)).astype(int)]
    voice *= 1 + _roughness(speaker, arousal, valence) * np.sin(np.pi * phase)
    breath = 10 ** ((speaker.breath - 12.0 * arousal + rng.normal(0, 1.5)) / 20)
    opening = 0.6 + 0.4 * np.cos(2 * np.pi * phase)  # breath flows while the glottis is open
    return voice / voice.std() + breath * opening * rng.normal(0, 1.0, len(voice)) * 3


def _articulate(speaker, arousal, valence, source, starts, lengths, rng) -> np.ndarray:
    """The vocal tract: each syllable's part of the source through a vowel, a consonant before it, noise over all."""
    out = np.zeros(len(source))
    attack = 0.035 * 2 ** (-1.0 * arousal + 0.6 * valence)  # seconds; anger starts hard
    loud = rng.normal(0, 2.0 + 1.2 * arousal, len(starts)) - 4.0 * (1 - arousal) * np.linspace(0, 1, len(starts))
    smile = 1 + 0.07 * valence
    for start, length, gain in zip(starts, lengths, 10 ** (loud / 20), strict=True):
        first, last = round(start * RATE), round((start + length) * RATE)
        onset = round(rng.uniform(0.15, 0.35) * (last - first))  # samples of the consonant
        kind = rng.random()
        if kind < 0.25:  # a fricative; the others are stops (a gap) and glides (none)
            burst = _fricative(onset, rng) * 10 ** (rng.uniform(-16, -8) / 20) * gain
            out[first : first + onset] += burst
        elif kind > 0.75:
            onset = 0
        tail = 400  # 25 ms in which the formants ring out
        time = np.arange(last - first - onset) / RATE
        envelope = (1 - np.exp(-time / attack)) * np.minimum(1, (time[-1] - time) / 0.03)
        voiced = np.r_[source[first + onset : last] * envelope, np.zeros(tail)]
        vowel = np.r_[VOWELS[rng.integers(len(VOWELS))], UPPER] * speaker.tract * rng.normal(1, 0.02, 5)
        vowel[:3] *= smile
        syllable = sosfilt(_resonators(vowel), voiced)
        stop = min(last + tail, len(out))
        out[first + onset : stop] += (syllable / (syllable.std() + 1e-9) * gain)[: stop - first - onset]
    out = sosfilt(_bell(speaker.bright + 10.0 * valence), out)
    out += rng.normal(0, 10 ** (speaker.noise / 20), len(out))
    level = 0.05 * 10 ** ((5.0 * arousal + rng.normal(0, 2.0)) / 20)
    return np.tanh(out * level).astype(np.float32)


def _fricative(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise around 3 to 6.5 kHz that swells and fades."""
    centre = rng.uniform(3000, 6500)
    noise = sosfilt(_resonators(np.array((centre,)), np.array((1200.0,))), rng.normal(0, 1.0, samples))
    noise = np.diff(noise, prepend=0.0) * np.sin(np.pi * np.arange(samples) / max(samples, 1))
    return noise / (noise.std() + 1e-9)


def _resonators(frequencies: np.ndarray, bandwidths: np.ndarray = BANDWIDTHS) -> np.ndarray:
    """Two-pole resonators of gain 1 at 0 Hz (Klatt 1980) as second-order sections, (resonators, 6)."""
    radius = np.exp(-np.pi * bandwidths[: len(frequencies)] / RATE)
    middle = -2 * radius * np.cos(2 * np.pi * np.minimum(frequencies, 7500) / RATE)
    zero = np.zeros_like(radius)
    return np.stack([1 + middle + radius**2, zero, zero, zero + 1, middle, radius**2], axis=1)


def _bell(gain: float) -> np.ndarray:
    """A bell of `gain` dB at 3 kHz, one octave and a half wide (R. Bristow-Johnson, Audio EQ cookbook), (1, 6)."""
    amplitude, angle = 10 ** (gain / 40), 2 * np.pi * 3000 / RATE
    alpha, middle = np.sin(angle) / (2 * 0.9), -2 * np.cos(angle)
    up, down = alpha * amplitude, alpha / amplitude
    return np.array([[1 + up, middle, 1 - up, 1 + down, middle, 1 - down]]) / (1 + down)
