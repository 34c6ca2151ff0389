"""A linear classifier of openSMILE's functionals: computed once per clip, cached, fitted by scikit-learn."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from tqdm.auto import tqdm
from transformers import TrainingArguments

from ..data.audio import read_clip
from ..data.cache import Store, settings_folder
from ..errors import SerError
from ..evaluation.metrics import classification_metrics
from ..models import SerForFunctionalsClassification, SerFunctionalsConfig, SerFunctionalsFeatureExtractor
from ..models.configuration_functionals import FEATURE_SETS
from ..models.feature_extraction_functionals import statistics
from .hub import check_labels, label_maps
from .settings import ClassifierArguments, FunctionalsArguments
from .speakers import check_speakers

# The grid, the choice on validation and the second fit on train and validation are those of the baselines of the
# INTERSPEECH challenges (Schuller et al. 2019, "The INTERSPEECH 2019 Computational Paralinguistics Challenge").
COMPLEXITIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ABSENT = -1e6  # logit of a class that no fitted utterance has: far below every decision value
WRITE_EVERY = 256  # clips per file of the cache


def check_opensmile() -> None:
    """Raises SerError if the package opensmile is not installed."""
    if find_spec("opensmile") is None:
        raise SerError("this recipe needs openSMILE: pip install ser-hf[classical]")


@dataclass(frozen=True)
class _Keywords(FunctionalsArguments, ClassifierArguments):
    """The keywords of `classical_model`."""


def classical_model(
    label_names: list[str],  # in index order
    *,
    train: bool = True,  # whether the classifier will be fitted
    **keywords: Any,  # the fields of `settings.FunctionalsArguments` and `ClassifierArguments`
) -> tuple[SerForFunctionalsClassification, SerFunctionalsFeatureExtractor, bool]:
    """A classifier that is not fitted yet, or a trained one (`model_name_or_path`), its feature extractor, and whether
    features are speaker-normalised: by `speaker_norm`, which defaults to what the trained model has.
    Raises SerError: checkpoint not found, with other labels, without speaker normalisation, or to be trained."""
    flags = _Keywords(**keywords)
    name, speaker_norm = flags.model_name_or_path, flags.speaker_norm
    if not name:
        size = FEATURE_SETS[flags.features]
        speaker = {"speaker_mean": [0.0] * size, "speaker_scale": [1.0] * size} if speaker_norm else {}
        config = {"feature_set": flags.features, "classifier": flags.classifier, **label_maps(label_names)}
        config["problem_type"] = "single_label_classification"
        model = SerForFunctionalsClassification(SerFunctionalsConfig(**config))
        return model, SerFunctionalsFeatureExtractor(flags.features, **speaker), bool(speaker_norm)
    if train:
        why = "a classifier is fitted anew; a trained one is scored with --do_train false"
        raise SerError(f"--model_name_or_path {name}: {why}")
    try:
        model = SerForFunctionalsClassification.from_pretrained(name)
        extractor = SerFunctionalsFeatureExtractor.from_pretrained(name)
    except (OSError, ValueError, TypeError) as error:
        raise SerError(f"--model_name_or_path {name}: {' '.join(str(error).split())}") from None
    check_labels(model.config, label_names, name)
    if speaker_norm and extractor.speaker_values is None:
        raise SerError(f"--speaker_norm: {name} was trained without it, and must be trained anew")
    return model, extractor, extractor.speaker_values is not None if speaker_norm is None else speaker_norm


# ---- functionals


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
    """Compute the functionals that the cache lacks, of each distinct clip once; returns their number. `title` is of the
    progress bar, None shows none. Raises AudioError if a clip cannot be read."""
    names = rows["audio_hash"][:]
    missing, audio = store.missing(names), rows.select_columns("audio")
    with tqdm(total=len(missing), desc=title, unit=" clips", disable=title is None, leave=False) as bar:
        for first in range(0, len(missing), WRITE_EVERY):
            block = {}
            for row in missing[first : first + WRITE_EVERY]:
                samples = read_clip(audio[row]["audio"], extractor.sampling_rate)
                block[names[row]] = torch.from_numpy(extractor.unscaled(samples))
                bar.update()
            store.add(block)
    return len(missing)


def speaker_statistics(parts: Mapping[str, Dataset], store: Store) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The mean and standard deviation of each functional over all clips of each speaker in all parts.

    Speaker normalisation (Schuller et al. 2010, "Cross-Corpus Acoustic Emotion Recognition: Variances and Strategies").
    No label is read. Users of the model need clips of their speaker too (`adapted`)."""
    values = {}
    for rows in parts.values():
        for name, speaker in zip(rows["audio_hash"], rows["speaker"], strict=True):
            values.setdefault(speaker, []).append(store[name].numpy())
    return {speaker: statistics(np.stack(clips)) for speaker, clips in values.items()}


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
    # The package's version stands for the code that computes them.
    store = Store(settings_folder("functionals", extractor.feature_set, extractor.sampling_rate, version("opensmile")))
    with training.main_process_first():
        title = None if training.disable_tqdm or training.process_index else f"{extractor.feature_set} functionals"
        computed = sum(compute(store, rows, extractor, title) for rows in splits.values() if len(rows))
    if not relative:
        return extractor, FunctionalsCollator(extractor, store), computed
    speakers = speaker_statistics(splits, store)
    if training.do_train:
        fitted = sorted({name for part in ("train", "validation") for name in splits[part]["speaker"]})
        average = (np.mean([speakers[name][which] for name in fitted], axis=0) for which in (0, 1))
        extractor = copy.deepcopy(extractor)
        extractor.speaker_mean, extractor.speaker_scale = (each.tolist() for each in average)
    return extractor, FunctionalsCollator(extractor, store, speakers), computed


# ---- the classifier


def fitted(
    config: SerFunctionalsConfig, features: torch.Tensor, labels: torch.Tensor, class_weights: str, seed: int
) -> SerForFunctionalsClassification:
    """A model whose linear layer scikit-learn has fitted to `features` `(rows, functionals)`, standardised over these
    rows, and `labels` `(rows,)`. Logits are the decision values: of the SVM one per class; for two classes plus and
    minus half of the only one, so that a softmax gives logistic regression's probabilities there too."""
    model = SerForFunctionalsClassification(config).eval()
    model.mean[:], model.scale[:] = (torch.from_numpy(each) for each in statistics(features.numpy()))
    inputs = model.standardised(features).double().numpy()  # what the saved model computes, in float32
    kind = {"svm": LinearSVC, "logistic": LogisticRegression}[config.classifier]
    weight = None if class_weights == "none" else class_weights
    estimator = kind(C=config.complexity, class_weight=weight, max_iter=1000, random_state=seed)
    estimator.fit(inputs, labels.numpy())
    weights, bias = torch.from_numpy(estimator.coef_), torch.from_numpy(estimator.intercept_)
    if len(weights) == 1:  # two classes
        weights, bias = (torch.cat([-half, half]) for half in (weights / 2, bias / 2))
    with torch.no_grad():
        model.ser_classifier.weight.zero_()
        model.ser_classifier.bias.fill_(ABSENT)
        model.ser_classifier.weight[estimator.classes_] = weights.float()
        model.ser_classifier.bias[estimator.classes_] = bias.float()
    return model


@torch.no_grad()
def fit(
    untrained: SerForFunctionalsClassification,
    splits: Mapping[str, Dataset],
    collator: FunctionalsCollator,
    class_weights: str,  # none or balanced
    seed: int,
) -> tuple[SerForFunctionalsClassification, dict[str, Any], np.ndarray]:
    """Choose the complexity of `COMPLEXITIES` with the best UAR on validation, of equal ones the least, by fitting
    train; then fit train and validation together. Returns the fitted model, the training's part of `results.json`, and
    the logits on validation of the model that was fitted to train alone. Raises SerError: train has one class."""
    started = time.perf_counter()
    train, validation = (
        collator(list(splits[part].select_columns([*collator.columns]))) for part in ("train", "validation")
    )
    if len(train["labels"].unique()) < 2:
        raise SerError("train has utterances of one class only: choose other --labels or another --fold")
    names, truth, logits, uars = untrained.config.num_labels, validation["labels"].numpy(), {}, {}
    for complexity in COMPLEXITIES:
        model = fitted(_with(untrained.config, complexity), *train.values(), class_weights, seed)
        logits[complexity] = model(validation["input_features"]).logits.numpy()
        uars[complexity] = classification_metrics(truth, logits[complexity].argmax(axis=1), names)["uar"]
    best = max(uars, key=uars.get)
    both = [torch.cat([train[name], validation[name]]) for name in train]
    record = {
        "complexity": best,
        "selected_by": "uar",
        "best_validation": uars[best],
        "validation_uar": {f"{complexity:g}": uar for complexity, uar in uars.items()},
        "utterances": len(both[1]),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return fitted(_with(untrained.config, best), *both, class_weights, seed), record, logits[best]


def _with(config: SerFunctionalsConfig, complexity: float) -> SerFunctionalsConfig:
    other = copy.deepcopy(config)
    other.complexity = complexity
    return other


def classifier_remarks(config: SerFunctionalsConfig, trained: Mapping[str, Any] | None) -> list[str]:
    """Lines on the choice of the complexity, where the classifier was fitted now, and on an SVM's scores."""
    lines = []
    if trained:
        grid = f"C = {config.complexity:g} of {COMPLEXITIES[0]:g} to {COMPLEXITIES[-1]:g}"
        chosen = f"has the best UAR on validation, {trained['best_validation']:.3f}, fitted to train"
        both = f"then train and validation together ({trained['utterances']} utterances) were fitted"
        lines.append(f"{grid} {chosen}; {both}")
    if config.classifier == "svm":
        lines.append("scores are a softmax of the SVM's decision values: they rank labels, and are no probabilities")
    return lines
