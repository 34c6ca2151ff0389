"""Where the speech of a clip is, and clips of bounded length. Samples are mono float arrays; nothing here draws from a
global random state."""

from typing import Literal

import numpy as np

from ..errors import SerError

# librosa.effects.trim's frame_length 2048 and hop_length 512 at its 22050 Hz, kept as seconds: a clip is trimmed at the
# same times whatever its rate (librosa's own, in samples, are 128 ms at 16 kHz and 43 ms at 48 kHz).
FRAME, HOP = 2048 / 22050, 512 / 22050


def trim(samples: np.ndarray, rate: int, trim_db: float = 30.0) -> tuple[int, int]:
    """First sample and end (one past the last) of what is left without leading and trailing silence.

    As in librosa.effects.trim: root mean square of centred frames (`FRAME` every `HOP`, zeros outside the clip); a
    frame is silent if it is more than `trim_db` below the loudest frame *of this clip*; what is left begins at the
    centre of the first frame that is not silent and ends one hop behind the centre of the last. Unlike librosa there
    is no floor on the level (its 1e-5 of full scale): quiet recordings (clips of RAVDESS peak at 0.02) and
    their copies at any gain are trimmed at the same samples. The loudest frame always stays, and of digital silence
    everything does.

    >>> clip = np.zeros(48000, dtype=np.float32)
    >>> clip[16000:32000] = 0.001
    >>> trim(clip, 16000)
    (15624, 33108)
    """
    if trim_db < 0:
        raise SerError(f"--trim_db {trim_db}: must be at least 0 dB below the clip's peak")
    hop, half = max(1, round(HOP * rate)), max(1, round(FRAME * rate / 2))
    # A frame's energy is the difference of two running sums: exact enough for 140 dB in float64.
    running = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    centres = np.arange(0, len(samples) + 1, hop)
    energy = running[np.minimum(centres + half, len(samples))] - running[np.maximum(centres - half, 0)]
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-trim_db / 10))
    return min(int(loud[0]) * hop, len(samples) - 1), min((int(loud[-1]) + 1) * hop, len(samples))


def crop(
    samples: np.ndarray,
    seconds: float,
    rate: int,
    how: Literal["random", "centre"] = "centre",
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """At most `seconds` of a clip, a view: the middle, or (training) a stretch drawn from `generator`, each as likely.

    A clip that is short enough comes back as it is, without a draw.

    >>> crop(np.arange(10), 4, 1).tolist()
    [3, 4, 5, 6]

    Raises:
        SerError: not above 0 seconds, an unknown `how`, or a random crop without a generator.
    """
    if not seconds > 0:
        raise SerError(f"crop: {seconds} s: must be above 0")
    if how not in ("random", "centre") or (how == "random" and generator is None):
        raise SerError(f"crop: {how!r}: must be centre, or random with a generator")
    length = max(1, round(seconds * rate))
    spare = len(samples) - length
    if spare <= 0:
        return samples
    start = spare // 2 if how == "centre" else int(generator.integers(spare + 1))
    return samples[start : start + length]


def fit_length(samples: np.ndarray, minimum: int) -> np.ndarray:
    """The clip, with zeros behind it if it has fewer than `minimum` samples.

    For clips shorter than an encoder's receptive field (400 samples for wav2vec2). These zeros are part of the clip,
    not padding: the attention mask must call them real, or the encoder has not one real frame.

    >>> fit_length(np.ones(2), 4).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return samples if len(samples) >= minimum else np.pad(samples, (0, minimum - len(samples)))
