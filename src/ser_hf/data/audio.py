"""Audio files to mono float32 samples, trimmed, cropped and zero-padded; scanning and cutting of recordings.

`models.audio_blocks`, which ships with the models, is imported where it is used: that takes seconds.
"""

import io
import math
import os
import re
import stat
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import xxhash

from ..errors import SerError


class AudioError(SerError):
    """One clip cannot be used; the message says which and why."""


# Files that hold sound; of those that soundfile cannot read, the error says so.
MEDIA = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .aif .aiff .aifc .au .snd .caf .w64 .rf64 .sph .raw .pcm .m4a .mp4 .aac .wma .amr "
    ".3gp .mov .mkv .webm .avi".split()
)
BLOCK = 2**22  # frames read at once: a header may claim any number of them
SHORTEST = 1 / 8000  # seconds; from 8 kHz on a clip of this length has a sample left after resampling
SEGMENT = re.compile(r"#t=([\d.e-]+),([\d.e-]*)$")


def segment(path: str | Path, start: float | None, end: float | None) -> str:
    """The name of the part of a file from `start` to `end` seconds (None: its end), as a W3C media fragment, which
    everything here reads as a clip of its own: no samples are copied.

    >>> segment("call.wav", 1.5, 3), whole("call.wav#t=1.5,3.0"), whole("call.wav")
    ('call.wav#t=1.5,3.0', ('call.wav', 1.5, 3.0), ('call.wav', None, None))
    """
    return f"{path}#t={float(start or 0)!r},{'' if end is None else repr(float(end))}"


def whole(path: str | Path) -> tuple[str, float | None, float | None]:
    """The file of a `segment`, and its times; None where the path is a file's own."""
    if not (found := SEGMENT.search(str(path))):
        return str(path), None, None
    return str(path)[: found.start()], float(found[1]), float(found[2]) if found[2] else None


def _name(source: dict | str | Path) -> str:
    """The name of a path or an `audio` column value `{"bytes", "path"}` in messages."""
    return whole(source.get("path") or "<bytes>")[0] if isinstance(source, dict) else whole(source)[0]


def _read(source: dict | str | Path, start: float | None = None, end: float | None = None) -> tuple[np.ndarray, int]:
    """Samples `(frames, channels)` as stored (int16 stays int16, all else float32), and the rate in Hz. AudioError:
    unreadable, cut off, or no samples."""
    name = _name(source)
    if isinstance(source, dict) and source.get("bytes") is not None:
        file = io.BytesIO(source["bytes"])
    else:
        file, first, last = whole(source["path"] if isinstance(source, dict) else source)
        if first is not None:  # the times are those of a part of the part
            end = last if end is None else min(first + end, math.inf if last is None else last)
            start = first + (start or 0.0)
    try:
        if isinstance(file, str):
            state = os.stat(file)
            if not stat.S_ISREG(state.st_mode):
                raise OSError("not a regular file")  # to open a named pipe is to wait for its writer
            if start is None and end is None and (found := _wave(file, state.st_size)):
                return found
        with sf.SoundFile(file) as audio:
            first = round(max(0.0, start or 0.0) * audio.samplerate)
            if first:
                audio.seek(min(first, audio.frames))
            left = audio.frames if end is None else max(0, round(end * audio.samplerate) - first)
            dtype = "int16" if audio.subtype == "PCM_16" else "float32"
            blocks = [audio.read(min(left, BLOCK), dtype=dtype, always_2d=True)]
            while len(blocks[-1]) == BLOCK:
                left -= BLOCK
                blocks.append(audio.read(min(left, BLOCK), dtype=dtype, always_2d=True))
            samples, rate = blocks[0] if len(blocks) == 1 else np.concatenate(blocks), audio.samplerate
            if start is None and end is None:
                from ..models.audio_blocks import check_whole

                check_whole(audio, len(samples), file)
    # TypeError: soundfile asks for the rate of x.raw
    except (sf.LibsndfileError, OSError, RuntimeError, ValueError, TypeError) as error:
        from ..models.audio_blocks import unreadable

        raise AudioError(f"{name}: {unreadable(file, error)}") from None
    if not len(samples):
        raise AudioError(f"{name}: " + ("no samples" if end is None else f"nothing between {start} s and {end} s"))
    return samples, rate


def _wave(file: str, size: int) -> tuple[np.ndarray, int] | None:
    """As `_read`, for a whole WAV file of 16-bit PCM, in half of soundfile's time. None for any other file of `size`
    bytes, of which soundfile says what it is."""
    try:
        with wave.open(file) as audio:
            channels, width, rate, frames, *_ = audio.getparams()
            length = 2 * channels * frames
            if width != 2 or not 0 < length <= size or not 0 < rate < 2**31 - 1:
                return None
            content = audio.readframes(frames)
    except (wave.Error, EOFError, OSError, RuntimeError):
        return None
    return (np.frombuffer(content, np.int16).reshape(-1, channels), rate) if len(content) == length else None


def read(
    source: dict | str | Path, sampling_rate: int, start: float | None = None, end: float | None = None
) -> tuple[np.ndarray, int]:
    """As `decode`, and the rate of the file in Hz. Samples that the file holds as int16 in one channel at
    `sampling_rate` stay as they are (`float_samples`)."""
    from ..models.audio_blocks import AudioInputError, averaged, resampled

    samples, rate = _read(source, start, end)
    if samples.dtype == np.int16 and samples.shape[1] == 1 and rate == sampling_rate:
        return samples[:, 0], rate
    try:
        return resampled(averaged(samples), rate, sampling_rate), rate
    except AudioInputError as error:
        raise AudioError(f"{_name(source)}: {error}") from None


def float_samples(samples: np.ndarray) -> np.ndarray:
    """int16 samples as float32 in [-1, 1]; float32 ones as they are."""
    return samples.astype(np.float32) / np.float32(32768) if samples.dtype == np.int16 else samples


def decode(source: dict | str | Path, sampling_rate: int, start: float | None = None, end: float | None = None):
    """One clip, or its part from `start` to `end` seconds, as mono float32 in [-1, 1] at `sampling_rate` Hz, the mean
    of its channels. AudioError: unreadable, without samples, or with NaN or infinite samples."""
    return float_samples(read(source, sampling_rate, start, end)[0])


def check_trim_db(trim_db: float | None) -> None:
    """Raises SerError unless it is above 0, or None for no trimming."""
    if trim_db is not None and not trim_db > 0:
        raise SerError(f"--trim_db {trim_db:g}: must be above 0 dB; leave it out to keep the silence")


def read_clip(
    audio: dict | str | Path,
    rate: int,
    trim_db: float | None = None,
    min_seconds: float = 0.0,
    max_seconds: float | None = None,
    start: float | None = None,
    end: float | None = None,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """One clip (a path or an `audio` column value) as input of an encoder, at `rate` Hz: decoded (from `start` to `end`
    seconds), trimmed `trim_db` below the loudest, changed, cropped (`crop`) and zero-padded, in this order. Only whole
    files are trimmed: a part from `start` would get other times. AudioError: as `decode`; SerError: `trim_db` or
    `max_seconds` is not above 0.
    """
    check_trim_db(trim_db)
    samples = decode(audio, rate, start, end)
    return prepared(samples, rate, trim_db if start is None else None, min_seconds, max_seconds, change, generator)


def prepared(
    samples: np.ndarray,
    rate: int,
    trim_db: float | None = None,
    min_seconds: float = 0.0,
    max_seconds: float | None = None,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """What `read_clip` makes of decoded samples, int16 or float32, of the same type unless `change` returns another."""
    if trim_db is not None:
        from ..models.audio_blocks import trim

        first, last = trim(samples, rate, trim_db)
        samples = samples[first:last]
    if change is not None:
        samples = change(samples)
    if max_seconds is not None:
        samples = crop(samples, max_seconds, rate, generator)
    return zero_pad(samples, round(min_seconds * rate))


def seconds_read(durations: Sequence[float | None], minimum: float = 0.0, maximum: float | None = None) -> np.ndarray:
    """Seconds of each clip that `read_clip` returns, by the clips' durations after trimming
    (`trimming.trimmed_durations`): what counts in a budget. Without audio (None) it is 0.

    >>> seconds_read([30.0, 1.0, None], minimum=1.5, maximum=2.0).tolist()
    [2.0, 1.5, 0.0]
    """
    seconds = np.array([duration or 0.0 for duration in durations], dtype=np.float64)
    return np.where(seconds > 0, np.maximum(np.minimum(seconds, maximum or np.inf), minimum), 0.0)


def crop(samples: np.ndarray, seconds: float, rate: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """At most `seconds` of a clip, a view: a random part with all positions equally likely, or without a generator the
    centre. A clip that is short enough is returned as it is, without a draw. SerError: not above 0 seconds.

    >>> crop(np.arange(10), 4, 1).tolist()
    [3, 4, 5, 6]
    """
    if not seconds > 0:
        raise SerError(f"crop: {seconds} s: must be above 0")
    length = max(1, round(seconds * rate))
    spare = len(samples) - length
    if spare <= 0:
        return samples
    start = spare // 2 if generator is None else int(generator.integers(spare + 1))
    return samples[start : start + length]


def zero_pad(samples: np.ndarray, minimum: int) -> np.ndarray:
    """The clip with at least `minimum` samples. These zeros are part of the clip, not of the batch's padding."""
    return samples if len(samples) >= minimum else np.pad(samples, (0, minimum - len(samples)))


def scan(source: dict | str | Path) -> dict:
    """`{"duration": seconds, "audio_hash": hex, "problem": None}` of one clip; or `problem` says why it cannot be used
    (as a clip whose every sample is zero, CREMA-D's 1076_MTI_SAD_XX), and the others are None.

    The hash is of what a model reads: the mean of the channels, rounded to 16 bit, and the rate. A copy in another
    lossless format, sample type or number of equal channels has the same hash. A copy with another gain, trimming,
    rate or lossy encoding has another hash (`ser-hf check --near_duplicates` finds such copies).
    """
    from ..models.audio_blocks import AudioInputError, averaged

    try:
        samples, rate = _read(source)
        if len(samples) < SHORTEST * rate:
            raise AudioError(f"{_name(source)}: too short ({len(samples)} samples at {rate} Hz)")
        stored = samples.dtype == np.int16 and samples.shape[1] == 1  # rounded to 16 bit already
        mono = samples[:, 0] if stored else averaged(samples)
        if not mono[:1000].any() and not mono.any():
            raise AudioError(f"{_name(source)}: silent (every sample is zero)")
    except AudioError as error:
        return {"duration": None, "audio_hash": None, "problem": str(error)}
    except AudioInputError as error:
        return {"duration": None, "audio_hash": None, "problem": f"{_name(source)}: {error}"}
    rounded = (mono if stored else np.rint(mono * np.float32(32768)).clip(-(2**30), 2**30)).astype(np.int32)
    # below half a step of 16 bit only the samples themselves differ
    digest = xxhash.xxh3_128(rounded if stored or rounded.any() else np.ascontiguousarray(mono))
    digest.update(str(rate).encode())
    return {"duration": len(samples) / rate, "audio_hash": digest.hexdigest(), "problem": None}


def cut(path: str | Path, start: float, end: float | None) -> bytes:
    """The part of a recording from `start` to `end` seconds as FLAC bytes, lossless for 16-bit sources. AudioError:
    unreadable, or nothing lies between the two times."""
    samples, rate = _read(path, start, end)
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format="FLAC", subtype="PCM_16" if samples.dtype == np.int16 else "PCM_24")
    return buffer.getvalue()
