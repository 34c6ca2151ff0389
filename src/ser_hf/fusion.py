"""What the fusion recipe is made of: the model from two checkpoints, its raw inputs, heads over states, comparisons."""

import copy
import gc
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, set_seed

from .embeddings import device_of
from .errors import SerError
from .models import SerFusionForClassification, SerFusionProcessor
from .pieces import make_loss, make_sampling
from .preprocessing import with_soft_labels
from .scoring import from_scores, metrics_of, to_scores
from .states import MODALITIES, StateCollator, States, padding_matters, read_clip

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
        train_dataset=with_soft_labels(splits["train"], len(report.label_names))
        if run.soft_labels
        else splits["train"],
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
    trainer.accelerator.free_memory()
    del trainer
    gc.collect()  # a wrapped model that outlives its process group may hang at exit
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
