"""From a folder of files to a corpus: `load_corpus` the first time (every clip is read) and from its cache."""

import statistics
import time
from pathlib import Path

import numpy as np

from .corpus import voice
from .figures import Figure, Options

SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
SENTENCES = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
LETTERS = "WLEAF"


def emodb_like(root: Path, sentences: int) -> tuple[int, float]:
    """Files named as EmoDB's (535 of 2.8 s; here 50 a sentence); their number and hours."""
    import soundfile as sf

    (root / "wav").mkdir(parents=True)
    rng, clips, hours = np.random.default_rng(3), 0, 0.0
    for speaker in SPEAKERS:
        for sentence in SENTENCES[:sentences]:
            for letter in LETTERS:
                wave = voice(rng.uniform(1.5, 4.1), 16000, rng)
                sf.write(root / "wav" / f"{speaker}{sentence}{letter}a.wav", wave, 16000, subtype="PCM_16")
                clips, hours = clips + 1, hours + len(wave) / 16000 / 3600
    return clips, hours


def run(options: Options) -> list[Figure]:
    from ser_hf.data.loading import load_corpus

    root, first, cached = options.work / "emodb", [], []
    clips, hours = emodb_like(root, 2 if options.quick else 10)
    for number in range(1 + min(options.rounds, 3)):
        for times in (first, cached):
            started = time.perf_counter()
            corpus = load_corpus("emodb", data_dir=root, cache_dir=options.work / f"cache{number}")
            times.append(time.perf_counter() - started)
        if len(corpus) != clips:
            raise RuntimeError(f"load_corpus found {len(corpus)} of {clips} clips")
    # the first of each also imports and warms up
    scan, again = statistics.median(first[1:]), statistics.median(cached[1:])
    return [
        Figure(f"load_corpus, {clips} clips, first time", scan / hours, "s/h audio"),
        Figure("  fastest", min(first[1:]) / hours, "s/h audio"),
        Figure("  per clip", 1000 * scan / clips, "ms"),
        Figure("load_corpus, cached", again / hours, "s/h audio"),
        Figure("  in all", again, "s"),
    ]
