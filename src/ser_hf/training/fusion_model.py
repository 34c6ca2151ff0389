"""What the fusion recipe is made of: the model from two checkpoints, its raw inputs, heads over states, comparisons."""

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, set_seed

from ..data.mixing import with_soft_labels
from ..errors import SerError
from ..evaluation.scoring import decision_thresholds
from ..evaluation.tasks import TASKS
from ..models import SerFusionForClassification, SerFusionProcessor
from ..models.text_cleaning import clean_text
from .pieces import hears_padding, make_loss, make_sampling
from .states import MODALITIES, StateCollator, States, read_clip, trims


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

    from .text_model import check_text_length

    if not do_train:
        return _load_trained(args, report)
    if args.model_name_or_path:
        raise SerError(
            f"--model_name_or_path {args.model_name_or_path}: is scored with --do_train false; to train, give "
            "--audio_model and --text_model"
        )
    if args.freeze_encoders and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise SerError("FSDP shards what is trained, and frozen encoders are not: use it with --freeze_encoders false")
    for flag, name in (("audio_model", args.audio_model), ("text_model", args.text_model)):
        if not name:
            raise SerError(f"--{flag} is missing: name a checkpoint, plain or fine-tuned by a recipe")
        a_folder = name.count("/") > 1 or name.startswith("runs/")  # no name on the Hub
        if a_folder and not Path(name).is_dir():
            recipe = "wav2vec2_cls.py" if flag == "audio_model" else "text_cls.py"
            raise SerError(f"--{flag} {name}: no such folder; train it first, by recipes/{recipe}")
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
    names = f"fusion of {args.audio_model} and {args.text_model}"
    try:
        processor = SerFusionProcessor(
            feature_extractor=AutoFeatureExtractor.from_pretrained(args.audio_model, **remote),
            tokenizer=AutoTokenizer.from_pretrained(args.text_model, **remote),
            max_text_length=args.max_text_length,
            text_cleaning=args.text_cleaning,
        )
        if getattr(processor.feature_extractor, "mean_spectrum", None) is not None:
            raise ValueError("the audio model was trained with --speaker_norm, and fusion is not told who speaks")
        model = SerFusionForClassification.from_encoders(
            args.audio_model, args.text_model, modality_dropout=args.modality_dropout, **remote, **head, **labels
        )
        check_text_length(args.max_text_length, model.config.text_config)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"{names}: {' '.join(str(error).split())}") from None
    if args.freeze_encoders:
        model.freeze_encoders()
        if any(layers > 1 and not pools for (layers, _), pools in _states_of(model)):
            raise SerError(
                f"--use_weighted_layer_sum true with --fusion {args.fusion} and --pooling {model.config.pooling}: all "
                "frames of all layers would be kept; use mean pooling, or --freeze_encoders false"
            )
    elif hasattr(model.audio_encoder, "feature_extractor"):
        model.freeze_feature_encoder()  # the convolutions of a pretrained encoder, as in the audio recipes
    return model, processor


def _states_of(model) -> tuple:
    return (model.audio_shape, model.pools_audio), (model.text_shape, model.pools_text)


def modality_remarks(splits, cleaning: str) -> list[str]:
    """What must be said of the utterances that lack audio or text, and of test texts that occur in train too.

    Raises:
        SerError: no utterance of train, or of test, has audio, or text.
    """
    from .text_model import shared_texts

    lines = []
    for kind in MODALITIES:
        missing = {}
        for part, rows in splits.items():
            if kind == "audio":
                lacks = sum(audio is None for audio in rows["audio_hash"][:])
            else:
                lacks = sum(not clean_text(text, cleaning).strip() for text in rows["text"][:])
            if lacks and lacks == len(rows):
                raise SerError(f"no utterance of {part} has {kind}: fusion needs both, use another recipe")
            missing |= {part: lacks} if lacks else {}
        if missing:
            counts = ", ".join(f"{part} {count}" for part, count in missing.items())
            lines.append(f"{sum(missing.values())} utterances have no {kind} ({counts}); the model answers without it")
    texts = {part: rows.select([i for i, text in enumerate(rows["text"][:]) if text]) for part, rows in splits.items()}
    if shared := shared_texts(texts):
        lines.append(f"the texts of {shared} of {len(splits['test'])} test utterances also occur in train")
    return lines


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
        self.trim_db = trims(processor.feature_extractor, data)  # for the Trainer: see `states.trims`

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        rate = self.processor.feature_extractor.sampling_rate
        audio = None if self.without == "audio" else [read_clip(row, rate, self.data) for row in rows]
        text = None if self.without == "text" else [row["text"] for row in rows]
        batch = dict(self.processor(audio=audio, text=text, sampling_rate=rate, return_tensors="pt"))
        if not batch:  # no row has what is not withheld: the model answers by what it learned for that
            nothing = torch.zeros(len(rows), 1, dtype=torch.long)
            batch = {"input_ids": nothing, "text_attention_mask": nothing}
        return batch | ({"labels": torch.tensor([row["label"] for row in rows])} if "label" in rows[0] else {})


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


# ---- training


def make_trainer(model, collator, processor, flags, setup):
    """The trainer of a whole model on raw input, or of a head on cached states."""
    from .trainer import SerTrainer

    report, splits, run = setup.report, setup.splits, flags.run
    cached = isinstance(collator, StateCollator)
    if cached:  # nothing of the encoders is kept for a backward pass
        flags.training.activation_checkpointing = flags.training.gradient_checkpointing = False
    one_frame = cached and model.pools_audio and model.pools_text  # nothing is padded, so lengths do not matter
    return SerTrainer(
        model=model,
        args=flags.training,
        train_dataset=with_soft_labels(splits["train"], len(report.label_names))
        if run.soft_labels
        else splits["train"],
        eval_dataset=splits["validation"],
        processing_class=processor,
        data_collator=collator,
        compute_metrics=TASKS[report.problem_type].compute_metrics(report.label_names),
        budget=None if one_frame else run.batch_seconds,
        loss=make_loss(report, run, flags.training, splits["train"]),
        exact_evaluation=not cached and hears_padding(model.config.audio_config),
        sampling=make_sampling(run, splits["train"]),
    )


def trained_alone(kind: str, head, states: States, processor, flags, setup) -> dict[str, np.ndarray]:
    """Logits on validation and test of a head that was trained, like the fusion's, on one modality alone.

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
    logits = predicted(trainer, setup.splits)
    trainer.free()
    training.distributed_state.wait_for_everyone()
    if training.process_index == 0:  # this head was trained to be compared with, it is not kept
        shutil.rmtree(training.output_dir, ignore_errors=True)
    return logits


def withheld(trainer, collator, splits) -> dict[str, dict[str, np.ndarray]]:
    """Logits of the same model without text, and without audio: what it learned to answer when one is missing."""
    logits = {}
    for kind in MODALITIES:
        trainer.eval_collator = copy.copy(collator)
        trainer.eval_collator.without = kind
        logits[f"without_{kind}"] = predicted(trainer, splits)
    trainer.eval_collator = collator
    return logits


def predicted(trainer, splits) -> dict[str, np.ndarray]:
    """Logits on validation, where there is one, and on test."""
    parts = [part for part in ("validation", "test") if len(splits[part])]
    return {part: trainer.predict(splits[part]).predictions for part in parts}


def averaged(systems: list[dict[str, np.ndarray]], problem_type: str) -> dict[str, np.ndarray]:
    """Late fusion: the mean of several systems' probabilities (or values), as logits, part by part."""
    task = TASKS[problem_type]
    return {part: task.logits(np.mean([task.scores(one[part]) for one in systems], axis=0)) for part in systems[0]}


def on_test(systems: dict[str, dict[str, np.ndarray]], setup) -> dict[str, np.ndarray]:
    """Systems' logits on test, ready to be compared with the fusion's: of several labels, each moved so that 0.5 is the
    threshold that is best on validation, as the fusion's own thresholds are."""
    kind, names, logits = setup.report.problem_type, setup.report.label_names, {}
    for name, parts in systems.items():
        limits = decision_thresholds(setup.splits["validation"], parts.get("validation"), names, kind)
        logits[name] = parts["test"]
        if limits:
            limits = np.clip(limits, 1e-6, 1 - 1e-6)
            logits[name] = parts["test"] - np.log(limits / (1 - limits))
    return logits
