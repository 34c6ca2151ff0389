"""Audio of any kind as blocks of samples, and windows of them. Ships to the Hub beside the weights: imports nothing of
this project.

Files are decoded by soundfile (WAV, FLAC, MP3, OGG, AIFF, ...: no FFmpeg), other rates are converted by soxr; both are
imported when they are needed.
"""

import importlib
import io
import os
from collections.abc import Iterable, Iterator

import numpy as np
import torch

BLOCK_S = 10.0  # what is read of a file at a time
MOST_CHANNELS = 32  # an array with more in both directions is no audio


class AudioInputError(ValueError):
    """An input that cannot be heard. The message says which and why."""


def windows(blocks: Iterable, size: int, hop: int, last: str = "pad", rest: int = 0) -> Iterator[tuple]:
    """Windows of `size` samples, one every `hop`, as `(first sample, samples)`; little more than one is held at a time.

    Audio behind the last whole window, if it is more than `rest` samples, is in one window more: with `pad` from the
    next hop to the end, shorter than the others; with `shift` as long as they are, up to the end; with `drop` in none.
    Audio shorter than a window is one window. A window may lack `rest` samples of its length.

    >>> [(first, w.tolist()) for first, w in windows([np.arange(4), np.arange(4, 7)], size=4, hop=2)]
    [(0, [0, 1, 2, 3]), (2, [2, 3, 4, 5]), (4, [4, 5, 6])]
    """
    buffer, start, end, first = np.empty(0, np.float32), 0, 0, 0  # the buffer holds samples start to end
    for block in blocks:
        buffer, end = np.concatenate([buffer, block]) if len(buffer) else block, end + len(block)
        while first + size <= end:
            buffer, start = buffer[first - start :], first
            yield first, buffer[:size]
            first += hop
    whole = not first or first + size - end <= rest
    if whole or (last != "drop" and end - (first - hop + size) > rest):
        begin = first if whole or last == "pad" else end - size
        yield begin, buffer[begin - start :]


def read(source, rate: int) -> Iterator[np.ndarray]:
    """One input as blocks of mono float32 samples at `rate` Hz; a file is never in memory as a whole.

    Raises:
        AudioInputError: unreadable, without samples, with NaN or infinite ones, or no audio.
        TypeError: of no kind that `SerPipeline` takes.
    """
    if isinstance(source, dict):
        array = source["array"] if source.get("array") is not None else source.get("raw")
        if array is not None:
            if not source.get("sampling_rate"):
                raise AudioInputError('an "array" needs its "sampling_rate" beside it')
            blocks = [mono(array)]
            if len(blocks[0]) and source["sampling_rate"] != rate:
                blocks = [package("soxr").resample(blocks[0], int(source["sampling_rate"]), rate)]
        elif source.get("bytes") is not None or source.get("path") is not None:
            blocks = _file_blocks(source["path"] if source.get("bytes") is None else source["bytes"], rate)
        else:
            raise TypeError(f'a dict must have "array" and "sampling_rate", "bytes" or "path", got {sorted(source)}')
    elif isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        blocks = _file_blocks(source, rate)
    elif isinstance(source, np.ndarray | torch.Tensor):
        blocks = [mono(source)]
    else:
        raise TypeError(f"must be a path, bytes, an array, a tensor or a dict, got {type(source).__name__}")
    empty = True
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioInputError("NaN or infinite samples")
        empty = empty and not len(block)
        yield block
    if empty:
        raise AudioInputError("no samples")


def package(name: str):
    """A package that is needed only for some inputs. `import` is not used, because transformers demands what a shipped
    file imports, also inside its functions, of everybody who loads it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ImportError(f"this input needs {name}: pip install {name}") from None


def _file_blocks(file, rate: int) -> Iterator[np.ndarray]:
    soundfile = package("soundfile")
    try:
        with soundfile.SoundFile(file if isinstance(file, str | os.PathLike) else io.BytesIO(file)) as audio:
            frames, change = round(BLOCK_S * audio.samplerate), None
            if audio.samplerate != rate:
                change = package("soxr").ResampleStream(audio.samplerate, rate, 1, dtype="float32")
            while len(block := audio.read(frames, dtype="float32", always_2d=True)):
                block = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
                yield block if change is None else change.resample_chunk(block)
            if change is not None:
                yield change.resample_chunk(np.empty(0, np.float32), last=True)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        if isinstance(file, str | os.PathLike) and not os.path.isfile(file):
            reason = "a folder" if os.path.isdir(file) else "no such file"
        elif "not recognised" in reason:
            reason += " Convert it to WAV or FLAC, for instance with ffmpeg"
        raise AudioInputError(f"unreadable audio ({' '.join(reason.split())})") from None


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
