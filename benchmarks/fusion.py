"""An epoch of a fusion head with frozen encoders: on states computed once, against running the encoders every time."""

from types import SimpleNamespace

from .figures import Figure, Options
from .rounds import Pass, Watch, alternate, compare
from .shapes import SHAPES

GOAL = 50  # times faster (issue 5)
TEXT = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}


def run(options: Options) -> list[Figure]:
    """Both arms train the same head by the recipe's trainer on the same utterances of the demo corpus. Timed is an
    epoch; what is done once, starting the trainer and (for the cache) encoding, is not in it."""
    import torch
    from transformers import BertConfig, PrinterCallback, TrainerCallback, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from ser_hf import load_corpus
    from ser_hf.models import SerFusionConfig, SerFusionForClassification, SerFusionProcessor
    from ser_hf.training import fusion_model as fusion
    from ser_hf.training.flags import ClipArguments, RunArguments
    from ser_hf.training.states import StateCollator, encode
    from ser_hf.training.text_model import train_tokenizer

    rows = load_corpus("demo").shuffle(seed=0).select(range(96 if options.quick else 240))
    report = SimpleNamespace(
        label_names=["angry", "happy", "neutral", "sad"], problem_type="single_label_classification"
    )
    torch.manual_seed(0)
    text = BertConfig(**TEXT) if options.shape == "small" else BertConfig()
    tokenizer = train_tokenizer(list(rows["text"]), text, 400)
    audio = Wav2Vec2Config(layerdrop=0.0, feat_extract_norm="layer", **_without(SHAPES[options.shape]))
    labels = dict(enumerate(report.label_names))
    model = SerFusionForClassification(SerFusionConfig(audio_config=audio, text_config=text, id2label=labels))
    model.freeze_encoders()
    processor = SerFusionProcessor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)
    setup = SimpleNamespace(
        report=report, splits={"train": rows, "validation": rows.select([]), "test": rows.select([])}
    )
    flags = SimpleNamespace(training=_training(options), data=ClipArguments(), run=RunArguments())
    flags.run.batch_seconds = options.batch_seconds

    once = Watch()
    states = encode(model, processor, setup.splits, flags)
    encoding = once.read(len(rows))
    head = fusion.head_of(model)
    trainers = {
        "cached": fusion.make_trainer(head, StateCollator(states), processor, flags, setup),
        "encoders": fusion.make_trainer(model, fusion.FusionCollator(processor, flags.data), processor, flags, setup),
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


def _training(options: Options):
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(options.work / "fusion"),
        num_train_epochs=1,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=options.device == "cpu",
        bf16=options.device == "cuda",
    )
