"""A large folder of one's own: its table, its first load and its second, against reading the headers of its files."""

import statistics
import time
from pathlib import Path

import numpy as np

from .figures import Figure, Options

RATE, SAMPLES = 8000, 800


def folder(root: Path, clips: int) -> list[str]:
    """Clips of 0.1 s, a thousand in each folder, beside their `metadata.csv`; returns their names."""
    import soundfile as sf

    names, rng = [f"{i // 1000:03d}/{i:06d}.wav" for i in range(clips)], np.random.default_rng(4)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(root / name, rng.integers(-3000, 3000, SAMPLES, dtype=np.int16), RATE)
    words = ("angry", "happy", "neutral", "sad")
    rows = [f"{name},{words[i % 4]},s{i % 50},sentence {i % 1000}\n" for i, name in enumerate(names)]
    (root / "metadata.csv").write_text("file_name,label,speaker,text\n" + "".join(rows))
    return names


def run(options: Options) -> list[Figure]:
    import soundfile as sf

    from ser_hf.data.loading import find_source, load

    clips = 10_000 if options.quick else 100_000
    root, times = options.work / "own", {"headers": [], "table": [], "scan": [], "again": []}

    def timed(name: str, step):
        started = time.process_time()  # other work on the machine does not count
        result = step()
        times[name].append(time.process_time() - started)
        return result

    names = folder(root, clips)
    load(find_source(str(root / "metadata.csv")), options.work / "warm")  # imports
    for number in range(options.rounds):
        (root / "metadata.csv").touch()  # the table is read again
        timed("headers", lambda: [sf.info(root / name) for name in names])
        source = timed("table", lambda: find_source(str(root)))
        cache = options.work / f"own{number}"
        timed("scan", lambda source=source, cache=cache: load(source, cache))
        rows, _ = timed("again", lambda cache=cache: load(find_source(str(root)), cache))
        if len(rows) != clips:
            raise RuntimeError(f"load found {len(rows)} of {clips} clips")
    cpu = {name: statistics.median(of) for name, of in times.items()}

    def ratio(*names: str) -> float:
        """CPU seconds of these steps together over those of the headers, the median of the rounds."""
        rounds = zip(times["headers"], *(times[name] for name in names), strict=True)
        return statistics.median(sum(parts) / headers for headers, *parts in rounds)

    return [
        Figure("the table, over reading all headers (CPU)", ratio("table"), "x", at_most=1.5),
        Figure("  with every sample of the sound, once", ratio("table", "scan"), "x"),
        Figure("the second load, over reading all headers (CPU)", ratio("again"), "x", at_most=0.25),
        Figure("  in all (CPU)", cpu["again"], "s"),
        Figure("  reading all headers (CPU)", cpu["headers"], "s"),
    ]
