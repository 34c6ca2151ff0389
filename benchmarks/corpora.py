"""Building a corpus and reading it once, against the usual way: `Dataset.map` that decodes into lists of floats.

    python -m benchmarks.corpora
    python -m benchmarks.corpora --sentences 2 --json corpora.json

Each arm runs in a process of its own, in turns (A B A B ...), so that its peak memory is its own; figures are medians
over rounds, per hour of audio. Memory is the peak above what the imports take.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .machine import peak_memory

ARMS = {"ours": "load_corpus: paths, scanned once", "map": "Dataset.map: decoded floats in Arrow"}


def size(folder: Path) -> float:
    """MB of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def ours(corpus: Path, cache: Path) -> dict:
    from ser_hf.data.audio import decode
    from ser_hf.data.loading import load_corpus

    before, started = peak_memory(), time.perf_counter()
    rows = load_corpus("emodb", data_dir=corpus, cache_dir=cache)
    built = time.perf_counter()
    samples = sum(len(decode(row["audio"], 16000)) for row in rows)
    return {
        "build": built - started,
        "read": time.perf_counter() - built,
        "peak": peak_memory() - before,
        "samples": samples,
    }


def usual(corpus: Path, cache: Path) -> dict:
    """As soxan and most notebooks do: every clip's samples go into the table as floats."""
    import datasets
    import soundfile as sf

    before, started = peak_memory(), time.perf_counter()
    files = datasets.Dataset.from_dict({"path": [str(file) for file in sorted((corpus / "wav").glob("*.wav"))]})
    rows = files.map(
        lambda row: {"input_values": sf.read(row["path"], dtype="float32")[0]},
        cache_file_name=str(cache / "decoded.arrow"),
    )
    built = time.perf_counter()
    samples = sum(len(row["input_values"]) for row in rows)
    return {
        "build": built - started,
        "read": time.perf_counter() - built,
        "peak": peak_memory() - before,
        "samples": samples,
    }


def one(arm: str, corpus: Path) -> dict:
    """Run an arm in a process of its own, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "benchmarks.corpora", "--arm", arm, "--corpus", str(corpus), "--cache", cache]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {**json.loads(done.stdout.splitlines()[-1]), "disk": size(Path(cache))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=10, help="size: 50 clips a sentence, at most 10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    for hidden in ("--arm", "--corpus", "--cache"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        measured = (ours if options.arm == "ours" else usual)(Path(options.corpus), Path(options.cache))
        print(json.dumps(measured))
        return

    from .machine import facts, lines
    from .preparation import emodb_like

    with tempfile.TemporaryDirectory() as work:
        clips, hours = emodb_like(Path(work) / "emodb", options.sentences)
        runs = {arm: [] for arm in ARMS}
        for _ in range(options.rounds):
            for arm in ARMS:
                runs[arm].append(one(arm, Path(work) / "emodb"))
    assert len({run["samples"] for every in runs.values() for run in every}) == 1, "the arms read other samples"
    figures = {
        arm: {key: statistics.median(run[key] for run in every) / hours for key in ("build", "read", "disk", "peak")}
        for arm, every in runs.items()
    }
    machine = facts()
    print("\n".join(lines(machine)))
    print(f"\n{clips} clips, {hours:.2f} h, {options.rounds} rounds; per hour of audio:")
    print(f"{'':<40}{'build s':>10}{'read s':>10}{'disk MB':>10}{'peak MB':>10}")
    for arm, row in figures.items():
        print(f"{ARMS[arm]:<40}" + "".join(f"{row[key]:>10.2f}" for key in ("build", "read", "disk", "peak")))
    ratio = {key: figures["map"][key] / max(figures["ours"][key], 1e-9) for key in figures["ours"]}
    print(
        f"{'the usual way over ours':<40}"
        + "".join(f"{ratio[key]:>9.1f}x" for key in ("build", "read", "disk", "peak"))
    )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "figures": figures, "ratio": ratio}, indent=2))


if __name__ == "__main__":
    main()
