"""Ten times the corpus: the scan of its files, the batches of an epoch, and the peak memory of the process that does
both, each over that of the corpus itself. Every size has processes of its own, in turn."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from .corpus import iemocap_lengths
from .figures import Figure, Options
from .own import folder

SCAN, SAMPLER, MEMORY = 10.5, 11, 1.1  # goals


def run(options: Options) -> list[Figure]:
    clips = 500 if options.quick else 2000
    roots, found, warm = {}, {clips: [], 10 * clips: []}, options.work / "scaling20"
    folder(warm, 20)
    for size in found:
        roots[size] = options.work / f"scaling{size}"
        folder(roots[size], size)
    for number in range(options.rounds):
        for size, root in roots.items():
            cache = options.work / f"scaled{size}_{number}"
            command = [sys.executable, "-m", "benchmarks.scaling", *map(str, (warm, root, cache))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[size].append(json.loads(done.stdout.splitlines()[-1]))
    pairs = list(zip(*found.values(), strict=True))
    ratio = {key: statistics.median(b[key] / a[key] for a, b in pairs) for key in ("scan", "sampler", "peak")}
    large = {key: statistics.median(b[key] for _, b in pairs) for key in pairs[0][1]}
    return [
        Figure(f"scan, {10 * clips} clips / {clips} (CPU)", ratio["scan"], "x", at_most=SCAN),
        Figure("the batches of an epoch (CPU)", ratio["sampler"], "x", at_most=SAMPLER),
        Figure(f"  of {10 * clips} clips", 1000 * large["sampler"], "ms"),
        Figure("peak memory", ratio["peak"], "x", at_most=MEMORY),
        Figure("  above the imports", (large["peak"] - large["before"]) / 10 / clips * 1024, "KB/clip"),
    ]


def measure(warm: Path, root: Path, cache: Path) -> dict[str, float]:
    """CPU seconds of the scan, with those of its processes, and of the fastest of five epochs' batches; MB before and
    at most. The folder `warm` is loaded first, for the imports."""
    from benchmarks.machine import peak_memory
    from ser_hf.data.batching import LengthBatchSampler
    from ser_hf.data.loading import find_source, load

    load(find_source(str(warm)), cache)
    source, epochs = find_source(str(root)), []
    before, started = peak_memory(), cpu()
    rows, _ = load(source, cache)
    scanned = cpu() - started
    sampler = LengthBatchSampler(iemocap_lengths(len(rows)), 36.0)
    for epoch in range(5):
        started = cpu()
        sampler.batches(epoch)
        epochs.append(cpu() - started)
    return {"scan": scanned, "sampler": min(epochs), "before": before, "peak": peak_memory()}


def cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    print(json.dumps(measure(*map(Path, sys.argv[1:]))))
