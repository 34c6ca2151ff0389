"""New Python processes without the seconds that torch and others take to import: forks of one that has them.

A fork is as a started interpreter is: its own arguments, folder, environment and exit status. Nothing of ours is
imported before, and the libraries of Hugging Face, which read their environment then, only where it is that of the
tests.
"""

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import subprocess
import sys
import types
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

OTHERS = "torch._dynamo torchaudio soundfile soxr pandas pyarrow.parquet scipy.signal scipy.stats sklearn.linear_model"
OTHERS += " sklearn.svm matplotlib.figure matplotlib.backends.backend_agg PIL.Image"
HUGGING_FACE = "datasets evaluate peft transformers.pipelines transformers.trainer"


def python(*words, env: dict | None = None, cwd: Path | str | None = None, timeout: int = 280):
    """As `subprocess.run([sys.executable, *words], text=True, capture_output=True)`, with nothing to read from stdin.
    What takes longer than `timeout` seconds is killed."""
    words, env = [*map(str, words)], {**(os.environ if env is None else env)}
    ours, theirs = ({(k, v) for k, v in one.items() if k.startswith("HF_")} for one in (os.environ, env))
    process = server(f"{OTHERS} {HUGGING_FACE}" if ours == theirs else OTHERS)
    with TemporaryDirectory() as home:
        outputs = [Path(home, "out"), Path(home, "err")]
        job = {"words": words, "env": env, "cwd": str(cwd or os.getcwd()), "outputs": [*map(str, outputs)]}
        print(json.dumps({**job, "timeout": timeout}), file=process.stdin, flush=True)
        status = int(process.stdout.readline())
        return subprocess.CompletedProcess(words, status, *(file.read_text(errors="replace") for file in outputs))


@cache
def server(modules: str) -> subprocess.Popen:
    """A process that has imported these and forks; one for each process that tests."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, __file__, *modules.split()], text=True, **streams)
    atexit.register(process.communicate)
    return process


def serve() -> dict:
    """Fork for each job that is read, and tell its exit status. Returns the job, in its fork."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        if not (pid := os.fork()):
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    raise SystemExit


def become(job: dict) -> None:
    """Make this fork the process of a job, and run it."""
    import signal

    import numpy

    signal.alarm(job["timeout"])
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    places = (os.devnull, *job["outputs"])
    for stream, (place, flags) in enumerate(zip(places, (os.O_RDONLY, *2 * [os.O_WRONLY | os.O_CREAT]), strict=True)):
        os.dup2(os.open(place, flags), stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
    random.seed()
    numpy.random.seed()
    first, *more = job["words"]
    if first == "-c":
        code, sys.argv, sys.path[0] = compile(more[0], "<string>", "exec"), ["-c", *more[1:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(code, main.__dict__)
    elif first == "-m":
        sys.argv, sys.path[0] = more, ""
        runpy.run_module(more[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = job["words"], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    become(serve())
