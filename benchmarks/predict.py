"""Files to rows: what `ser-hf predict` does, against the stock pipeline one clip at a time, and in batches of eight in
the order in which the clips come."""

import time
from collections.abc import Iterator

import numpy as np

from .corpus import iemocap_lengths, write
from .figures import Figure, Options
from .rounds import Pass, Watch, alternate, compare, rate
from .shapes import SHAPES

ONE_BY_ONE, BATCHES = 4, 2  # goals
SHORTEST, LONGEST = 0.5, 30.0


def run(options: Options) -> list[Figure]:
    """A stock model that padding does not change (layer norm, with a mask), random weights; loading it is not timed.
    The stock pipeline gets samples that soundfile decoded, which is faster than its own FFmpeg."""
    import soundfile as sf
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification, pipeline
    from transformers.utils.logging import disable_progress_bar

    from ser_hf.cli.predict import columns_of, load, predict

    clips = write(options.work / "clips", iemocap_lengths(20 if options.quick else 60).clip(SHORTEST, LONGEST))
    folder, count = str(options.work / "classifier"), len(clips.paths)
    shape = SHAPES[options.shape] | {"feat_extract_norm": "layer", "layerdrop": 0.0}
    disable_progress_bar()
    torch.manual_seed(0)
    Wav2Vec2ForSequenceClassification(Wav2Vec2Config(num_labels=4, **shape)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    ours, device = load(folder, False), 0 if options.device == "cuda" else -1
    stock = pipeline("audio-classification", model=folder, top_k=None, device=device)
    fixed = dict.fromkeys(columns_of([f"LABEL_{i}" for i in range(4)], {}, True, False))

    def decoded() -> Iterator[dict]:
        for path in clips.paths:
            samples, given = sf.read(path, dtype="float32")
            yield {"array": samples, "sampling_rate": given}

    def usual(batch_size: int) -> list[float]:
        return [max(e["score"] for e in answer) for answer in stock(decoded(), batch_size=batch_size)]

    def own() -> list[float]:
        rows = predict(ours, clips.paths, fixed, None, batch_seconds=ours.fast_batch)
        return [max(rows[path][0][f"score_LABEL_{i}"] for i in range(4)) for path in clips.paths]

    def arm(step) -> Pass:
        watch = Watch()
        step()
        return watch.read(count)

    if not np.allclose(own(), usual(1), atol=1e-4):
        raise RuntimeError("the scores are not those of the stock pipeline in the order of the clips")
    names = {"predict": own, "stock, one by one": lambda: usual(1), "stock, batches of 8": lambda: usual(8)}
    passes = alternate({name: lambda step=step: arm(step) for name, step in names.items()}, options.rounds)
    alone, share = compare(passes, "predict", "stock, one by one", at_least=ONE_BY_ONE), _in_model(ours, own)
    return [
        Figure(f"clips of {SHORTEST:g}-{LONGEST:g} s", count),
        *(Figure(name, rate(done), "clips/s") for name, done in passes.items()),
        *alone,
        Figure("  were there nothing but the model's forward", alone[0].value / share, "x"),
        *compare(passes, "predict", "stock, batches of 8", at_least=BATCHES),
        Figure("  predict's CPU seconds that are the model's", share),
    ]


def _in_model(pipe, step) -> float:
    """The part of a pass that the model's forward takes: no other way of batching can save it."""
    seconds, forward = [], pipe.model.forward

    def timed(*args, **inputs):
        started = time.process_time()
        answer = forward(*args, **inputs)
        seconds.append(time.process_time() - started)
        return answer

    pipe.model.forward, started = timed, time.process_time()
    try:
        step()
    finally:
        pipe.model.forward = forward
    return sum(seconds) / (time.process_time() - started)
