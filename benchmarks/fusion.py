"""An epoch of a fusion head with frozen encoders: on states computed once, against running the encoders every time."""

from ser_hf.recipes.fusion_cls import SYSTEM
from ser_hf.training.arguments import parse

from .figures import Figure, Options
from .rounds import Pass, Watch, alternate, compare
from .shapes import SHAPES

GOAL = 50  # times faster (issue 5)
TEXT = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}


def run(options: Options) -> list[Figure]:
    """Both arms train the same head by the recipe's trainer on the same utterances of the demo corpus. Timed is an
    epoch; what is done once, starting the trainer and (for the cache) encoding, is not in it."""
    import torch
    from datasets import DatasetDict
    from transformers import BertConfig, PrinterCallback, TrainerCallback, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from ser_hf import load_corpus
    from ser_hf.data.splits import find_protocol
    from ser_hf.models import SerFusionConfig, SerFusionForClassification, SerFusionProcessor
    from ser_hf.training import fusion_model as fusion
    from ser_hf.training.encoder_states import StateCollator, encode, head_of
    from ser_hf.training.record import Setup
    from ser_hf.training.text_model import train_tokenizer

    rows, report = load_corpus("demo", return_report=True)
    rows = rows.shuffle(seed=0).select(range(96 if options.quick else 240))
    torch.manual_seed(0)
    text = BertConfig(**TEXT) if options.shape == "small" else BertConfig()
    text, tokenizer = train_tokenizer(list(rows["text"]), text, 400)
    audio = Wav2Vec2Config(layerdrop=0.0, feat_extract_norm="layer", **_without(SHAPES[options.shape]))
    labels = dict(enumerate(report.label_names))
    model = SerFusionForClassification(SerFusionConfig(audio_config=audio, text_config=text, id2label=labels))
    model.freeze_encoders()
    processor = SerFusionProcessor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)
    splits = DatasetDict(train=rows, validation=rows.select([]), test=rows.select([]))
    settings = _settings(options)
    setup = Setup("fusion_cls", SYSTEM, settings.overrides, splits, report, None, find_protocol("demo"), fold=0)

    once = Watch()
    states = encode(model, processor, splits, settings.clips, settings.training, settings.batches.budget)
    encoding = once.read(len(rows))
    collators = {"cached": StateCollator(states), "encoders": fusion.FusionCollator(processor, settings.clips)}
    models = {"cached": head_of(model), "encoders": model}
    trainers = {
        name: fusion.fusion_trainer(models[name], collator, processor, settings, setup)
        for name, collator in collators.items()
    }

    class Epoch(TrainerCallback):
        """Times the one epoch of a training."""

        def on_epoch_begin(self, *args, **kwargs):
            self.watch = Watch()

        def on_epoch_end(self, *args, **kwargs):
            self.timed = self.watch.read(len(rows))

    def arm(trainer):
        timer = Epoch()
        trainer.add_callback(timer)
        trainer.remove_callback(PrinterCallback)

        def epoch() -> Pass:
            trainer.train()
            return timer.timed

        return epoch

    passes = alternate({name: arm(trainer) for name, trainer in trainers.items()}, options.rounds)
    seconds = sorted(one.wall for one in passes["encoders"])[len(passes["encoders"]) // 2]
    return [
        *compare(passes, "cached", "encoders", at_least=GOAL),
        Figure("encoding once / an epoch that encodes", encoding.wall / seconds, "x"),
    ]


def _without(shape: dict) -> dict:
    return {name: value for name, value in shape.items() if name != "feat_extract_norm"}


def _settings(options: Options):
    cuda = options.device == "cuda"
    flags = {
        "dataset": "demo",
        "config": "none",
        "output_dir": options.work / "fusion",
        "batch_seconds": options.batch_seconds,
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
