"""Files written whole or not at all, folders that one process holds, paths in texts, and figures as PNG."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from .errors import SerError

try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where two processes in one folder are not noticed
    fcntl = None

# What an interruption may leave: files and folders that are not complete have these names until they are.
HALF, SAVING = ".half", ".saving-"
_held = ExitStack()  # the locks of this process
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.pop_all)  # a fork has none of them
# A path below the root, a home folder or a drive; no web address, and no part of a longer word or relative path. Where
# its first folder has spaces, a second one or a file with a suffix follows.
LOCAL_PATH = re.compile(
    r"(?:(?<=\bfile://)|(?<=\w:)(?=/(?!/))|(?<![\w./:}\])\\]))"
    r"(?:(?:/+|\\\\+|[A-Za-z]:[/\\]+|~[/\\]+)[\w.@+-]+[/\\]+\w|~[/\\]\w"
    r"|(?:/|[A-Za-z]:[/\\]+)\w[\w.@+-]*(?: \(?\w[\w.@+-]*\)?)+[/\\]+[\w.@+-]+(?:[/\\]|\.\w))[^\s'\"]*"
)


@lru_cache
def _spelled(folders: tuple[str, ...]) -> re.Pattern:
    """These folders as a text spells them, and what follows."""
    names = [re.sub(r"/|\\\\", r"[/\\\\]+", re.escape(name)) for name in folders if len(Path(name).parts) > 1]
    return re.compile(rf"(?<![\w./])(?:{'|'.join(names) or '(?!)'})(?!\w)[^\s'\"]*")


def local_path(text: str, folders: Iterable[str | Path | None] = ()) -> str | None:
    r"""The first path of some machine in a text, or one in the home folder, the working folder or `folders`, or None.

    >>> local_path("x.wav: /data/anna/x.wav"), local_path("C:\\data\\x"), local_path("at ~/x"), local_path("file:///a/b")
    ('/data/anna/x.wav', 'C:\\data\\x', '~/x', '/a/b')
    >>> local_path("/my data/calls/x"), local_path("path:/home/a/b"), local_path("in /my data", ["/my data"])
    ('/my data/calls/x', '/home/a/b', '/my data')
    >>> local_path("and/or, https://a.org/b/c, /a/ and /e/, runs/x/y, 1/2/3, 1 / 2/3")
    """
    known = [os.path.abspath(os.path.expanduser(folder)) for folder in ("~", ".", *folders) if folder]
    found = LOCAL_PATH.search(text) or _spelled(tuple(known)).search(text)
    return found and found[0]


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk: a rename may otherwise be there before it."""
    with path.open("rb" if os.name != "nt" else "r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary path for the new content of `path`, renamed after the block: an interruption leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}{HALF}")
    try:
        yield half
        flush(half)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def saving(folder: Path) -> Iterator[Path]:
    """A temporary folder, the files of which are moved to `folder` after the block: never is there half a result."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=SAVING) as staging:
        yield Path(staging)
        for file in Path(staging).iterdir():
            os.replace(file, folder / file.name)


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all (`staged`)."""
    try:
        with staged(path) as half:
            half.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:  # a full disk does not say which
        error.filename = error.filename or str(path)
        raise


def folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and all below it, each with the names of its files, in a fixed order. Links are followed; a folder that
    is reached twice (by a link to itself, for instance) is read once."""
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        below.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        yield folder, sorted(files)


def walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files in `folders`."""
    for folder, files in folders(root):
        for name in files:
            path = Path(folder, name)
            try:
                state = path.stat()
            except OSError:  # a dangling link is no file
                continue
            if stat.S_ISREG(state.st_mode):
                yield path, state


def claim(folder: Path, flag: str) -> None:
    """Make a folder in which files can be written. SerError, with `flag` as the user's name for it, if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / f".writable.{os.getpid()}{HALF}").touch()
        probe.unlink()
    except OSError as error:
        raise SerError(f"{flag}: cannot write in {folder} ({error.strerror}); choose another") from None


def try_out(folder: Path, flag: str) -> None:
    """`claim` for later: a folder that is new is not left there, in case that nothing is written."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    claim(folder, flag)
    for one in new:
        with suppress(OSError):  # another process has used it meanwhile
            one.rmdir()


def check_writable(out: Path, flag: str, mark: str, *others: str) -> None:
    """SerError: a folder has one of the files `others`, and no `mark`, which the same command always writes."""
    mine = [name for name in others if (out / name).exists()] if not (out / mark).is_file() else []
    if mine:
        raise SerError(f"{flag} {out}: {mine[0]} is there and was not written by this command; choose another folder")


def check_empty(out: Path, flag: str, hint: str = "") -> None:
    """SerError: a folder holds files, but for what an interrupted process has left, which `hold` removes."""
    left = re.compile(rf"{re.escape(SAVING)}.*|\..*{re.escape(HALF)}|\.lock")
    if out.is_dir() and not all(left.fullmatch(file.name) for file in out.iterdir()):
        raise SerError(f"{flag}{out}: is not empty{hint}; name a new folder")


def named_file(text: str, flag: str, *suffixes: str) -> Path:
    """The file to write that a flag names, in a folder that can be written to. SerError: it is a folder, has none of
    the `suffixes` (it may be another file of the user, such as the one that is read), or the folder cannot be made."""
    path = Path(text).expanduser()
    if text.endswith(("/", os.sep)) or path.is_dir():
        raise SerError(f"{flag} {text}: is a folder; name a file")
    if path.suffix not in suffixes:
        raise SerError(f"{flag} {text}: must be a file that ends in {', '.join(suffixes)}")
    try_out(path.parent, f"{flag} {text}")
    return path


def is_folder(name: str) -> bool:
    """Whether a name that may be one of the Hub's is a folder: written as a path, or there is one."""
    written_as_path = name.startswith(("/", ".", "~", "\\", "runs/")) or name.count("/") > 1
    return written_as_path or os.path.isdir(name)  # Path.is_dir() may raise


def without_path(model: str) -> str:
    """A model's name in reports: of a folder its last part, else the Hub id."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def optional_file(checkpoint: str, name: str) -> Path | None:
    """A file of a checkpoint, which is a folder or on the Hub; None if there is no such file, or no such checkpoint."""
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        file = cached_file(checkpoint, name, **quiet)
    except (OSError, ValueError):
        return None
    return None if file is None else Path(file)


def check_checkpoint(name: str, flag: str) -> None:
    """See that a checkpoint which is a folder of this machine has a configuration and whole weights, by their headers,
    that are not pickled; other names may be on the Hub. SerError, with `flag` as the user's name for it, if not."""
    folder = Path(name).expanduser()
    heads = [folder] if folder.suffix == ".ckpt" and folder.is_file() else sorted(folder.glob("*.ckpt"))
    if heads and not any(file.suffix in (".safetensors", ".bin") for file in folder.glob("*")):
        how = f"`ser-hf convert {heads[0]} NEW_FOLDER --encoder ENCODER` makes one of s3prl whole"
        raise SerError(f"{flag} {name}: {heads[0].name} is no checkpoint of transformers; {how}")
    if not folder.is_dir():
        if is_folder(name) or folder.exists():
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
    if len(problems) == 1 and (pickles := sorted(folder.glob("pytorch_model*.bin"))):
        how = f"`ser-hf convert {name} NEW_FOLDER` rewrites it, then name the new folder"
        raise SerError(f"{flag} {name}: {pickles[0].name} is pickled and not read, because it can run code; {how}")


def _cut(file: Path) -> str | None:
    """What is wrong with a safetensors file (the header's length in 8 bytes, the header, weights), or None."""
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


def hold(place: Path, flag: str, file: bool = False) -> None:
    """Keep a folder, or a `file`, for this process until `release`, and remove what an interrupted process left of it.
    SerError, with `flag` as the user's name for it: another process holds it (says which), or it cannot be written."""
    folder, prefix = (place.parent, f".{place.name}") if file else (place, "")
    claim(folder, flag)
    if fcntl is not None:
        _lock(folder / f"{prefix}.lock", flag)
    names = rf"\.+{re.escape(place.name)}(\.partial)?\.\d+\{HALF}" if file else rf"\..*\{HALF}|\{SAVING}.*"
    for left in [*folder.iterdir(), *(folder.glob("figures/*") if not file else ())]:
        if re.fullmatch(names, left.name, re.DOTALL):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _lock(lock: Path, flag: str) -> None:
    """Keep a lock file, which names this process. Its forks do not have it; it ends with this process, which may leave
    the file. Where the file system has no locks, nothing is kept. Raises SerError as `hold`."""
    number = _locked(lock, flag)
    for _ in range(9):  # its holder had just ended, and removed it; a network folder may have other inodes each time
        if lock.exists() and os.path.samestat(os.fstat(number), lock.stat()):
            break
        os.close(number)
        number = _locked(lock, flag)
    _held.callback(os.close, number)
    _held.callback(lock.unlink, missing_ok=True)
    words, since = re.sub(r"(token[= ])\S+", r"\1***", shlex.join(sys.argv))[:200], time.strftime("%Y-%m-%d %H:%M:%S")
    os.ftruncate(number, 0)
    os.write(number, f"process {os.getpid()} on {socket.gethostname()} since {since}: {words}\n".encode())


def _locked(lock: Path, flag: str) -> int:
    try:
        number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:  # another user's, whose process was killed or goes on
        advice = "choose another, or remove that file if nobody uses the folder"
        raise SerError(f"{flag}: cannot write {lock} ({error.strerror}); {advice}") from None
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(number)
            holder = lock.read_text(errors="replace").strip() if lock.exists() else ""
            raise SerError(f"{flag}: in use by {holder or 'another process'}; wait for it, or choose another") from None
    return number


def release() -> None:
    """Give back what this process holds (`hold`)."""
    _held.close()


def png(figure) -> bytes:
    """A `matplotlib.figure.Figure` as PNG, without pyplot and its global state. `$` in a label is a dollar sign."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
