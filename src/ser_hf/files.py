"""Files written whole or not at all, folders claimed before anything slow, paths in texts, and figures as PNG."""

import io
import os
import re
import stat
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


def png(figure) -> bytes:
    """A `matplotlib.figure.Figure` as PNG, without pyplot and its global state. `$` in a label is a dollar sign."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
