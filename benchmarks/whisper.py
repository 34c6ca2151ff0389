"""Whisper on clips against its stock class on 30 s, and epochs from cached states against those that encode."""

import copy

from .figures import Figure, Options
from .rounds import Pass, Watch, alternate, compare
from .shapes import kept

CLIP_S, BATCH = 4.0, 8
FASTER, LESS_MEMORY, CACHED = 5, 0.25, 200  # goals
# Whisper base; its decoder is not read.
BASE = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
BASE |= {"decoder_layers": 1, "decoder_attention_heads": 8, "decoder_ffn_dim": 8}


def run(options: Options) -> list[Figure]:
    """Random weights, which cost as much as trained ones. Training steps from samples to the optimizer's step, on clips
    of 4 s; an epoch of a frozen probe as in `benchmarks.fusion`, and one of the two layers above four frozen ones."""
    return [*_context(options), *_frozen(options), *_frozen(options, layers=4)]


def _context(options: Options) -> list[Figure]:
    import numpy as np
    import torch
    from transformers import WhisperConfig, WhisperForAudioClassification

    from ser_hf.models import SerConfig, SerForAudioClassification
    from ser_hf.models.encoders import describe_audio, extract

    generator = np.random.default_rng(0)
    clips = [generator.normal(0, 0.1, round(CLIP_S * 16000)).astype(np.float32) for _ in range(BATCH)]
    labels, config = torch.arange(BATCH) % 4, WhisperConfig(num_labels=4, **BASE)
    torch.manual_seed(0)
    models = {
        "clip-length context": SerForAudioClassification(SerConfig(audio_config=config, num_labels=4)),
        "stock class, 30 s": WhisperForAudioClassification(config),
    }
    extractors = {name: describe_audio(config).new_extractor(config, name.startswith("stock")) for name in models}

    def loss_of(name: str) -> torch.Tensor:
        features = extract(extractors[name], clips)["input_features"]
        return torch.nn.functional.cross_entropy(models[name](input_features=features).logits, labels)

    def arm(name: str):
        optimizer = torch.optim.AdamW([weight for weight in models[name].parameters() if weight.requires_grad], lr=1e-5)

        def step() -> Pass:
            watch = Watch()
            loss_of(name).backward()
            optimizer.step()
            optimizer.zero_grad()
            return watch.read(BATCH)

        return step

    ours, stock = models
    passes = alternate({name: arm(name) for name in models}, options.rounds)
    bytes_of = {name: kept(model, lambda name=name: loss_of(name)) for name, model in models.items()}
    ratio = bytes_of[ours] / bytes_of[stock]
    memory = Figure("memory kept for the backward pass, ratio", ratio, "x", at_most=LESS_MEMORY)
    return [*compare(passes, ours, stock, at_least=FASTER), memory]


def _frozen(options: Options, layers: int | None = None) -> list[Figure]:
    import torch
    from transformers import PrinterCallback, TrainerCallback, WhisperConfig

    from ser_hf import load_corpus
    from ser_hf.models import SerConfig, SerForAudioClassification
    from ser_hf.models.encoders import describe_audio
    from ser_hf.recipes.wav2vec2_cls import SYSTEM
    from ser_hf.training.arguments import parse
    from ser_hf.training.audio_model import probe_states, speech_collators
    from ser_hf.training.encoder_states import StateCollator, head_of
    from ser_hf.training.trainer import SerTrainer

    rows = load_corpus("demo").shuffle(seed=0).select(range(96 if options.quick else 240))
    flags = {"dataset": "demo", "config": "none", "output_dir": options.work / "probe", "freeze_encoder": True}
    flags |= {"num_train_epochs": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    flags |= {"logging_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    settings = parse(SYSTEM, "", [f"--{name}={value}" for name, value in flags.items()])
    config = WhisperConfig(**BASE)
    torch.manual_seed(0)
    kind = {} if layers else {"layer_mix": "sum", "standardise": True}
    model = SerForAudioClassification(SerConfig(audio_config=config, num_labels=4, **kind))
    model.freeze_layers(layers) if layers else model.freeze_encoder()
    extractor = describe_audio(config).new_extractor(config, False)
    parts = {"train": rows, "test": rows.select(range(1))}
    states = probe_states(model, extractor, parts, settings.clips, settings.training, options.batch_seconds)
    audio = speech_collators(model, extractor, settings.clips, settings.augmentation, seed=0)["data_collator"]
    head, budget = (copy.deepcopy(model), options.batch_seconds) if layers else (head_of(model), None)
    cached, encoding = (f"states of layer {layers} cached", "layers run") if layers else ("cached", "encoding")
    arms = {cached: (head, StateCollator(states), budget), encoding: (model, audio, options.batch_seconds)}

    class Epoch(TrainerCallback):
        """Times the one epoch of a training."""

        def on_epoch_begin(self, *args, **kwargs):
            self.watch = Watch()

        def on_epoch_end(self, *args, **kwargs):
            self.timed = self.watch.read(len(rows))

    def arm(learner, collator, budget):
        timer, training = Epoch(), settings.training
        trainer = SerTrainer(
            model=learner, args=training, train_dataset=rows, data_collator=collator, budget=budget, callbacks=[timer]
        )
        trainer.remove_callback(PrinterCallback)

        def epoch() -> Pass:
            trainer.train()
            return timer.timed

        return epoch

    passes = alternate({name: arm(*parts) for name, parts in arms.items()}, options.rounds)
    return compare(passes, cached, encoding, at_least=None if layers else CACHED)
