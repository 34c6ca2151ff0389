"""The error of a user's mistake, and the door of every command line: what ends in one line, what in a traceback.

A module of its own, because command lines need it before anything heavy loads; it imports nothing of this project.
"""

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable

# Texts of errors without a class of their own, from torch, its DataLoader, safetensors and the operating system.
NO_MEMORY = (
    *("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc"),
    *("killed by signal: Killed", "insufficient shared memory", "could not create a primitive"),  # the last: oneDNN
)
NO_SPACE = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed", "file write failed")
NO_SPACE += ("basic_ios::clear: iostream error", "Not enough disk space")  # torch.save, datasets
LONGEST = 400  # characters of another library's message


class SerError(Exception):
    """A mistake the user can mend. The message is one line: the thing, the value got, the next step (exit status 2)."""


def door(body: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Run a command line; returns its exit status, 0 for None. A mistake of the user, a full disk or memory, a damaged
    file and a Hub that refuses are one line on stderr and status 2; Control-C is the line `stopped` and 130; nobody
    reading on is 141. Any other error is a defect: its traceback, where to report it, and status 1."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may not be writable in this encoding
    first = os.environ.get("RANK", "0") == "0"  # all processes make the same mistake
    try:
        return body() or 0
    except KeyboardInterrupt:
        sys.stderr.write(f"{stopped}\n" * first)
        return 130
    except BrokenPipeError:  # `ser-hf corpora | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        line = trouble(error)
        if line is None:
            traceback.print_exc()
            sys.stderr.write("This is a defect of ser_hf: open an issue with this traceback and the command.\n")
            return 1
        if first or type(error) is not SerError:  # an AudioError is of the clips of one process
            sys.stderr.write(f"error: {line}\n")
        return 2


def trouble(error: BaseException | None) -> str | None:
    """One line on what the user, the machine or the Hub is to blame for, from an error or one of those it was raised
    from; None for a defect.

    >>> trouble(FileNotFoundError(2, "No such file or directory", "a.wav"))
    'a.wav: no such file or directory'
    >>> trouble(KeyError("uar"))
    """
    while error is not None:
        text, kinds = one_line(error), {kind.__name__ for kind in type(error).__mro__}
        files = [error.filename2, error.filename] if isinstance(error, OSError) else []  # of a copy: to, from
        place = next((f"{file}: " for file in files if file is not None), "")
        if isinstance(error, SerError):
            return text
        if no_memory(error):
            return f"the memory is full ({text or 'MemoryError'}); give smaller batches, shorter clips or windows"
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(word in str(error) for word in NO_SPACE):
            return f"{place}no space left on the disk; free some, or choose another folder, and give the command again"
        if "SafetensorError" in kinds:
            return f"a safetensors file is damaged or cut off ({text}); copy or download the checkpoint again"
        if "GatedRepoError" in kinds:
            return f"{text}: ask for access on its page on the Hub, then log in with `hf auth login`"
        if kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError"} or type(error).__module__.startswith("httpx"):
            return f"the Hub cannot be reached ({text}); check the network, or name a local folder"
        if isinstance(error, OSError):  # most of the Hub's errors are
            return f"{place}{error.strerror.lower()}" if error.strerror else text or type(error).__name__
        error = error.__cause__
    return None


def no_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, says that the memory of the machine, the GPU or a worker was too small."""
    if error is None:
        return False
    kinds = {kind.__name__ for kind in type(error).__mro__} & {"MemoryError", "OutOfMemoryError"}
    return bool(kinds) or any(word in str(error) for word in NO_MEMORY) or no_memory(error.__cause__)


def one_line(error: BaseException) -> str:
    """An error's message as one line, cut at `LONGEST` unless a `SerError`; of a worker's traceback the last line."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        text = re.sub(r"^[\w.]+: ", "", text.strip().splitlines()[-1])
    return printable(" ".join(text.split())[: None if isinstance(error, SerError) else LONGEST])


def printable(text: str) -> str:
    r"""Text with escapes for what a terminal would obey or cannot show, such as in a file's name.

    >>> printable("a\rb\x1b[2J")
    'a\\rb\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
