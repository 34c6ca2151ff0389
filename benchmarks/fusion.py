"""An epoch of a fusion head with frozen encoders: on states computed once, against running the encoders every time."""

import itertools
import os
import statistics

from ser_hf.recipes.fusion_cls import SYSTEM
from ser_hf.training.arguments import parse

from .figures import Figure, Options
from .rounds import Pass, Watch, alternate, compare, rate
from .whisper import BASE, CLIP_S

FASTER, FIRST = 500, 1.1  # goals
# MiniLM-L6, but for its vocabulary, which costs nothing.
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def run(options: Options) -> list[Figure]:
    """Both arms train the same head by the recipe's trainer, over Whisper base and MiniLM of random weights, on
    utterances of the demo corpus at 4 s: from cache all of them, by running the encoders the first few, counted per
    utterance. Timed is an epoch; what is done once, starting the trainer and encoding, is not in it."""
    import torch
    from datasets import DatasetDict
    from transformers import BertConfig, PrinterCallback, TrainerCallback, WhisperConfig

    from ser_hf import load_corpus
    from ser_hf.data.splits import find_protocol
    from ser_hf.models import SerFusionConfig, SerFusionForClassification, SerFusionProcessor
    from ser_hf.models.encoders import describe_audio
    from ser_hf.training import fusion_model as fusion
    from ser_hf.training.encoder_states import StateCollator, encode, head_of
    from ser_hf.training.record import Setup
    from ser_hf.training.text_model import train_tokenizer

    rows, report = load_corpus("demo", return_report=True)
    rows = rows.shuffle(seed=0).select(range(96 if options.quick else 480))
    some = rows.select(range(32))
    torch.manual_seed(0)
    text, tokenizer = train_tokenizer(rows["text"][:], BertConfig(**MINILM), 400)
    audio, labels = WhisperConfig(**BASE), dict(enumerate(report.label_names))
    model = SerFusionForClassification(SerFusionConfig(audio_config=audio, text_config=text, id2label=labels))
    model.freeze_encoders()
    processor = SerFusionProcessor(describe_audio(audio).new_extractor(audio, False), tokenizer)
    splits = {
        name: DatasetDict(train=part, validation=part.select([]), test=part.select([]))
        for name, part in (("cached", rows), ("encoders", some))
    }
    settings = _settings(options)
    protocol = find_protocol("demo")
    setups = {
        name: Setup("fusion_cls", SYSTEM, settings.overrides, parts, report, None, protocol, fold=0)
        for name, parts in splits.items()
    }
    how = (settings.clips, settings.training, settings.batches.budget)
    states = encode(model, processor, splits["cached"], *how)
    collators = {"cached": StateCollator(states), "encoders": fusion.FusionCollator(processor, settings.clips)}
    models = {"cached": head_of(model), "encoders": model}
    trainers = {
        name: fusion.fusion_trainer(models[name], collator, processor, settings, setups[name])
        for name, collator in collators.items()
    }

    class Epoch(TrainerCallback):
        """Times the one epoch of a training."""

        def __init__(self, clips: int):
            self.clips = clips

        def on_epoch_begin(self, *args, **kwargs):
            self.watch = Watch()

        def on_epoch_end(self, *args, **kwargs):
            self.timed = self.watch.read(self.clips)

    def arm(trainer, clips: int):
        timer = Epoch(clips)
        trainer.add_callback(timer)
        trainer.remove_callback(PrinterCallback)

        def epoch() -> Pass:
            trainer.train()
            return timer.timed

        return epoch

    empty = (str(options.work / f"once{number}") for number in itertools.count())

    def once() -> Pass:
        os.environ["SER_CACHE"] = next(empty)
        watch = Watch()
        encode(model, processor, splits["encoders"], *how)
        return watch.read(len(some))

    arms = {name: arm(trainer, len(splits[name]["train"])) for name, trainer in trainers.items()} | {"once": once}
    cache = os.environ["SER_CACHE"]
    try:
        passes = alternate(arms, options.rounds, options.seconds)
    finally:
        os.environ["SER_CACHE"] = cache
    first = statistics.median(a.cpu / b.cpu for a, b in zip(passes["once"], passes["encoders"], strict=True))
    return [
        *compare(passes, "cached", "encoders", at_least=FASTER),
        Figure("  a cached epoch", 1000 / rate(passes["cached"]), "ms/clip"),
        Figure("encoding once / an epoch that encodes (CPU)", first, "x", at_most=FIRST),
    ]


def _settings(options: Options):
    cuda = options.device == "cuda"
    flags = {
        "dataset": "demo",
        "config": "none",
        "output_dir": options.work / "fusion",
        "batch_seconds": options.batch_seconds,
        "min_seconds": CLIP_S,
        "num_train_epochs": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "bf16": cuda,
    }
    return parse(SYSTEM, "", [f"--{name}={value}" for name, value in flags.items()])
