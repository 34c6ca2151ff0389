"""An audio and a text encoder under a fusion head: the model, its raw inputs, heads over states, comparisons."""

import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, ProgressCallback, set_seed

from ..errors import SerError, one_line
from ..evaluation.scoring import compute_metrics, decision_thresholds
from ..evaluation.tasks import TASKS
from ..files import SAVING
from ..models import SerFusionForClassification, SerFusionProcessor
from ..models.encoders import describe_audio, load_extractor, padding_sensitive
from ..models.text_cleaning import clean_text
from .encoder_states import MODALITIES, StateCollator, States, read_clip, trims
from .losses import draw_weights, make_loss, training_rows
from .record import Setup
from .run import changed
from .saved_model import check_labels, label_maps
from .settings import ClipArguments, FusionArguments, FusionSettings, TextArguments
from .text_model import check_text_length, shared_texts
from .trainer import SerTrainer


@dataclass(frozen=True)
class _Keywords(FusionArguments, TextArguments):
    """The keywords of `fusion_model`."""


def fusion_model(
    label_names: list[str],  # in index order
    problem_type: str = "single_label_classification",  # as in transformers
    *,
    new_head: bool = True,  # False loads the trained model `model_name_or_path`, whose labels must be `label_names`
    **keywords: Any,  # the fields of `settings.FusionArguments` and `TextArguments`
) -> tuple[SerFusionForClassification, SerFusionProcessor]:
    """A fusion model and its processor: two encoders, without their own heads, under a new one; or a trained model.
    Raises SerError: a checkpoint is not named, not found, or does not fit these settings."""
    flags = _Keywords(**keywords)
    if not new_head:
        return _load_trained(flags.model_name_or_path, label_names)
    if flags.freeze_encoders and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise SerError("FSDP shards what is trained, and frozen encoders are not: use it with --freeze_encoders false")
    audio_model, text_model = flags.audio_model, flags.text_model
    for flag in ("audio_model", "text_model"):
        if not getattr(flags, flag):
            raise SerError(f"--{flag} is missing: name a checkpoint, plain or fine-tuned by a recipe")
    remote = {"trust_remote_code": flags.trust_remote_code}
    same = ("fusion", "text_pooling", "use_weighted_layer_sum", "head_size", "head_dropout", "modality_dropout")
    config = {name: getattr(flags, name) for name in same} | label_maps(label_names) | {"problem_type": problem_type}
    config |= {"pooling": flags.pooling} if flags.pooling else {}  # else the audio checkpoint's
    try:
        tokenizer = AutoTokenizer.from_pretrained(text_model, **remote)
        model = SerFusionForClassification.from_encoders(audio_model, text_model, **config, **remote)
        processor = SerFusionProcessor(
            feature_extractor=load_extractor(audio_model, model.config.audio_config, **remote),
            tokenizer=tokenizer,
            max_text_length=flags.max_text_length,
            text_cleaning=flags.text_cleaning,
            least_samples=describe_audio(model.config.audio_config).least,
        )
        if getattr(processor.feature_extractor, "mean_spectrum", None) is not None:
            raise ValueError("the audio model was trained with --speaker_norm, and fusion does not know the speakers")
        check_text_length(flags.max_text_length, model.config.text_config)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"fusion of {audio_model} and {text_model}: {one_line(error)}") from None
    if flags.freeze_encoders:
        model.freeze_encoders()
        states = (model.audio_shape, model.pools_audio), (model.text_shape, model.pools_text)
        if any(layers > 1 and not pools for (layers, _), pools in states):
            why = "all frames of all layers would be kept; use mean pooling, or --freeze_encoders false"
            by = f"--fusion {flags.fusion} and --pooling {model.config.pooling}"
            raise SerError(f"--use_weighted_layer_sum true with {by}: {why}")
    elif describe_audio(model.config.audio_config).feature_encoder is not None:
        model.freeze_feature_encoder()  # the convolutions of a pretrained encoder, as in the audio recipes
    return model, processor


def _load_trained(name: str | None, label_names: list[str]) -> tuple[SerFusionForClassification, SerFusionProcessor]:
    if not name:
        raise SerError("--model_name_or_path is missing: with --do_train false it names the fusion model to be scored")
    try:
        processor = SerFusionProcessor.from_pretrained(name)
        model = SerFusionForClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SerError(f"--model_name_or_path {name}: {one_line(error)}") from None
    check_labels(model.config, label_names, name)
    return model, processor


def modality_remarks(splits: Mapping[str, Dataset], cleaning: str) -> list[str]:
    """Lines on the utterances that lack audio or text, and on test texts that occur in train too.
    Raises SerError: no utterance of train, or of test, has audio, or text."""
    lines = []
    for kind in MODALITIES:
        missing = {}
        for part, rows in splits.items():
            audio, text = rows["audio_hash"][:], (clean_text(text, cleaning).strip() for text in rows["text"][:])
            lacking = sum(not entry for entry in (audio if kind == "audio" else text))
            if lacking and lacking == len(rows):
                raise SerError(f"no utterance of {part} has {kind}: fusion needs both, use another recipe")
            missing |= {part: lacking} if lacking else {}
        if missing:
            counts = ", ".join(f"{part} {count}" for part, count in missing.items())
            lines.append(f"{sum(missing.values())} utterances have no {kind} ({counts}); the model answers without it")
    texts = {part: rows.select([i for i, text in enumerate(rows["text"][:]) if text]) for part, rows in splits.items()}
    if shared := shared_texts(texts):
        lines.append(f"the texts of {shared} of {len(splits['test'])} test utterances also occur in train")
    return lines


# ---- inputs


class FusionCollator:
    """Rows to the processor's batch of their audio and text, as in the pipeline; `without` withholds a modality."""

    columns = ("id", "audio", "text", "label")

    def __init__(self, processor: SerFusionProcessor, clips: ClipArguments, without: str | None = None):
        trims(processor.feature_extractor, clips)  # checks
        self.processor, self.clips, self.without = processor, clips, without

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        rate = self.processor.feature_extractor.sampling_rate
        audio = None if self.without == "audio" else [read_clip(row, rate, self.clips) for row in rows]
        text = None if self.without == "text" else [row["text"] for row in rows]
        batch = dict(self.processor(audio=audio, text=text, sampling_rate=rate, return_tensors="pt"))
        if not batch:  # no row has the modality that is left
            nothing = torch.zeros(len(rows), 1, dtype=torch.long)
            batch = {"input_ids": nothing, "text_attention_mask": nothing}
        return batch | ({"labels": torch.tensor([row["label"] for row in rows])} if "label" in rows[0] else {})


# ---- training


def fusion_trainer(
    model: SerFusionForClassification,
    collator: FusionCollator | StateCollator,
    processor: SerFusionProcessor,
    settings: FusionSettings,
    setup: Setup,
) -> SerTrainer:
    """The trainer of a whole model on raw input (`FusionCollator`), or of a head on cached states."""
    report, splits, training = setup.report, setup.splits, settings.training
    cached = isinstance(collator, StateCollator)
    if cached:  # no activations of the encoders are kept for a backward pass
        training = changed(training, activation_checkpointing=False, gradient_checkpointing=False)
    one_frame = cached and model.pools_audio and model.pools_text  # nothing is padded, so lengths do not matter
    return SerTrainer(
        model=model,
        args=training,
        train_dataset=training_rows(splits["train"], settings.sampling),
        eval_dataset=splits["validation"],
        processing_class=processor,
        data_collator=collator,
        compute_metrics=compute_metrics(report.label_names, report.problem_type),
        budget=None if one_frame else settings.batches.budget,
        clips=settings.clips,
        loss=make_loss(report.problem_type, settings.loss, splits["train"], training.label_smoothing_factor),
        exact_evaluation=not cached and padding_sensitive(model.config.audio_config),
        sampling=draw_weights(splits["train"], settings.sampling),
    )


def trained_alone(
    kind: str,
    head: SerFusionForClassification,
    states: States,
    processor: SerFusionProcessor,
    settings: FusionSettings,
    setup: Setup,
) -> dict[str, np.ndarray]:
    """Logits on validation and test of `head`, the fusion's before training, trained on one modality (`kind`) alone."""
    training = changed(settings.training, output_dir=str(Path(settings.training.output_dir) / f"{SAVING}{kind}_only"))
    collator = StateCollator(states, without=MODALITIES[kind == "audio"])
    set_seed(training.seed)
    trainer = fusion_trainer(copy.deepcopy(head), collator, processor, replace(settings, training=training), setup)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    logits = predicted(trainer, setup.splits)
    trainer.free()
    training.distributed_state.wait_for_everyone()
    if training.process_index == 0:  # this head is for comparison alone
        shutil.rmtree(training.output_dir, ignore_errors=True)
    return logits


def withheld(
    trainer: SerTrainer, collator: FusionCollator, splits: Mapping[str, Dataset]
) -> dict[str, dict[str, np.ndarray]]:
    """Logits of the same model without audio, and without text."""
    collators = {kind: FusionCollator(collator.processor, collator.clips, without=kind) for kind in MODALITIES}
    return {f"without_{kind}": predicted(trainer, splits, without) for kind, without in collators.items()}


def predicted(
    trainer: SerTrainer, splits: Mapping[str, Dataset], collator: FusionCollator | None = None
) -> dict[str, np.ndarray]:
    """Logits on validation, where there is one, and on test; `collator` instead of the trainer's own."""
    parts = [part for part in ("validation", "test") if len(splits[part])]
    scorer = copy.copy(trainer)
    scorer.eval_collator = collator or trainer.eval_collator
    return {part: scorer.predict(splits[part]).predictions for part in parts}


def averaged(systems: list[dict[str, np.ndarray]], problem_type: str) -> dict[str, np.ndarray]:
    """Late fusion: the mean of several systems' probabilities (or values), as logits, part by part."""
    task = TASKS[problem_type]
    return {part: task.logits(np.mean([task.scores(one[part]) for one in systems], axis=0)) for part in systems[0]}


def on_test(systems: dict[str, dict[str, np.ndarray]], setup: Setup) -> dict[str, np.ndarray]:
    """Systems' logits on test, to be compared with the fusion's. With several labels they are shifted: 0.5 becomes the
    decision threshold, tuned on validation like the fusion's own."""
    kind, names, logits = setup.report.problem_type, setup.report.label_names, {}
    for name, parts in systems.items():
        limits = decision_thresholds(setup.splits["validation"], parts.get("validation"), names, kind)
        shift = TASKS[kind].logits(np.clip(limits, 1e-6, 1 - 1e-6)) if limits else 0.0
        logits[name] = parts["test"] - shift
    return logits
