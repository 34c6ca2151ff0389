"""What the fusion recipe is made of: the model from two checkpoints, its inputs, cached states, heads, comparisons."""

import copy
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, set_seed

from .audio import decode
from .embeddings import device_of, fill, fingerprint, pad_states
from .errors import SerError
from .models import SerFusionForClassification, SerFusionProcessor
from .models.text_cleaning import clean_text
from .pieces import make_loss, make_sampling
from .scoring import from_scores, metrics_of, to_scores
from .store import Store, content_hash, settings_folder
from .trimming import crop, fit_length, trim

MODALITIES = ("audio", "text")
SAME_LOGITS = 1e-3  # what float32 sums in another order may differ by; half precision is compared by 0.1


def load(args, report, do_train: bool = True):
    """The fusion model and its processor that the flags ask for: two encoders under a new head, or a trained model.

    Args:
        args: `FusionArguments`.
        report: `CorpusReport`, for the labels.
        do_train: False loads a trained fusion model and checks that its labels are the corpus's.

    Raises:
        SerError: a checkpoint is not named, not found, or not usable as the flags say.
    """
    from transformers import AutoFeatureExtractor, AutoTokenizer

    if not do_train:
        return _load_trained(args, report)
    for flag, name in (("audio_model", args.audio_model), ("text_model", args.text_model)):
        if not name:
            raise SerError(f"--{flag} is missing: name a checkpoint, plain or fine-tuned by a recipe")
    head = {
        name: getattr(args, name)
        for name in ("fusion", "pooling", "text_pooling", "use_weighted_layer_sum", "head_size", "head_dropout")
        if getattr(args, name) is not None
    }
    labels = {
        "id2label": dict(enumerate(report.label_names)),
        "label2id": {label: index for index, label in enumerate(report.label_names)},
        "problem_type": report.problem_type,
    }
    remote = {"trust_remote_code": args.trust_remote_code}
    names = f"--audio_model {args.audio_model} --text_model {args.text_model}"
    try:
        processor = SerFusionProcessor(
            feature_extractor=AutoFeatureExtractor.from_pretrained(args.audio_model, **remote),
            tokenizer=AutoTokenizer.from_pretrained(args.text_model, **remote),
            max_text_length=args.max_text_length,
            text_cleaning=args.text_cleaning,
        )
        model = SerFusionForClassification.from_encoders(
            args.audio_model, args.text_model, modality_dropout=args.modality_dropout, **head, **labels
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"{names}: {' '.join(str(error).split())}") from None
    if args.freeze_encoders:
        model.freeze_encoders()
    return model, processor


def _load_trained(args, report):
    name = args.model_name_or_path
    if not name:
        raise SerError("--model_name_or_path is missing: with --do_train false it names the fusion model to be scored")
    try:
        processor = SerFusionProcessor.from_pretrained(name)
        model = SerFusionForClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SerError(f"--model_name_or_path {name}: {' '.join(str(error).split())}") from None
    if list(model.config.id2label.values()) != report.label_names:
        raise SerError(
            f"{name} answers {', '.join(model.config.id2label.values())}, "
            f"but the corpus's labels are {', '.join(report.label_names)}: choose another --labels"
        )
    return model, processor


# ---- inputs


def read_clip(row: dict, rate: int, data, generator: np.random.Generator | None = None) -> np.ndarray | None:
    """A row's samples, trimmed and of the length that the flags say; None where it has no audio.

    Args:
        row: With `audio`.
        rate: In Hz.
        data: `ClipArguments`.
        generator: Draws the stretch that is taken of a too long clip; its middle otherwise.
    """
    if row.get("audio") is None:
        return None
    samples = decode(row["audio"], rate)
    if data.trim_db is not None:
        first, end = trim(samples, rate, data.trim_db)
        samples = samples[first:end]
    if data.max_seconds is not None:
        samples = crop(samples, data.max_seconds, rate, "centre" if generator is None else "random", generator)
    return fit_length(samples, round(data.min_seconds * rate))


class FusionCollator:
    """Rows to what the processor makes of their audio and text; what one is, the pipeline's inputs are too.

    Args:
        processor: `SerFusionProcessor`.
        data: `ClipArguments`.
        without: A modality to withhold.
    """

    columns = ("id", "audio", "text", "label")

    def __init__(self, processor, data, without: str | None = None):
        self.processor, self.data, self.without = processor, data, without

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        rate = self.processor.feature_extractor.sampling_rate
        audio = None if self.without == "audio" else [read_clip(row, rate, self.data) for row in rows]
        text = None if self.without == "text" else [row["text"] for row in rows]
        batch = dict(self.processor(audio=audio, text=text, sampling_rate=rate, return_tensors="pt"))
        return batch | ({"labels": torch.tensor([row["label"] for row in rows])} if "label" in rows[0] else {})


class StateCollator:
    """Rows to cached states.

    Args:
        states: `States`.
        without: A modality to withhold.
    """

    columns = ("id", "audio_hash", "text", "label")

    def __init__(self, states: "States", without: str | None = None):
        self.states, self.without = states, without

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = {"labels": torch.tensor([row["label"] for row in rows])}
        for kind in MODALITIES:
            if kind != self.without:
                found = [self.states.find(kind, row) for row in rows]
                batch[f"{kind}_states"], batch[f"{kind}_mask"] = pad_states(found, self.states.shapes[kind])
        return batch


class States:
    """Where the states of a fusion model's two encoders are kept, and under which name an utterance's are.

    Args:
        model, processor: The fusion model and its processor.
        data: `ClipArguments`.
        half: Whether they are kept in half precision.
    """

    def __init__(self, model: SerFusionForClassification, processor, data, half: bool = False):
        config = model.config
        self.cleaning = processor.text_cleaning
        self.shapes = {"audio": model.audio_shape, "text": model.text_shape}
        pooling = {
            "audio": config.pooling if model.pools_audio else None,
            "text": config.text_pooling if model.pools_text else None,
        }
        settings = {
            "audio": (processor.feature_extractor.to_json_string(), data.trim_db, data.min_seconds, data.max_seconds),
            "text": (processor.tokenizer.backend_tokenizer.to_str(), processor.max_text_length, self.cleaning),
        }
        encoders = {"audio": model.audio_encoder, "text": model.text_encoder}
        self.stores = {
            kind: Store(
                settings_folder(
                    f"{kind}-states",
                    *(fingerprint(encoders[kind]), self.shapes[kind], pooling[kind], settings[kind], half),
                )
            )
            for kind in MODALITIES
        }

    def name(self, kind: str, row: dict) -> str | None:
        """Under which an utterance's states are kept; None where it has no audio, or no text."""
        if kind == "audio":
            return row["audio_hash"]
        cleaned = clean_text(row["text"], self.cleaning).strip()
        return content_hash(cleaned) if cleaned else None

    def find(self, kind: str, row: dict) -> torch.Tensor | None:
        """`(layers, frames, dim)`, or None where the modality is missing."""
        name = self.name(kind, row)
        return None if name is None else self.stores[kind][name]


def encode(model: SerFusionForClassification, processor, splits, flags) -> States:
    """Each utterance of all parts through each encoder once, unless it is cached; see `embeddings.fill`."""
    from datasets import concatenate_datasets

    training, data = flags.training, flags.data
    half = training.device.type == "cuda" and (training.bf16 or training.fp16)
    states = States(model, processor, data, half)
    columns = ("id", "audio", "text", "audio_hash", "duration")
    rows = concatenate_datasets([part.select_columns(columns) for part in splits.values() if len(part)])
    keys = rows.select_columns(["audio_hash", "text"]).to_list()
    rate = processor.feature_extractor.sampling_rate
    model = model.to(training.device).eval()

    def inputs(batch: dict) -> dict:
        return {name: value.to(device_of(model)) for name, value in batch.items()}

    def read_audio(numbers: list[int]) -> dict:
        clips = [read_clip(rows[i], rate, data) for i in numbers]
        batch = processor(audio=clips, sampling_rate=rate, return_tensors="pt")
        return inputs({"inputs": batch[model.main_input_name], "attention_mask": batch["attention_mask"]})

    def read_text(numbers: list[int]) -> dict:
        batch = processor(text=[keys[i]["text"] for i in numbers], return_tensors="pt")
        return inputs({"input_ids": batch["input_ids"], "attention_mask": batch["text_attention_mask"]})

    options = {"half": half}
    with torch.autocast(training.device.type, torch.bfloat16, enabled=half):
        for kind, read, run, lengths, budget in (
            ("audio", read_audio, model.encode_audio, rows["duration"][:], flags.run.batch_seconds),
            ("text", read_text, model.encode_text, [len(key["text"] or "") for key in keys], 16384),  # characters
        ):
            names = [states.name(kind, key) for key in keys]
            exact = kind == "audio" and padding_matters(model)
            title = None if training.disable_tqdm else f"{kind} encoder"
            fill(states.stores[kind], names, lengths, read, run, budget, exact, say=title, **options)
    return states


def padding_matters(model: SerFusionForClassification) -> bool:
    """Whether the audio encoder hears padding: group norm over time, or a network over spectrograms."""
    audio = model.config.audio_config
    return audio.model_type == "ser_spectrogram" or getattr(audio, "feat_extract_norm", None) == "group"


# ---- heads over cached states


def head_of(model: SerFusionForClassification) -> SerFusionForClassification:
    """A copy of a fusion model without its encoders, which `fuse`s states: what is trained, and saved in checkpoints,
    while the encoders are frozen."""
    encoders = model.audio_encoder, model.text_encoder
    model.audio_encoder = model.text_encoder = None
    try:
        head = copy.deepcopy(model)
    finally:
        model.audio_encoder, model.text_encoder = encoders
    head._frozen = False  # there is nothing to keep in evaluation mode
    return head


@torch.no_grad()
def put_back(head: SerFusionForClassification, model: SerFusionForClassification) -> SerFusionForClassification:
    """The whole model with a trained head."""
    left = model.load_state_dict(head.state_dict(), strict=False)
    if left.unexpected_keys or any(key.startswith("ser_") for key in left.missing_keys):
        raise ValueError(f"not the head of this model: {left}")
    return model


@torch.no_grad()
def check_same_logits(model, head, processor, states: States, rows, data, half: bool = False) -> float:
    """Raw input must give what cached states gave, or the reported figures are not those of the saved model.

    Returns:
        The largest difference over `rows`, each alone.

    Raises:
        ValueError: it is larger than rounding explains, which would be a defect.
    """
    model, head = model.eval(), head.eval()
    differences = []
    for row in rows:
        raw = FusionCollator(processor, data)([row])
        kept = StateCollator(states)([row])
        logits = [
            module(**{name: value.to(device_of(module)) for name, value in batch.items() if name != "labels"}).logits
            for module, batch in ((model, raw), (head, kept))
        ]
        differences.append(float((logits[0].cpu() - logits[1].cpu()).abs().max()))
    if differences and not max(differences) < (0.1 if half else SAME_LOGITS):
        raise ValueError(f"raw input and cached states give logits that differ by {max(differences):.2g}")
    return max(differences, default=0.0)


def averaged(logits: list[np.ndarray], problem_type: str) -> np.ndarray:
    """Late fusion: the mean of several systems' probabilities (or values), as logits."""
    return from_scores(np.mean([to_scores(one, problem_type) for one in logits], axis=0), problem_type)


# ---- training


def make_trainer(model, collator, processor, flags, setup):
    """The trainer of a whole model on raw input, or of a head on cached states."""
    from .trainer import SerTrainer

    report, splits, run = setup.report, setup.splits, flags.run
    cached = isinstance(collator, StateCollator)
    one_frame = cached and model.pools_audio and model.pools_text  # nothing is padded, so lengths do not matter
    return SerTrainer(
        model=model,
        args=flags.training,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=processor,
        data_collator=collator,
        compute_metrics=metrics_of(report.label_names, report.problem_type),
        budget=None if one_frame else run.batch_seconds,
        loss=make_loss(report, run, flags.training, splits["train"]),
        exact_evaluation=not cached and padding_matters(model),
        sampling=make_sampling(run, splits["train"]),
    )


def trained_alone(kind: str, head, states: States, processor, flags, setup) -> np.ndarray:
    """Logits on test of a head that was trained, like the fusion's, on one modality alone.

    Args:
        kind: `audio` or `text`.
        head: Untrained; the fusion's own began as it.
    """
    training = copy.copy(flags.training)
    training.output_dir = str(Path(training.output_dir) / f"{kind}_only")
    collator = StateCollator(states, without=MODALITIES[kind == "audio"])
    flags = flags._replace(training=training)
    set_seed(training.seed)
    trainer = make_trainer(copy.deepcopy(head), collator, processor, flags, setup)
    for shows in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(shows)
    trainer.train()
    logits = trainer.predict(setup.splits["test"]).predictions
    trainer.end()
    training.distributed_state.wait_for_everyone()
    if training.process_index == 0:  # this head was trained to be compared with, it is not kept
        shutil.rmtree(training.output_dir, ignore_errors=True)
    return logits


def withheld(trainer, collator, dataset) -> dict[str, np.ndarray]:
    """Logits of the same model without text, and without audio: what it learned to answer when one is missing."""
    logits = {}
    for kind in MODALITIES:
        trainer.eval_collator = copy.copy(collator)
        trainer.eval_collator.without = kind
        logits[f"without_{kind}"] = trainer.predict(dataset).predictions
    trainer.eval_collator = collator
    return logits
