"""From a folder of files to a corpus: `load_corpus` the first time (every clip is read) and from its cache, against
`Dataset.map` that decodes every clip and stores the feature extractor's floats, as soxan does (whose extractors of XLSR
store masks too)."""

import shutil
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from .corpus import voice
from .figures import Figure, Options
from .peers import arrow_floats
from .rounds import Pass, Watch, alternate, compare

SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
SENTENCES = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
LETTERS, VERSIONS = "WLEAF", "abcd"


def emodb_like(root: Path, sentences: int) -> tuple[list[str], float]:
    """Files named as EmoDB's (535 of 2.8 s; here 200 a sentence), and their hours."""
    import soundfile as sf

    (root / "wav").mkdir(parents=True)
    rng, paths, hours = np.random.default_rng(3), [], 0.0
    names = (speaker + text + letter for speaker in SPEAKERS for text in SENTENCES[:sentences] for letter in LETTERS)
    for name in names:
        wave = voice(rng.uniform(1.5, 4.1), 16000, rng)
        for gain, version in enumerate(VERSIONS, start=1):
            path = root / "wav" / f"{name}{version}.wav"
            sf.write(path, gain / 4 * wave, 16000, subtype="PCM_16")
            paths, hours = [*paths, str(path)], hours + len(wave) / 16000 / 3600
    return paths, hours


def run(options: Options) -> list[Figure]:
    from transformers import Wav2Vec2FeatureExtractor

    from ser_hf.data.loading import load_corpus

    root, cache = options.work / "emodb", options.work / "preparation"
    paths, hours = emodb_like(root, 2 if options.quick else 10)

    def timed(way: Callable, clear: bool = True) -> Pass:
        if clear:
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir()
        watch = Watch()
        found = way()
        done = watch.read(hours)
        if len(found) != len(paths):
            raise RuntimeError(f"{len(found)} of {len(paths)} clips were found")
        return done

    load = partial(load_corpus, "emodb", data_dir=root, cache_dir=cache)
    rows = [{"path": path, "label": 0} for path in paths]
    store = partial(arrow_floats, rows, Wav2Vec2FeatureExtractor(return_attention_mask=True), cache / "floats.arrow")
    first, again, floats, masks = "load_corpus, first time", "load_corpus, cached", "map of floats", "map with masks"
    arms = {
        floats: partial(timed, store),
        masks: partial(timed, partial(store, names=("input_values", "attention_mask"))),
        first: partial(timed, load),
        again: partial(timed, load, clear=False),
    }
    passes = alternate(arms, options.rounds, options.seconds)
    median = {name: statistics.median(one.wall for one in done) for name, done in passes.items()}
    return [
        *(Figure(f"{name}, {len(paths)} clips", seconds / hours, "s/h audio") for name, seconds in median.items()),
        Figure("load_corpus, first time, per clip", 1000 * median[first] / len(paths), "ms"),
        Figure("load_corpus, cached, in all", median[again], "s"),
        *compare(passes, first, floats, at_least=5),
        *compare(passes, first, masks),
    ]
