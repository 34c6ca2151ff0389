"""Tensors on disk, named by the content they were computed from: features and hidden states are computed once.

A store is a folder of safetensors files, named by the settings of the computation; a tensor's name is the hash of the
audio or text it was computed from. Files are only added, each whole or not at all: several processes may do so at once.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
MODELS = Path(__file__).parents[1] / "models"
BLOCK = 256  # tensors per file that are added
SMALL, KEPT = 2**17, 2**28  # bytes of a tensor that stays in memory once it was read, and of all of these
ROOM = 2**32  # bytes that `save_array` leaves on the disk: for checkpoints


def source_hash(*files: str | Path) -> str:
    """A short name for code: it changes with any of these source files."""
    digest = xxhash.xxh3_64()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def cache_home() -> Path:
    """`$SER_CACHE`, else a folder beside the `datasets` cache."""
    import datasets

    home = os.environ.get("SER_CACHE") or Path(datasets.config.HF_DATASETS_CACHE).parent / "ser_hf"
    return Path(home).expanduser().absolute()


def settings_folder(kind: str, code: str | Path, *settings) -> Path:
    """The folder in `cache_home` of tensors of one kind (such as `features`) with the same settings. `code` is the
    source file that computes them, with the help of `models` and `data/audio.py`; `settings` are all that they depend
    on besides the code and their content, with a stable `repr`."""
    files = [code, Path(__file__).with_name("audio.py"), *sorted(MODELS.glob("*.py"))]
    digest = xxhash.xxh3_64(repr((source_hash(*files), *settings)).encode()).hexdigest()
    return cache_home() / f"{kind}-{digest}"


def content_hash(*parts: str | None) -> str:
    """A short name for texts, in their order."""
    return xxhash.xxh3_128("\0".join("" if part is None else part for part in parts).encode()).hexdigest()


def clip_name(row: dict) -> str:
    """The name of what is computed from a row's audio: its hash, the times of a window, the speed of a copy."""
    start, end, speed = row.get("window_start"), row.get("window_end"), row.get("speed")
    window = "" if start is None else f" {start} {end}"
    return row["audio_hash"] + window + (f" x{speed}" if speed else "")


class Store:
    """Tensors by name in one folder; a class because it holds open files, which each worker opens for itself."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._parts, self._file_of, self._kept, self._room = {}, {}, {}, KEPT

    def __reduce__(self):
        return type(self), (self.folder,)

    def refresh(self) -> None:
        """Open the files that this or another process has added."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._parts:
                try:
                    self._parts[path] = part = safe_open(path, framework="pt")
                except (OSError, SafetensorError) as error:
                    _remove(path, error)
                    continue
                for name in part.keys():
                    self._file_of[name] = part

    def missing(self, names: Iterable[str]) -> list[int]:
        """Positions of the names that the store lacks, each distinct name once."""
        self.refresh()
        first = {}
        for position, name in enumerate(names):
            first.setdefault(name, position)
        return [position for name, position in first.items() if name not in self._file_of]

    def __getitem__(self, name: str) -> "torch.Tensor":
        """One tensor, read from its file; KeyError if no tensor has that name. It must not be written to: small ones
        are the same ones every time, so that an epoch of a head over vectors reads no file."""
        if name in self._kept:
            return self._kept[name]
        if name not in self._file_of:
            self.refresh()
        tensor = self._file_of[name].get_tensor(name)
        if tensor.nbytes <= min(SMALL, self._room):
            self._kept[name], self._room = tensor, self._room - tensor.nbytes
        return tensor

    def fill(self, names: Sequence[str], compute: "Callable[[int], torch.Tensor]", title: str | None = None) -> int:
        """Compute the tensors that the store lacks, by their positions in `names`, each distinct name once; returns
        their number. `title` is of the progress bar; None shows none."""
        from tqdm.auto import tqdm

        missing = self.missing(names)
        with tqdm(total=len(missing), desc=title, unit=" clips", disable=title is None, leave=False) as bar:
            for first in range(0, len(missing), BLOCK):
                block = {}
                for position in missing[first : first + BLOCK]:
                    block[names[position]] = compute(position)
                    bar.update()
                self.add(block)
        return len(missing)

    def add(self, tensors: dict[str, "torch.Tensor"]) -> None:
        """Write tensors as one more file, under a temporary name until it is complete."""
        if not tensors:
            return
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"{uuid4().hex}.safetensors"
        _write(final, lambda building: save_file({name: one.contiguous() for name, one in tensors.items()}, building))
        self.refresh()


def _write(final: Path, save: Callable[[Path], None]) -> None:
    """Save a file whole or not at all: under a name of its own until it is complete."""
    building = final.with_name(f"{uuid4().hex}.part")
    try:
        save(building)
        os.replace(building, final)
    finally:
        building.unlink(missing_ok=True)


def save_array(file: Path, array: np.ndarray) -> None:
    """Keep an array in a file of its own; several processes may do so at once. OSError: the disk is nearly full."""
    from safetensors.numpy import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(file.parent).free < ROOM:
        raise OSError(f"fewer than {ROOM >> 30} GB are free")
    _write(file, lambda building: save_file({"array": array}, building))


def load_array(file: Path) -> np.ndarray | None:
    """The array that `save_array` has kept; None if there is none. A damaged file is removed."""
    from safetensors.numpy import load_file

    try:
        return load_file(file)["array"]
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        _remove(file, error)
        return None


def _remove(file: Path, error: Exception) -> None:
    logger.warning(f"{file}: damaged ({error}); removed, what it held is computed again")
    file.unlink(missing_ok=True)
