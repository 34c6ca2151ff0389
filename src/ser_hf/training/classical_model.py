"""A linear classifier, fitted by scikit-learn, of one vector per clip: openSMILE's functionals, or the hidden states of
a frozen encoder. Vectors are computed once per clip and cached."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import LinearSVC
from transformers import PreTrainedModel, TrainingArguments

from ..data.audio import read_clip
from ..data.cache import Store, settings_folder
from ..data.columns import select_present
from ..errors import SerError, one_line
from ..evaluation.metrics import classification_metrics
from ..models import (
    SerForAudioClassification,
    SerForFunctionalsClassification,
    SerFunctionalsConfig,
    SerFunctionalsFeatureExtractor,
)
from ..models.functionals import FEATURE_SETS, statistics
from .audio_model import audio_model, check_lengths, count_copies, probe_states, with_copies
from .encoder_states import StateCollator
from .saved_model import check_labels, label_maps
from .settings import ClassifierArguments, ClipArguments, VectorArguments
from .speakers import FEWEST, check_speakers, estimated_remark, speaker_remark

# The choice on validation and the second fit on train and validation are those of the baselines of the INTERSPEECH
# challenges (Schuller et al. 2019, "The INTERSPEECH 2019 Computational Paralinguistics Challenge"), and so is the grid
# from 1e-5 to 1. They scale features to 0 to 1; standardised ones have about a hundred times the variance, and C goes
# down as far.
COMPLEXITIES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Ridge regression to -1 and 1 has the strength `dim / C`: relative to the squared length of a standardised vector, so
# that C means the same for vectors of any length.
GRIDS = {"svm": COMPLEXITIES, "logistic": COMPLEXITIES, "ridge": (0.1, 0.3, 1.0, 3.0, 10.0)}
ABSENT = -1e6  # logit of a class that no fitted utterance has: far below every decision value
BUDGET = 36.0  # padded seconds of audio in a batch of an encoder, as in the audio recipes


def check_vectors(flags: VectorArguments, train: bool = True) -> None:
    """Check flags before anything is loaded. Raises SerError: openSMILE is not installed; no such features; a flag that
    does nothing with these features; a model to be trained that already is."""
    name, features = flags.model_name_or_path, flags.features
    if name and train:
        why = "a classifier is fitted anew; a trained one is scored with --do_train false"
        raise SerError(f"--model_name_or_path {name}: {why}")
    if features in FEATURE_SETS:
        if flags.layers:
            shown = " ".join(map(str, flags.layers))
            raise SerError(f"--layers {shown}: {features} has no layers, an encoder has; leave it out")
        for flag in ("pooling", "trim_db", "speed_copies", "estimate_speakers"):
            if getattr(flags, flag):
                raise SerError(f"--{flag}: for the hidden states of an encoder, not for {features}; leave it out")
        if find_spec("opensmile") is None:
            raise SerError(f"--features {features}: needs openSMILE: pip install ser-hf[classical]")
    elif "/" not in features and not Path(features).is_dir():
        raise SerError(f"--features {features}: choose {', '.join(FEATURE_SETS)}, or an encoder: Hub id or folder")


# ---- functionals


@dataclass(frozen=True)
class _Keywords(VectorArguments, ClassifierArguments):
    """The keywords of `functionals_model`."""


def functionals_model(
    label_names: list[str],  # in index order
    **keywords: Any,  # the fields of `settings.VectorArguments` and `ClassifierArguments`
) -> tuple[SerForFunctionalsClassification, SerFunctionalsFeatureExtractor, bool]:
    """A classifier that is not fitted yet, or a trained one (`model_name_or_path`), its feature extractor, and whether
    features are speaker-normalised: by `speaker_norm`, which defaults to what the trained model has.
    Raises SerError: checkpoint not found, of another kind, with other labels, or without speaker normalisation."""
    flags = _Keywords(**keywords)
    name, speaker_norm = flags.model_name_or_path, flags.speaker_norm
    if not name:
        size = FEATURE_SETS[flags.features]
        speaker = {"speaker_mean": [0.0] * size, "speaker_scale": [1.0] * size} if speaker_norm else {}
        config = {"feature_set": flags.features, "classifier": flags.classifier, **label_maps(label_names)}
        config["problem_type"] = "single_label_classification"
        model = SerForFunctionalsClassification(SerFunctionalsConfig(**config))
        return model, SerFunctionalsFeatureExtractor(flags.features, **speaker), bool(speaker_norm)
    try:
        kind = SerFunctionalsConfig.get_config_dict(name)[0].get("model_type")
        if kind != SerFunctionalsConfig.model_type:
            raise ValueError(f"a model of type {kind}, which is scored by the recipe of its encoder (wav2vec2_cls.py)")
        extractor = SerFunctionalsFeatureExtractor.from_pretrained(name)
        model = SerForFunctionalsClassification.from_pretrained(name)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise SerError(f"--model_name_or_path {name}: {one_line(error)}") from None
    check_labels(model.config, label_names, name)
    if speaker_norm and extractor.speaker_values is None:
        raise SerError(f"--speaker_norm: {name} was trained without it, and must be trained anew")
    return model, extractor, extractor.speaker_values is not None if speaker_norm is None else speaker_norm


class FunctionalsCollator:
    """Rows with `audio_hash`, `speaker` and `label` to a batch of cached functionals. `speakers` are the `statistics`
    of each speaker, if features are speaker-normalised; the extractor's own are not used then."""

    columns = ("id", "audio_hash", "speaker", "label")

    def __init__(
        self,
        extractor: SerFunctionalsFeatureExtractor,
        store: Store,
        speakers: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    ):
        self.extractor, self.store, self.speakers = extractor, store, speakers or {}

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """`input_features` `(batch, functionals)` and `labels` `(batch,)`."""
        values = [
            self.extractor.scaled(self.store[row["audio_hash"]].numpy(), self.speakers.get(row["speaker"]))
            for row in rows
        ]
        features = torch.from_numpy(np.stack(values))
        return {"input_features": features, "labels": torch.tensor([row["label"] for row in rows])}


def compute(store: Store, rows: Dataset, extractor: SerFunctionalsFeatureExtractor, title: str | None = None) -> int:
    """Compute the functionals that the cache lacks, as `Store.fill`. Raises AudioError if a clip cannot be read."""
    audio = rows.select_columns("audio")

    def functionals(row: int) -> torch.Tensor:
        return torch.from_numpy(extractor.unscaled(read_clip(audio[row]["audio"], extractor.sampling_rate)))

    return store.fill(rows["audio_hash"][:], functionals, title)


def speaker_statistics(parts: Mapping[str, Dataset], store: Store) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The mean and standard deviation of each functional over all clips of each speaker with `FEWEST` in all parts.

    Speaker normalisation (Schuller et al. 2010, "Cross-Corpus Acoustic Emotion Recognition: Variances and Strategies").
    No label is read. Users of the model need clips of their speaker too (`adapted`)."""
    values = {}
    for rows in parts.values():
        for name, speaker in zip(rows["audio_hash"][:], rows["speaker"][:], strict=True):
            values.setdefault(speaker, []).append(store[name].numpy())
    return {speaker: statistics(np.stack(clips)) for speaker, clips in values.items() if len(clips) >= FEWEST}


def functionals_of(
    extractor: SerFunctionalsFeatureExtractor,
    splits: Mapping[str, Dataset],
    training: TrainingArguments,  # the first process fills the cache
    *,
    relative: bool = False,  # whether features are speaker-normalised
) -> tuple[SerFunctionalsFeatureExtractor, FunctionalsCollator, int]:
    """The extractor to save, a collator over the functionals of all parts, and how many were computed now. With
    `relative` and in training the extractor's speaker is the average speaker of train and validation.
    Raises SerError: with `relative`, an utterance has no speaker; AudioError: an unreadable clip."""
    if relative:
        check_speakers(splits)
    settings = extractor.feature_set, extractor.sampling_rate, version("opensmile")
    store = Store(settings_folder("functionals", __file__, *settings))
    with training.main_process_first():
        title = None if training.disable_tqdm or training.process_index else f"{extractor.feature_set} functionals"
        computed = sum(compute(store, rows, extractor, title) for rows in splits.values() if len(rows))
    if not relative:
        return extractor, FunctionalsCollator(extractor, store), computed
    speakers = speaker_statistics(splits, store)
    if training.do_train:
        fitted = {name for part in ("train", "validation") for name in splits[part]["speaker"][:]}
        if not (fitted := sorted(fitted & speakers.keys())):
            raise SerError(f"--speaker_norm: no training speaker has {FEWEST} clips; leave it out")
        average = (np.mean([speakers[name][which] for name in fitted], axis=0) for which in (0, 1))
        extractor = copy.deepcopy(extractor)
        extractor.speaker_mean, extractor.speaker_scale = (each.tolist() for each in average)
    return extractor, FunctionalsCollator(extractor, store, speakers), computed


# ---- hidden states


def encoder_model(
    label_names: list[str],  # in index order
    splits: Mapping[str, Dataset],
    flags: VectorArguments,  # whose `features` are the Hub id or folder of an encoder
    training: TrainingArguments,  # device and progress bar
) -> tuple[SerForAudioClassification, Any, StateCollator]:
    """A frozen encoder under a linear classifier that is not fitted yet, its feature extractor, and a collator over the
    hidden states of all utterances, and copies of those that are fitted: each layer pooled over real frames, one layer
    after another; with `speaker_norm` relative to their speaker's mean, which may be estimated in test.
    Raises SerError: checkpoint not found or no such encoder, no such layer, a clip longer than the encoder reads; with
    `speaker_norm`, an utterance has no speaker."""
    head = {"pooling": flags.pooling or "mean", "head": "linear", "head_size": len(label_names), "layer_mix": "concat"}
    head |= {"layers": flags.layers, "speaker_norm": flags.speaker_norm}
    model, extractor = audio_model(label_names, model_name_or_path=flags.features, freeze_encoder=True, **head)
    if flags.trim_db is not None:
        if not hasattr(extractor, "trim_db"):  # the saved model would not trim
            raise SerError(f"--trim_db {flags.trim_db:g}: {type(extractor).__name__} does not trim clips; leave it out")
        extractor.trim_db = flags.trim_db
    seen = {"train": fitted(splits, flags.speed_copies)["both"], "test": splits["test"]}
    check_lengths(model.config.audio_config, seen, ClipArguments(), advice="choose another encoder")
    states = probe_states(model, extractor, seen, ClipArguments(), training, BUDGET, flags.estimate_speakers)
    return model, extractor, StateCollator(states)


# ---- the classifier


def fitted(splits: Mapping[str, Dataset], speeds: list[float] | None) -> dict[str, Dataset]:
    """The rows of `train`, and of train and validation as `both`, with copies at other speeds; `validation` without."""
    both = concatenate_datasets([splits["train"], splits["validation"]])
    rows = {"train": with_copies(splits["train"], speeds), "both": with_copies(both, speeds)}
    return rows | {"validation": splits["validation"]}


@dataclass(frozen=True)
class Linear:
    """A linear classifier of vectors that are standardised first, in float32, as the saved models compute it."""

    mean: torch.Tensor  # `(dim,)`
    scale: torch.Tensor
    weight: torch.Tensor  # `(labels, dim)`
    bias: torch.Tensor  # `(labels,)`

    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """`(rows, labels)` of `(rows, dim)`."""
        return (vectors - self.mean) / self.scale @ self.weight.T + self.bias


def fit_linear(
    vectors: torch.Tensor,  # `(rows, dim)`
    labels: torch.Tensor,  # `(rows,)`
    num_labels: int,
    complexity: float,
    flags: ClassifierArguments,
    seed: int,
) -> Linear:
    """A classifier that scikit-learn has fitted to vectors, which are standardised over these rows. Logits are its
    decision values, of the SVM one per class; for two classes plus and minus half of the only one, so that a softmax
    gives logistic regression's probabilities there too."""
    mean, scale = (torch.from_numpy(each) for each in statistics(vectors.numpy()))
    weights = None if flags.class_weights == "none" else flags.class_weights
    if flags.classifier == "ridge":
        estimator = RidgeClassifier(alpha=vectors.shape[1] / complexity, class_weight=weights, random_state=seed)
    else:
        kind = {"svm": LinearSVC, "logistic": LogisticRegression}[flags.classifier]
        estimator = kind(C=complexity, class_weight=weights, max_iter=1000, random_state=seed)
    estimator.fit(((vectors - mean) / scale).double().numpy(), labels.numpy())
    rows = torch.from_numpy(np.atleast_2d(estimator.coef_)).float()  # ridge's is one-dimensional for two classes
    offsets = torch.from_numpy(np.atleast_1d(estimator.intercept_)).float()
    if len(rows) == 1:  # two classes
        rows, offsets = (torch.cat([-half, half]) for half in (rows / 2, offsets / 2))
    weight, bias = torch.zeros(num_labels, vectors.shape[1]), torch.full((num_labels,), ABSENT)
    weight[estimator.classes_], bias[estimator.classes_] = rows, offsets
    return Linear(mean, scale, weight, bias)


def choose(
    rows: Mapping[str, Dataset],  # as from `fitted`
    collator: FunctionalsCollator | StateCollator,
    num_labels: int,
    flags: ClassifierArguments,
    seed: int,
) -> tuple[Linear, dict[str, Any], np.ndarray]:
    """Choose the complexity of `GRIDS` with the best UAR on validation, of equal ones the least, by fitting
    train; then fit train and validation together. Returns the fitted classifier, the training's part of `results.json`,
    and the logits on validation of what was fitted to train alone. Raises SerError: train has one class."""
    started = time.perf_counter()
    train, validation, both = (_vectors(collator, rows[part]) for part in ("train", "validation", "both"))
    if len(train[1].unique()) < 2:
        raise SerError("train has utterances of one class only: choose other --labels or another --fold")
    logits, uars = {}, {}
    for complexity in GRIDS[flags.classifier]:
        logits[complexity] = fit_linear(*train, num_labels, complexity, flags, seed).logits(validation[0]).numpy()
        answers = logits[complexity].argmax(axis=1)
        uars[complexity] = classification_metrics(validation[1].numpy(), answers, num_labels)["uar"]
    best, copies = max(uars, key=uars.get), count_copies(rows["both"])
    linear = fit_linear(*both, num_labels, best, flags, seed)
    record = {
        "classifier": flags.classifier,
        "complexity": best,
        "selected_by": "uar",
        "best_validation": uars[best],
        "validation_uar": {f"{complexity:g}": uar for complexity, uar in uars.items()},
        "utterances": len(both[1]) - copies,
        "copies": copies,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return linear, record, logits[best]


def _vectors(collator: FunctionalsCollator | StateCollator, rows: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors `(rows, dim)` and labels `(rows,)` of all rows."""
    batch = collator(select_present(rows, collator.columns).to_list())
    if isinstance(collator, StateCollator):  # (rows, layers, 1, dim)
        return batch["audio_states"].flatten(1).float(), batch["labels"]
    return batch["input_features"], batch["labels"]


@torch.no_grad()
def put_linear(
    linear: Linear, model: SerForFunctionalsClassification | SerForAudioClassification, complexity: float
) -> PreTrainedModel:
    """The model with a fitted classifier. An encoder's head has two linear layers: the second becomes the identity."""
    if isinstance(model, SerForFunctionalsClassification):
        model.config.complexity = complexity
        scale, layer = (model.mean, model.scale), model.ser_classifier
    else:
        scale, layer = (model.ser_scale.mean, model.ser_scale.std), model.ser_projector
        model.ser_classifier.weight.copy_(torch.eye(model.config.num_labels))
        model.ser_classifier.bias.zero_()
    for target, values in zip(scale, (linear.mean, linear.scale), strict=True):
        target.copy_(values.view_as(target))
    layer.weight.copy_(linear.weight)
    layer.bias.copy_(linear.bias)
    return model


def classifier_remarks(
    model: PreTrainedModel,
    splits: Mapping[str, Dataset],
    trained: Mapping[str, Any] | None,  # as `choose` returned it
    relative: bool,  # whether vectors are speaker-normalised
    estimated: Mapping[str, str],  # speakers of test by the id, where they are estimated
) -> list[str]:
    """Lines on the layers of an encoder, the choice of the complexity, an SVM's scores, and speaker normalisation."""
    lines = []
    if isinstance(model, SerForAudioClassification):
        layers = ", ".join(map(str, model.config.read_layers))
        frames = f"pooled over frames ({model.config.pooling})"
        lines.append(f"the encoder is frozen; layers {layers} of its hidden states, {frames}, are classified")
    if trained:
        values = GRIDS[trained["classifier"]]
        grid = f"C = {trained['complexity']:g} of {values[0]:g} to {values[-1]:g}"
        best = f"has the best UAR on validation, {trained['best_validation']:.3f}, fitted to train"
        copies = f" and {trained['copies']} copies at other speeds" if trained["copies"] else ""
        both = f"then train and validation together ({trained['utterances']} utterances{copies}) were fitted"
        lines.append(f"{grid} {best}; {both}")
        if trained["complexity"] in (values[0], values[-1]):
            lines.append("that C is at the end of the grid: a better one may lie beyond it")
    if (kind := trained["classifier"] if trained else model.config.classifier) != "logistic":
        values = f"scores are a softmax of the decision values ({kind})"
        lines.append(f"{values}: the calibration says how far they are probabilities")
    if relative and estimated:
        lines.append(estimated_remark(estimated, splits["test"]))
    elif relative:
        lines.append(speaker_remark(splits, model.config.model_type))
    return lines
