"""Audio of any kind as blocks of mono samples, their windows, and silence at both ends. Ships to the Hub.

soundfile decodes files (WAV, FLAC, MP3, OGG, AIFF, ...: no FFmpeg), soxr resamples; both are imported when needed. The
default kernel of torchaudio leaves aliases (8.3 kHz at -9 dB for 48 to 16 kHz) and loses 3.7 dB at 7.5 kHz; soxr HQ has
-140 dB and 0.4 dB and is faster (all measured).
"""

import importlib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator

import numpy as np
import torch

LARGEST = 1e15  # the sum of the squares of an hour of such samples is still a float32
BLOCK_S = 10.0  # seconds of a file that are decoded at a time
UNKNOWN = 2**31 - 1  # bytes; from this size on a header's field says that the writer did not know it
MOST_CHANNELS = 32  # an array with more in both directions is no audio
# librosa.effects.trim's frame_length 2048 at its default 22050 Hz, in seconds: a clip is trimmed at the same times
# whatever its rate (librosa's own, in samples, is 128 ms at 16 kHz and 43 ms at 48 kHz).
FRAME_S = 2048 / 22050


class AudioInputError(ValueError):
    """An input that cannot be used as audio. The message says which and why."""


# ---- windows


def spans(total: float, size: float, hop: float, last: str = "pad", rest: float = 0) -> list[tuple[float, float]]:
    """Start and end of the windows of a clip, in order; in samples or in seconds.

    Window `k` is `k * hop` to `k * hop + size` as long as it ends within the clip (or at most `rest` after its end, and
    is then cut there). A clip shorter than a window is one window. The audio after the last whole window, if it is more
    than `rest`, is one more window, from the next hop to the end and shorter than the others (`pad`) or as long as they
    and up to the clip's end (`shift`), or in no window (`drop`); so are the gaps where `hop` is above `size`.

    >>> spans(7, size=4, hop=2), spans(7, size=4, hop=2, last="shift")
    ([(0, 4), (2, 6), (4, 7)], [(0, 4), (2, 6), (3, 7)])
    """
    count = 1 + max(0, math.floor((total - size + rest) / hop))
    windows = [(k * hop, min(k * hop + size, total)) for k in range(count)]
    if last != "drop" and total - windows[-1][1] > rest and total - count * hop > rest:
        windows.append((count * hop if last == "pad" else total - size, total))
    return windows


def windows(blocks: Iterable, size: int, hop: int, last: str = "pad", rest: int = 0) -> Iterator[tuple]:
    """The windows of `spans` as `(first sample, samples)` from blocks of samples; each as soon as its last sample is
    there, and little more than one is held at a time. `hop` is at most `size`.

    >>> [(first, w.tolist()) for first, w in windows([np.arange(4), np.arange(4, 7)], size=4, hop=2)]
    [(0, [0, 1, 2, 3]), (2, [2, 3, 4, 5]), (4, [4, 5, 6])]
    """
    buffer, start, total, count = np.empty(0, np.float32), 0, 0, 0  # the buffer holds samples start to total
    for block in blocks:
        buffer, total = np.concatenate([buffer, block]) if len(buffer) else block, total + len(block)
        while count * hop + size <= total:
            buffer, start = buffer[count * hop - start :], count * hop
            yield start, buffer[:size]
            count += 1
    for first, end in spans(total, size, hop, last, rest)[count:]:
        yield first, buffer[first - start : end - start]


# ---- what a feature extractor is called with


def one_clip(clip) -> np.ndarray:
    """A clip as float32 `(samples,)`. ValueError if it has another shape, or no samples."""
    samples = np.asarray(clip, dtype=np.float32)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"a clip must be (samples,), at least one sample, got shape {samples.shape}")
    return samples


def clips_at(clips, given: int | None, rate: int) -> list:
    """Clips as a list, from one `(samples,)`, a list of such or `(batch, samples)`. ValueError if they are `given` to
    be at another rate than the extractor's, in Hz; None is not checked."""
    if given is not None and given != rate:
        raise ValueError(f"clips at {given} Hz: resample them to this extractor's {rate} Hz")
    single = np.ndim(clips[0]) == 0 if len(clips) else not isinstance(clips, list | tuple)
    return [clips] if single else list(clips)


# ---- silence


def check_trim_db(trim_db: float | None) -> None:
    """Raises ValueError unless it is above 0 dB, or None, which keeps the silence."""
    if trim_db is not None and not trim_db > 0:
        raise ValueError(f"trim_db {trim_db}: must be above 0 dB; None keeps the silence")


def trim(samples: np.ndarray, rate: int, trim_db: float = 30.0) -> tuple[int, int]:
    """First sample and end (one past the last) of a clip without leading and trailing silence.

    As in librosa.effects.trim, but with a frame around every sample and not every 512: root mean square of centred
    frames of `FRAME_S`, zeros outside the clip; a frame is silent if it is more than `trim_db` below the loudest frame
    *of this clip*; the result is from the centre of the first frame that is not silent to that of the last, without
    zeros at its ends. So zeros before or after a clip change nothing: the very same samples stay. Unlike librosa there
    is no floor on the level: quiet recordings (clips of RAVDESS peak at 0.02) are trimmed as loud ones. A clip of
    zeros stays.

    >>> clip = np.zeros(48000, dtype=np.float32)
    >>> clip[16000:32000] = 0.001
    >>> trim(clip, 16000)
    (16000, 32000)
    """
    check_trim_db(trim_db)
    sound = np.flatnonzero(samples)
    if not len(sound):
        return 0, len(samples)
    start, stop = int(sound[0]), int(sound[-1]) + 1
    half = max(1, round(FRAME_S * rate / 2))
    # A frame's energy is the difference of two running sums: exact enough for 140 dB in float64.
    running = np.cumsum(np.square(samples[start:stop], dtype=np.float64))
    running = np.concatenate([np.zeros(half + 1), running, np.full(half, running[-1])])
    energy = running[2 * half : -1] - running[: -2 * half - 1]
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-trim_db / 10))
    return start + int(loud[0]), start + int(loud[-1]) + 1


def trimmed(samples: np.ndarray, rate: int, trim_db: float | None) -> np.ndarray:
    """The clip without the silence that `trim` finds; as it is if `trim_db` is None."""
    if trim_db is None:
        return samples
    first, end = trim(samples, rate, trim_db)
    return samples[first:end]


# ---- decoding


def package(name: str):
    """A package that only some inputs or models require: transformers demands every `import` of a shipped file of all
    users. Raises ImportError."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ImportError(f"{name} is needed and not installed: pip install {name}") from None


def unreadable(file, error: Exception) -> str:
    """Why soundfile could not read a file, in one line."""
    # error_string lacks the "Error opening <file>: ", which for bytes is an address in memory
    reason = getattr(error, "error_string", None) or str(error)
    if isinstance(file, str | os.PathLike) and not os.path.isfile(file):
        reason = "a folder" if os.path.isdir(file) else reason if os.path.exists(file) else "no such file"
    elif "not recognised" in reason:
        reason += " Convert it to WAV or FLAC, for instance with ffmpeg"
    return f"unreadable audio ({' '.join(reason.split())})"


def check_whole(audio, read: int, file) -> None:
    """Raises OSError if the header of an open `SoundFile` announces more than there is: `read` frames. `file` is its
    path, or a BytesIO."""
    if audio.format == "OGG" and not _whole_page(file):
        raise OSError("cut off in its last Ogg page")
    there, wanted = read, audio.frames  # of MP3
    if found := re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", audio.extra_info):  # bytes, of WAV and AIFF
        there, wanted = int(found[2]), int(found[1])
    if wanted < UNKNOWN and wanted - there > 0.01 * wanted:
        raise OSError(f"cut off after {there / wanted:.0%} of what its header announces")


def _whole_page(file) -> bool:
    """Whether an Ogg file ends with a whole page, or what follows its last one, which is marked, is no page. Not every
    writer marks it (a recorder that was stopped), so that a file cut between two pages looks whole."""
    content = file.getbuffer() if isinstance(file, io.BytesIO) else np.memmap(file, mode="r")
    tail = bytes(content[-2 * 65307 :])  # RFC 3533: no page is longer; its flags, number of parts, their lengths
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27:
        return False
    size = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) == size or len(page) > size and bool(page[5] & 4)


def averaged(samples: np.ndarray) -> np.ndarray:
    """Samples `(frames, channels)`, int16 or float32, to the mean of the channels, float32 in [-1, 1]; AudioInputError
    if one is not finite."""
    mean = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mean.astype(np.float32) / np.float32(32768) if samples.dtype == np.int16 else finite(mean)


def finite(samples: np.ndarray) -> np.ndarray:
    """The samples themselves; AudioInputError if one is NaN or infinite, or so large (`LARGEST`) that squares are."""
    peak = np.abs(samples).max(initial=0.0)
    if not np.isfinite(peak):
        raise AudioInputError("NaN or infinite samples")
    if peak > LARGEST:
        raise AudioInputError(f"samples of up to {peak:.0e}: no audio, full scale is 1")
    return samples


def resampled(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Mono samples at another rate, in Hz."""
    return samples if rate == target or not len(samples) else package("soxr").resample(samples, rate, target)


def read(source, rate: int) -> Iterator[np.ndarray]:
    """One input as blocks of mono float32 samples at `rate` Hz; a file is never in memory as a whole. AudioInputError:
    unreadable, cut off (after its last block), no samples, or NaN or infinite ones. TypeError: no kind of input that
    `SerPipeline` takes."""
    if isinstance(source, dict):
        array = source["array"] if source.get("array") is not None else source.get("raw")
        if array is not None:
            if not source.get("sampling_rate"):
                raise AudioInputError('an "array" needs its "sampling_rate" beside it')
            blocks = [resampled(finite(mono(array)), int(source["sampling_rate"]), rate)]
        elif source.get("bytes") is not None or source.get("path") is not None:
            blocks = _file_blocks(source["path"] if source.get("bytes") is None else source["bytes"], rate)
        else:
            raise TypeError(f'a dict must have "array" and "sampling_rate", "bytes" or "path", got {sorted(source)}')
    elif isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        blocks = _file_blocks(source, rate)
    elif hasattr(source, "read"):
        blocks = _file_blocks(_content(source), rate)
    elif isinstance(source, np.ndarray | torch.Tensor):
        blocks = [finite(mono(source))]
    else:
        kinds = "a path, bytes, an open file, an array, a tensor or a dict"
        raise TypeError(f"must be {kinds}, got {type(source).__name__}")
    empty = True
    for block in blocks:
        empty = empty and not len(block)
        yield block
    if empty:
        raise AudioInputError("no samples")


def _content(file) -> bytes:
    """All of an open file, wherever it was read to. TypeError if it is open in text mode."""
    if getattr(file, "seekable", lambda: False)():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise TypeError("a file must be open in binary mode: open(path, 'rb')")
    return content


def _file_blocks(file, rate: int) -> Iterator[np.ndarray]:
    soundfile = package("soundfile")
    # soundfile takes a name that is not UTF-8 as bytes alone
    source = os.fsencode(file) if isinstance(file, str | os.PathLike) else io.BytesIO(file)
    try:
        with soundfile.SoundFile(source) as audio:
            frames, change, read = round(BLOCK_S * audio.samplerate), None, 0
            if audio.samplerate != rate:
                change = package("soxr").ResampleStream(audio.samplerate, rate, 1, dtype="float32")
            while len(block := audio.read(frames, dtype="float32", always_2d=True)):
                read, block = read + len(block), averaged(block)
                yield block if change is None else change.resample_chunk(block)
            check_whole(audio, read, source)
            if change is not None:
                yield change.resample_chunk(np.empty(0, np.float32), last=True)
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:  # TypeError: .raw has no header
        raise AudioInputError(unreadable(file, error)) from None


def mono(array) -> np.ndarray:
    """The mean of the channels of `(samples,)`, `(channels, samples)` or `(samples, channels)`, float32 in [-1, 1]."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    samples = np.asarray(array)
    if samples.dtype.kind in "iu" and samples.dtype.itemsize <= 4:  # PCM
        samples = samples / 2.0 ** (8 * samples.dtype.itemsize - 1) - (samples.dtype.kind == "u")
    elif samples.dtype.kind != "f":
        raise AudioInputError(f"samples of type {samples.dtype}: give float32 in [-1, 1], or int16")
    if samples.ndim == 2 and min(samples.shape) <= MOST_CHANNELS:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    if samples.ndim != 1:
        raise AudioInputError(f"an array of shape {samples.shape}: give (samples,) or (channels, samples)")
    return samples.astype(np.float32, copy=False)
