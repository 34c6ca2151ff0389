"""What a user waits for before anything happens: the import and `--help`, in fresh processes."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from .figures import Figure, Options

REPO = Path(__file__).parents[1]
TIMES = 5
RECIPE = REPO / "recipes" / "wav2vec2_cls.py"
IMPORT = (
    "import sys, time as t; s = t.perf_counter(); import ser_hf; print(t.perf_counter() - s, 'torch' in sys.modules)"
)


def import_seconds() -> tuple[float, bool]:
    """Seconds of `import ser_hf` alone, and whether it brought torch."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    seconds, torch = done.stdout.split()
    return float(seconds), torch == "True"


def command_seconds(*words: str) -> float:
    """Seconds of a whole Python process, the interpreter's own start included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def run(options: Options) -> list[Figure]:
    imports = [import_seconds() for _ in range(TIMES)]
    helps = [command_seconds(str(RECIPE), "--help") for _ in range(TIMES)]
    bare = [command_seconds("-c", "pass") for _ in range(TIMES)]
    return [
        Figure("import ser_hf", statistics.median(seconds for seconds, _ in imports), "s", at_most=0.3),
        Figure("  processes in which it imported torch", sum(torch for _, torch in imports), at_most=0),
        Figure("recipes/wav2vec2_cls.py --help, whole process", statistics.median(helps), "s", at_most=0.5),
        Figure("  fastest", min(helps), "s"),
        Figure("  of which Python's own start", statistics.median(bare), "s"),
    ]
