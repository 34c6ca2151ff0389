"""Files written whole or not at all, folders claimed before anything slow, paths in texts, and figures as PNG."""

import io
import json
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from .errors import SerError

# A path below the root, a home folder or a drive; no web address, and no part of a longer word or relative path.
LOCAL_PATH = re.compile(
    r"(?:(?<=\bfile://)|(?<![\w./:}\])\\]))"
    r"(?:(?:/+|\\\\+|[A-Za-z]:[/\\]+|~[/\\]+)[\w.@+-]+[/\\]+\w|~[/\\]\w)[^\s'\"]*"
)


def local_path(text: str) -> str | None:
    r"""The first path of some machine in a text, or None.

    >>> local_path("x.wav: /data/anna/x.wav"), local_path("C:\\data\\x"), local_path("at ~/x"), local_path("file:///a/b")
    ('/data/anna/x.wav', 'C:\\data\\x', '~/x', '/a/b')
    >>> local_path("and/or, https://a.org/b/c, /a/ and /e/, runs/x/y, 1/2/3, 1 / 2/3")
    """
    found = LOCAL_PATH.search(text)
    return found and found[0]


def write(path: Path, content: str | bytes) -> None:
    """Write under a temporary name beside `path`, then rename: an interruption never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(staging, path)


def walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files below a folder in a fixed order. Links are followed; a folder that is reached twice (by a link
    to itself, for instance) is read once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        for name in sorted(files):
            path = Path(folder, name)
            try:
                state = path.stat()
            except OSError:  # a dangling link is no file
                continue
            if stat.S_ISREG(state.st_mode):
                yield path, state


def claim(folder: Path, flag: str) -> None:
    """Make a folder and prove that files can be written there. SerError, with `flag` as the user's name for the folder,
    if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / f".writable.{os.getpid()}").touch()
        probe.unlink()
    except OSError as error:
        raise SerError(f"{flag}: cannot write in {folder} ({error.strerror}); choose another") from None


def named_file(text: str, flag: str) -> Path:
    """The file that a flag names, in a folder that can be written to. SerError: it is a folder, or there is none."""
    path = Path(text).expanduser()
    if text.endswith(("/", os.sep)) or path.is_dir():
        raise SerError(f"{flag} {text}: is a folder; name a file")
    claim(path.parent, f"{flag} {text}")
    return path


def check_checkpoint(name: str, flag: str) -> None:
    """See that a checkpoint which is a folder of this machine has a configuration and whole weights, by their headers;
    other names may be on the Hub. SerError, with `flag` as the user's name for it, if not."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        local = name.startswith(("/", ".", "~", "runs/")) or name.count("/") > 1  # no name on the Hub
        if local or folder.exists():
            raise SerError(f"{flag} {name}: no such folder; train it first, or name a model on the Hub")
        return
    file = folder / "config.json"
    try:
        problem = None if isinstance(json.loads(file.read_bytes()), dict) else "holds no JSON object"
    except (OSError, ValueError, RecursionError) as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else "is no JSON"
    problems = {file.name: problem} | {weights.name: _cut(weights) for weights in folder.glob("*.safetensors")}
    for part, problem in problems.items():
        if problem:
            raise SerError(f"{flag} {name}: {part} {problem}; copy or download the checkpoint again")


def _cut(file: Path) -> str | None:
    """What is wrong with a safetensors file's header or length (8 bytes with the header's length, the header, weights);
    None if nothing is."""
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length + 8 > size:
            return f"is empty, cut off or no safetensors ({size} bytes)"
        try:
            tensors = [entry for name, entry in json.loads(content.read(length)).items() if name != "__metadata__"]
            whole = 8 + length + max([entry["data_offsets"][1] for entry in tensors], default=0)
        except (ValueError, TypeError, AttributeError, LookupError):
            return "has no safetensors header"
    return None if size == whole else f"has {size} bytes of {whole}"


def png(figure) -> bytes:
    """A `matplotlib.figure.Figure` as PNG, without pyplot and its global state. `$` in a label is a dollar sign."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
