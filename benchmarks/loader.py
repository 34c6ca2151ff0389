"""Clips per second from files to padded batches, no model: the collator against the feature extractor in a collator.

The recipes' way is the compact batch, which is normalised on the model's device; `normalised here` does that too, on
this CPU. Both over random batches of 8 (the goals are for these) and over batches by seconds, where there is little
padding to save; last the recipe's whole way against the usual one. At 48 kHz clips are resampled in the first epoch
and read from the cache afterwards.
"""

import os
import shutil
from collections.abc import Callable

import numpy as np
from torch.utils.data import DataLoader

from ser_hf.data.batching import LengthBatchSampler
from ser_hf.data.collators import SpeechCollator

from .corpus import Clips, iemocap_like, ravdess_like
from .figures import Figure, Options
from .padding import random_batches
from .peers import ExtractorCollator
from .rounds import Pass, Watch, alternate, compare, rate

GOALS = {"16 kHz": 2.5, "48 kHz": 5.0}


def one_pass(dataset, batches: list[np.ndarray], collator: Callable) -> Pass:
    watch = Watch()
    for _ in DataLoader(dataset, batch_sampler=[batch.tolist() for batch in batches], collate_fn=collator):
        pass
    return watch.read(sum(len(batch) for batch in batches))


def measure(clips: Clips, options: Options) -> dict[str, list[Pass]]:
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    ours, theirs = SpeechCollator(extractor), ExtractorCollator(extractor)
    dataset = clips.dataset().select_columns(["id", "audio", "label", "audio_hash"])
    plain = [{"path": path, "label": 0} for path in clips.paths]
    budget = LengthBatchSampler(clips.seconds, 36.0).batches(0)
    random8 = random_batches(len(clips.paths), 8, np.random.default_rng(0))

    def first_epoch() -> Pass:
        shutil.rmtree(os.environ["SER_CACHE"], ignore_errors=True)
        return one_pass(dataset, random8, ours.compact)

    arms = {
        "first epoch, random 8": first_epoch,
        "collator, random 8": lambda: one_pass(dataset, random8, ours.compact),
        "normalised here, random 8": lambda: one_pass(dataset, random8, ours),
        "extractor, random 8": lambda: one_pass(plain, random8, theirs),
        "collator, budget": lambda: one_pass(dataset, budget, ours.compact),
        "extractor, budget": lambda: one_pass(plain, budget, theirs),
    }
    return alternate(arms, options.rounds, options.seconds)


def run(options: Options) -> list[Figure]:
    figures = []
    corpora = {
        "16 kHz": iemocap_like(options.work, 150 if options.quick else 600),
        "48 kHz": ravdess_like(options.work, 40 if options.quick else 100),
    }
    for name, clips in corpora.items():
        passes = {f"{arm}, {name}": done for arm, done in measure(clips, options).items()}
        figures += [Figure(arm, rate(done), "clips/s") for arm, done in passes.items()]
        usual = f"extractor, random 8, {name}"
        figures += compare(passes, f"collator, random 8, {name}", usual, at_least=GOALS[name])
        figures += compare(passes, f"normalised here, random 8, {name}", usual)
        figures += compare(passes, f"first epoch, random 8, {name}", usual) if name == "48 kHz" else []
        figures += compare(passes, f"collator, budget, {name}", f"extractor, budget, {name}")
        figures += compare(passes, f"collator, budget, {name}", usual)
    return figures
