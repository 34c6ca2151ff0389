"""What the figures were taken on; without it they mean nothing."""

import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np


def facts() -> dict:
    """Processor, cores, versions, threads, load of the last minute."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": 1,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "datasets", "soundfile", "numpy")},
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _processor() -> str:
    """The processor's name, with the widest vectors it has: they decide more than its clock."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    known = {key.strip(): value.strip() for key, value in lines.items()}
    flags = known.get("flags", "").split()
    vectors = next((name for name in ("amx_tile", "avx512f", "avx2") if name in flags), "")
    return " ".join(filter(None, (known.get("model name", platform.machine()), vectors)))


def yardstick() -> float:
    """CPU seconds of a fixed calculation, half in Python and half in NumPy, the median of nine: a virtual machine
    becomes slower and faster by the minute, and seconds are compared in this unit."""

    def once() -> float:
        started = time.process_time()
        sum(number * number for number in range(400_000))
        values = np.random.default_rng(0).random(400_000)
        np.sort(values)
        np.bincount((values * 1000).astype(np.int64), weights=values)
        return time.process_time() - started

    return statistics.median(once() for _ in range(9))


def lines(facts: dict) -> list[str]:
    """The header on the screen, with a warning where other work disturbs."""
    libraries = ", ".join(f"{name} {facts[name]}" for name in ("python", "torch", "transformers", "datasets"))
    out = [
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} thread used, load {facts['load']:.1f}",
        libraries,
    ]
    if facts["load"] > 1:
        out.append("warning: other work disturbs (load above 1): trust the fastest passes and the CPU seconds")
    return out


def peak_memory() -> float:
    """MB that this process held at most; not ru_maxrss, which begins with what the parent of a process held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
