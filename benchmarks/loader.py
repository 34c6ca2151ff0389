"""Clips per second from files to padded batches, no model: the collator against the feature extractor in a collator.

Both over random batches of 8 (the goal is for these) and over batches by seconds,
where there is little padding to save; last the recipe's whole way against the usual one.
"""

import numpy as np
from torch.utils.data import DataLoader

from ser_hf.data.batching import LengthBatchSampler
from ser_hf.data.collators import SpeechCollator

from .corpus import Clips, iemocap_like, ravdess_like
from .figures import Figure, Options
from .padding import random_batches
from .peers import ExtractorCollator
from .rounds import Pass, Watch, alternate, compare, rate


def one_pass(dataset, batches: list[np.ndarray], collator) -> Pass:
    watch = Watch()
    for _ in DataLoader(dataset, batch_sampler=[batch.tolist() for batch in batches], collate_fn=collator):
        pass
    return watch.read(sum(len(batch) for batch in batches))


def measure(clips: Clips, rounds: int) -> dict[str, list[Pass]]:
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    ours, theirs = SpeechCollator(extractor), ExtractorCollator(extractor)
    dataset = clips.dataset().select_columns(["id", "audio", "label"])
    plain = [{"path": path, "label": 0} for path in clips.paths]
    budget = LengthBatchSampler(clips.seconds, 36.0).batches(0)
    random8 = random_batches(len(clips.paths), 8, np.random.default_rng(0))
    arms = {
        "collator, random 8": lambda: one_pass(dataset, random8, ours),
        "extractor, random 8": lambda: one_pass(plain, random8, theirs),
        "collator, budget": lambda: one_pass(dataset, budget, ours),
        "extractor, budget": lambda: one_pass(plain, budget, theirs),
    }
    return alternate(arms, rounds)


def run(options: Options) -> list[Figure]:
    figures = []
    corpora = {
        "16 kHz": iemocap_like(options.work, 150 if options.quick else 600),
        "48 kHz": ravdess_like(options.work, 40 if options.quick else 100),
    }
    for name, clips in corpora.items():
        passes = {f"{arm}, {name}": done for arm, done in measure(clips, options.rounds).items()}
        figures += [Figure(arm, rate(done), "clips/s") for arm, done in passes.items()]
        goal = 1.2 if name == "16 kHz" else None  # at 48 kHz resampling is most of it, for both
        for batches in ("random 8", "budget"):
            arm, usual = f"collator, {batches}, {name}", f"extractor, {batches}, {name}"
            figures += compare(passes, arm, usual, at_least=goal if batches == "random 8" else None)
        figures += compare(passes, f"collator, budget, {name}", f"extractor, random 8, {name}")
    return figures
