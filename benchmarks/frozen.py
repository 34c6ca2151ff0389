"""Six folds of a frozen probe: each utterance is encoded once, against once for each fold."""

import gc
import os
from statistics import mean

from .figures import Figure, Options
from .rounds import Pass, Watch
from .whisper import BASE

GOAL, FOLDS, CLIP_S = 5, 6, 3.7


def run(options: Options) -> list[Figure]:
    """Whisper base's shape on clips as long as RAVDESS's: for each fold the states, the head's training by the recipe's
    defaults and its scores, as the recipe does it; imports, corpus and report are in section `cv`."""
    import torch
    from transformers import PrinterCallback, WhisperConfig

    from ser_hf import load_corpus, split
    from ser_hf.models import SerConfig, SerForAudioClassification
    from ser_hf.models.encoders import describe_audio
    from ser_hf.recipes.wav2vec2_cls import SYSTEM
    from ser_hf.training import encoder_states
    from ser_hf.training.arguments import parse
    from ser_hf.training.audio_model import probe_states
    from ser_hf.training.encoder_states import StateCollator, head_of
    from ser_hf.training.trainer import SerTrainer

    os.environ["SER_CACHE"] = str(options.work / "states")  # empty
    corpus = load_corpus("demo")
    rows = corpus.select(range(0, len(corpus), 6 if options.quick else 1))  # all 720 clips, or every sixth
    flags = {"dataset": "demo", "config": "none", "output_dir": options.work / "frozen", "freeze_encoder": True}
    flags |= {"layer_mix": "sum", "pooling": "mean", "disable_tqdm": True, "use_cpu": True, "min_seconds": CLIP_S}
    flags |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "logging_strategy": "no"}
    flags |= {"report_to": "none"}
    settings = parse(SYSTEM, "", [f"--{name}={value}" for name, value in flags.items()])
    config, computed, fill = WhisperConfig(**BASE), [], encoder_states.fill
    encoder_states.fill = lambda *args, **kwargs: computed.append(fill(*args, **kwargs))

    def fold(number: int) -> Pass:
        torch.manual_seed(0)
        how = {"num_labels": 4, "layer_mix": "sum", "pooling": "mean", "standardise": True}
        model = SerForAudioClassification(SerConfig(audio_config=config, **how))
        model.freeze_encoder()
        parts = split(rows, "demo", fold=number)
        extractor = describe_audio(config).new_extractor(config, False)
        watch = Watch()
        states = probe_states(model, extractor, parts, settings.clips, settings.training, settings.batches.budget)
        encoding.append(watch.read(len(rows)))
        trainer = SerTrainer(
            model=head_of(model), args=settings.training, train_dataset=parts["train"],
            data_collator=StateCollator(states), budget=None,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.predict(parts["test"])
        return watch.read(len(rows))

    encoding: list[Pass] = []
    gc.freeze()  # as in the forks of `ser-hf cv`
    try:
        folds = [fold(number) for number in range(FOLDS)]
    finally:
        encoder_states.fill = fill
        gc.unfreeze()
    first = encoding[0]
    wall = FOLDS * first.wall / sum(one.wall for one in folds)
    cpu = FOLDS * first.cpu / sum(one.cpu for one in folds)
    return [
        Figure(f"{FOLDS} folds of a frozen probe / encoding {FOLDS} times", wall, "x", at_least=GOAL),
        Figure("  of CPU seconds", cpu, "x"),
        Figure("  states computed of an utterance", sum(computed) / len(rows), "", at_most=1),
        Figure("  CPU seconds of encoding an utterance", first.cpu / len(rows), "s"),
        Figure("  CPU seconds of a fold whose states are cached", mean(one.cpu for one in folds[1:]), "s"),
        Figure("  of which finding and checking them", mean(one.cpu for one in encoding[1:]), "s"),
    ]
