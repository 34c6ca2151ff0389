"""Processes that run a recipe: forked from this one, started by accelerate, or given to the command of a scheduler."""

import ast
import atexit
import gc
import importlib.util
import multiprocessing
import os
import random
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from ..errors import SerError
from ..training import run

Key = TypeVar("Key")
ENDING = 40  # seconds that a process has to end: accelerate gives its ranks 30
STOPS = (signal.SIGTERM, signal.SIGHUP) if os.name != "nt" else (signal.SIGTERM,)
PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")  # of `--launcher`; ${HOME} is the shell's
ALSO_IMPORTED = ("matplotlib.backends.backend_agg", "matplotlib.figure", "PIL.Image", "pandas")


class Process(NamedTuple):
    """A process that leads a group of its own."""

    pid: int
    poll: Callable[[], int | None]  # its exit status, negative for a signal; None before its end


def launch(
    jobs: Iterable[tuple[Key, list[str], Path]],  # commands, and the files that their output is appended to
    start: Callable[[list[str], BinaryIO], Process],
    at_once: int = 1,
    verbose: bool = False,
) -> Iterator[tuple[Key, list[str], int, str]]:
    """Run commands, so many at the same time; yields each as it ends, with its exit status and the last 64 KiB of
    its output, which is shown as it comes if `verbose`. The commands end with this generator and this process; a recipe
    also ends if this process is killed (`run.PARENT`)."""
    stops = [stop for stop in STOPS if signal.getsignal(stop) is signal.SIG_DFL]  # nohup's SIGHUP stays ignored
    for stop in stops:
        signal.signal(stop, lambda number, _: sys.exit(128 + number))
    waiting, running = iter(jobs), []
    with ExitStack() as logs:
        try:
            while True:
                for key, command, log in islice(waiting, at_once - len(running)):
                    with open(log, "ab") as out:
                        out.write(f"$ {shlex.join(command)}\n".encode())
                        out.flush()
                        tail = logs.enter_context(open(log, "rb"))
                        running.append((key, command, start(command, out), tail, tail.seek(out.tell())))
                if not running:
                    return
                time.sleep(0.1)
                for job in [*running]:
                    key, command, process, tail, begin = job
                    status = process.poll()  # before reading, so that nothing in between is lost
                    if verbose:
                        sys.stdout.write(tail.read().decode(errors="replace"))
                        sys.stdout.flush()
                    if status is not None:
                        running.remove(job)
                        size = tail.seek(0, os.SEEK_END)
                        tail.seek(max(begin if begin <= size else 0, size - 65536))  # a scheduler may write it anew
                        last = f"\ndied with signal {-status} ({signal.strsignal(-status)})" if status < 0 else ""
                        yield key, command, status, tail.read().decode(errors="replace") + last
        finally:
            for stop in stops:
                signal.signal(stop, signal.SIG_DFL)
            _end([process for _, _, process, *_ in running])


def _end(processes: list[Process]) -> None:
    """End processes and their groups: accelerate ends its ranks, which have groups of their own."""
    deadline = time.monotonic() + ENDING
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes = [process for process in processes if process.poll() is None]
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.05)


def last_error(output: str) -> str:
    """The line with the reason of a failure: the recipe's error, else the last exception, else the process's end."""
    lines = [re.sub(r"^\[rank\d+\]:\s*", "", line).strip() for line in re.split(r"[\r\n]+", output)]
    # Exceptions of launchers, and of ranks that have lost another one, are never the reason.
    after = re.compile(r"CalledProcessError|ChildFailedError|SignalException|[Cc]onnection (closed|reset) by peer")
    reported = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    raised = [line for line in raised if not after.search(line)]
    ended = [found[0] for line in lines if (found := re.search(r"(exitcode +:|died with|returned non-zero) .*", line))]
    return next((kind[-1][:500] for kind in (reported, raised, ended, list(filter(None, lines))) if kind), "no output")


# ---- a command


def accelerated(command: list[str], out: BinaryIO) -> Process:
    """Start a command on this machine."""
    return _started(command, out, os.environ | {run.PARENT: str(os.getpid())})


def scheduled(command: list[str], out: BinaryIO) -> Process:
    """Start a command that runs a recipe on another machine, perhaps, where no process knows this one."""
    return _started(command, out, {name: value for name, value in os.environ.items() if name != run.PARENT})


def _started(command: list[str], out: BinaryIO, environment: Mapping[str, str]) -> Process:
    streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, **streams, start_new_session=True, env=environment)
    return Process(process.pid, process.poll)


def template(text: str) -> list[str]:
    """The words of `--launcher`. Raises SerError: it is no command, or has an unknown placeholder."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SerError(f"--launcher {text}: {str(error).lower()}; quote it as in a shell") from None
    if not words or not shutil.which(words[0]):
        program = f"there is no program {words[0]!r}" if words else "is empty"
        raise SerError(f"--launcher {text}: {program}; give a command that ends with its job, such as 'srun --gpus 1'")
    for name in PLACEHOLDER.findall(text):
        if name not in ("command", "fold", "seed", "log"):
            known = "{command}, {fold}, {seed} and {log}"
            raise SerError(f"--launcher {text}: unknown placeholder {{{name}}}; there are {known}")
    return words


def filled(words: Iterable[str], command: list[str], **values: object) -> list[str]:
    """The words of a `template` with a command in it, or after it. A word that contains the command is for a shell.

    >>> filled(["srun", "-J", "f{fold}"], ["python", "a b.py"], fold=3)
    ['srun', '-J', 'f3', 'python', 'a b.py']
    >>> filled(["bash", "-c", "{command} > {log}"], ["python", "a b.py"], log="my log")
    ['bash', '-c', "python 'a b.py' > 'my log'"]
    """

    def fill(word: str) -> str:
        quote = shlex.quote if "{command}" in word else str
        texts = {name: quote(str(value)) for name, value in values.items()} | {"command": shlex.join(command)}
        return PLACEHOLDER.sub(lambda found: texts[found[1]], word)

    words = [*words]
    return [fill(word) for word in words] + ([] if any("{command}" in word for word in words) else command)


# ---- a fork


def can_fork() -> bool:
    """Whether a fork of this process can do what `accelerate launch RECIPE` would: on Linux, with at most one GPU and
    no configuration of accelerate, where no other thread may hold a lock."""
    import torch
    from accelerate.commands.config.config_args import default_config_file
    from tqdm import TMonitor

    for thread in threading.enumerate():
        if isinstance(thread, TMonitor):  # of a progress bar; the next one starts another
            thread.exit()
    device = torch.accelerator.current_accelerator()
    one = device is None or (device.type == "cuda" and torch.cuda.device_count() < 2)
    configured = Path(default_config_file).is_file() or any(name.startswith("ACCELERATE_") for name in os.environ)
    return sys.platform == "linux" and one and not configured and threading.active_count() == 1


def import_for(recipe: Path) -> None:
    """Import what a recipe and `run` import in their functions, so that no fork needs to."""
    for file, package in ((recipe, ""), (Path(run.__file__), run.__package__)):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                names = [name, *(f"{name}.{alias.name}" for alias in node.names)] if name.startswith("ser_hf") else []
                for module in names:
                    with suppress(ImportError):  # a function is no module
                        importlib.import_module(module)
    for module in ALSO_IMPORTED:
        importlib.import_module(module)


def forked(recipe: Path, command: list[str], out: BinaryIO) -> Process:
    """Run a recipe, whose words end `command`, in a fork of this process."""
    arguments = (command, command.index(str(recipe)), out.fileno(), os.getpid())
    process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
    process.start()
    with suppress(OSError):  # in both processes: none must be signalled before
        os.setpgid(process.pid, process.pid)
    return Process(process.pid, lambda: process.exitcode)


def _run(command: list[str], first: int, log: int, parent: int) -> None:
    """The fork: as a process that has just imported everything, with nothing of its parent's."""
    import threadpoolctl
    import torch
    from datasets.fingerprint import fingerprint_rng

    os.setpgid(0, 0)
    for stop in STOPS:
        if callable(signal.getsignal(stop)):
            signal.signal(stop, signal.SIG_DFL)
    for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
    os.environ[run.PARENT] = str(parent)
    if torch.cuda._is_in_bad_fork() and torch.cuda.device_count():  # the parent has used the GPU
        os.execv(command[0], command)
    if "OMP_NUM_THREADS" not in os.environ:  # as accelerate does
        os.environ["OMP_NUM_THREADS"] = "1"
        threadpoolctl.threadpool_limits(1)
        torch.set_num_threads(1)
    atexit._clear()
    weakref.finalize._registry.clear()  # the parent's temporary folders
    atexit.register(weakref.finalize._exitfunc)
    random.seed()
    fingerprint_rng.seed()
    gc.freeze()  # collections would go through all that was imported
    run.STARTED = time.perf_counter()
    sys.argv = command[first:]
    sys.path.insert(0, str(Path(command[first]).parent))
    try:
        runpy.run_path(command[first], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
