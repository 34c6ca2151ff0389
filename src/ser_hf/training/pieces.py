"""What recipes build from their flags: model, loss, collators, sampling, windows."""

import json
from pathlib import Path

from ..errors import SerError


def audio_model(args, report, do_train: bool = True):
    """The audio model and the feature extractor that the flags ask for.

    A new head is made for training; for `--do_train false` the checkpoint must have one.

    Args:
        args: `AudioArguments`.
        report: `CorpusReport`, for the labels.
        do_train: False loads a fine-tuned model and checks that its labels are the corpus's.

    Raises:
        SerError: checkpoint not found or not usable as the flags say.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, Wav2Vec2FeatureExtractor

    from ..models import SerConfig, SerForAudioClassification
    from ..models.encoders import padding_sensitive
    from .hub import load_finetuned
    from .lora import with_lora

    name = args.model_name_or_path
    head = {
        "pooling": args.pooling,
        "head": args.head,
        "head_size": args.head_size,
        "use_weighted_layer_sum": args.use_weighted_layer_sum,
        "id2label": dict(enumerate(report.label_names)),
        "label2id": {label: index for index, label in enumerate(report.label_names)},
        "problem_type": report.problem_type,
    }
    overrides = json.loads(args.config_overrides or "{}")
    masks = ("mask_time_prob", "mask_time_length", "mask_feature_prob", "mask_feature_length")
    masking = {mask: value for mask in masks if (value := getattr(args, mask)) is not None}
    overrides |= {**masking, "apply_spec_augment": True} if masking else {}
    try:
        if args.model_type:
            audio = AutoConfig.for_model(args.model_type, **overrides)
            extractor = Wav2Vec2FeatureExtractor(return_attention_mask=not padding_sensitive(audio))
            model = SerForAudioClassification(SerConfig(audio_config=audio, **head))
        else:
            extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=args.trust_remote_code)
            if do_train:
                model = SerForAudioClassification.from_encoder(name, overrides, args.trust_remote_code, **head)
            else:
                model = load_finetuned(name, args.trust_remote_code)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SerError(f"model {args.model_type or name!r}: {' '.join(str(error).split())}") from None
    if not do_train and list(model.config.id2label.values()) != report.label_names:
        raise SerError(
            f"{name} answers {', '.join(model.config.id2label.values())}, "
            f"but the corpus's labels are {', '.join(report.label_names)}: choose another --labels"
        )
    pretrained = not args.model_type
    if pretrained if args.freeze_feature_encoder is None else args.freeze_feature_encoder:
        model.freeze_feature_encoder()
    return with_lora(model, args) if do_train else model, extractor


def make_loss(report, run, training, train):
    """The loss that the flags ask for; `--class_weights balanced` takes its weights from the training labels.

    Raises:
        SerError: `--loss` does not fit the labels.
    """
    from .losses import CLASSES, LABELS, Loss, class_weights, positive_weights

    kind, weights = report.problem_type, None
    if run.class_weights == "balanced" and kind == CLASSES:
        weights = class_weights(train["label"], len(report.label_names))
    elif run.class_weights == "balanced" and kind == LABELS:
        weights = positive_weights(train["label"])
    try:
        return Loss(kind, run.loss, weights, training.label_smoothing_factor, run.focal_gamma, run.ccc_weight)
    except ValueError as error:
        raise SerError(f"--{error}") from None


def make_collators(extractor, flags, report) -> dict:
    """`data_collator` for training, with augmentation, and `eval_collator`, without."""
    from ..data.collators import SpeechCollator

    data = flags.data
    same = {"trim_db": data.trim_db, "min_seconds": data.min_seconds, "max_seconds": data.max_seconds}
    training = SpeechCollator(
        extractor,
        skip_unreadable=True,
        augmentation=flags.augmentation,
        seed=flags.training.seed,
        num_labels=len(report.label_names),
        **same,
    )
    return {"data_collator": training, "eval_collator": SpeechCollator(extractor, **same)}


def make_sampling(run, train):
    """Weights with which training utterances are drawn, or None for each exactly once an epoch.

    Raises:
        SerError: `--sampling` goes by something the corpus does not have.
    """
    from datasets import ClassLabel

    from ..data.batching import sampling_weights

    if run.sampling == "none":
        return None
    if run.sampling == "class" and not isinstance(train.features["label"], ClassLabel):
        raise SerError("--sampling class: these labels are not classes; choose speaker or none")
    if run.sampling == "speaker" and None in train["speaker"]:
        raise SerError("--sampling speaker: not every training utterance has a speaker; choose class or none")
    return sampling_weights(train["label" if run.sampling == "class" else "speaker"])


def make_windows(splits, data):
    """The parts as windows, or None if the flags ask for none; made after splitting, so that none is in two parts."""
    from ..data.windows import to_windows

    if data.window_seconds is None:
        return None
    return {
        part: to_windows(rows, data.window_seconds, data.window_hop, data.window_last) if len(rows) else rows
        for part, rows in splits.items()
    }


def draw_augmentation(run, augmentation, training, splits, extractor) -> None:
    """`figures/augmentation.png`: the first training clip, and what each transform makes of it."""
    from ..data.audio import decode
    from ..data.augmentation import draw_examples
    from ..files import write

    if run.draw_augmentation and training.process_index == 0:
        samples = decode(splits["train"][0]["audio"], extractor.sampling_rate)
        image = draw_examples(samples, extractor.sampling_rate, augmentation, training.seed)
        write(Path(training.output_dir) / "figures" / "augmentation.png", image)
