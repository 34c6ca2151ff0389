"""`ser-hf cv` around its trainings: six folds of a small network whose features are cached, forked and launched."""

import json
import os
import resource
import subprocess
import sys
import time

from .figures import Figure, Options
from .startup import REPO

COMMAND = [sys.executable, "-c", "from ser_hf.cli import main; raise SystemExit(main())", "cv"]
RECIPE = ["--dataset", "demo", "--config", "none", "--arch", "cnn2d_2", "--use_cpu", "true", "--disable_tqdm", "true"]
# For `accelerate launch`, as for every variable of accelerate; this one changes nothing.
LAUNCHED = {"ACCELERATE_LOG_LEVEL": "warning"}


def run(options: Options) -> list[Figure]:
    folds = ["0", "1"] if options.quick else [str(fold) for fold in range(6)]
    launched, launched_cpu = outside(options, "launched", folds, LAUNCHED)  # also computes the features
    forked, forked_cpu = outside(options, "forked", folds, {})
    return [
        Figure(f"cv of {len(folds)} folds: outside training, per fold", forked, "s", at_most=5),
        Figure("  CPU seconds per fold, training included", forked_cpu, "s"),
        Figure("  each by accelerate launch", launched, "s"),
        Figure("  CPU seconds per fold, training included", launched_cpu, "s"),
    ]


def outside(options: Options, name: str, folds: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of a whole cross-validation without its trainings, and all its CPU seconds; both per fold."""
    out = options.work / name
    words = [str(REPO / "recipes" / "spectrogram_cls.py"), *RECIPE, "--max_steps", "2", "--folds", *folds]
    environment = os.environ | {"SER_CACHE": str(options.work / "cache"), "OMP_NUM_THREADS": "1"} | environment
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*COMMAND, *words, "--output_dir", str(out)]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    runs = [json.loads((out / f"fold{fold}_seed42" / "results.json").read_text()) for fold in folds]
    trained = sum(results["training"]["seconds"] for results in runs)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (wall - trained) / len(folds), cpu / len(folds)
