"""A network over spectrograms, and its features: computed once per clip, cached, augmented in training."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from transformers import AutoConfig, TrainingArguments

from ..data.audio import float_samples
from ..data.augmentation import Augmentation, augment_spectrogram
from ..data.cache import Store, clip_name, settings_folder
from ..data.collators import SpeechCollator
from ..data.columns import select_present
from ..errors import SerError, one_line
from ..models import SerForSpectrogramClassification, SerSpectrogramConfig, SerSpectrogramFeatureExtractor
from .hub import reason
from .saved_model import check_labels, label_maps
from .settings import ClipArguments, FeatureArguments, NetworkArguments, WindowArguments
from .speakers import check_speakers, check_whole_clips, means_by

logger = logging.getLogger("ser_hf")

# torchvision's IMAGENET1K_V1 weights as timm publishes them: as safetensors, under torchvision's names of the weights
# (torchvision's own files are pickles). There is no such copy of AlexNet.
REPOSITORIES = {
    "resnet50": "timm/resnet50.tv_in1k",
    "resnext50": "timm/resnext50_32x4d.tv_in1k",
    "densenet201": "timm/densenet201.tv_in1k",
}
CLASSIFIERS = ("fc.", "classifier.")


@dataclass(frozen=True)
class _Keywords(NetworkArguments, FeatureArguments):
    """The keywords of `spectrogram_model`."""


def spectrogram_model(
    label_names: list[str],  # in index order
    problem_type: str = "single_label_classification",  # as in transformers
    *,
    trim_db: float | None = None,  # as in `settings.ClipArguments`
    train: bool = True,  # whether the model will be trained
    **keywords: Any,  # the fields of `settings.NetworkArguments` and `FeatureArguments`
) -> tuple[SerForSpectrogramClassification, SerSpectrogramFeatureExtractor]:
    """A network and its feature extractor, or those of a trained model (`model_name_or_path`). With `speaker_norm` the
    extractor's `mean_spectrum` is zeros until `feature_collators` has computed it.
    Raises SerError: checkpoint not found or with other labels; settings that do not fit; no ImageNet weights."""
    flags = _Keywords(**keywords)
    name, arch, speaker_norm = flags.model_name_or_path, flags.arch, flags.speaker_norm
    try:
        if name:
            kind = AutoConfig.from_pretrained(name).model_type
            if kind != SerSpectrogramConfig.model_type:
                raise ValueError(f"a model of type {kind}, and no network over spectrograms")
            model = SerForSpectrogramClassification.from_pretrained(name)
            extractor = SerSpectrogramFeatureExtractor.from_pretrained(name)
            if speaker_norm and extractor.mean_spectrum is None:
                raise SerError(f"--speaker_norm: {name} was trained without it, and must be trained anew")
            if trim_db not in (None, extractor.trim_db):
                raise SerError(f"--trim_db {trim_db:g}: {name} was trained with {extractor.trim_db}; leave it out")
            if speaker_norm is False and extractor.mean_spectrum is not None and train:
                raise SerError(f"--speaker_norm false: {name} was trained with it; false is for --do_train false")
        else:
            kind = flags.features or ("mfcc" if arch.startswith("cnn1d") else "mel")
            rows = flags.n_mels if kind == "mel" else flags.n_mfcc
            same = ("sampling_rate", "n_mels", "n_mfcc", "n_fft", "win_length", "hop_length", "normalize")
            options = {field: getattr(flags, field) for field in same} | {"kind": kind, "trim_db": trim_db}
            extractor = SerSpectrogramFeatureExtractor(mean_spectrum=[0.0] * rows if speaker_norm else None, **options)
            config = {field: getattr(flags, field) for field in ("arch", "reduce", "pooling", "dropout")}
            config |= {"rows": rows, "problem_type": problem_type, **label_maps(label_names)}
            model = SerForSpectrogramClassification(SerSpectrogramConfig(**config))
    except (OSError, ValueError, TypeError) as error:
        raise SerError(f"model {name or arch!r}: {one_line(error)}") from None
    check_labels(model.config, label_names, name or arch)
    if flags.imagenet and not name:
        load_imagenet(model)
    return model.to(memory_format=torch.channels_last), extractor  # the same numbers, a third faster on a CPU


def by_speaker(
    extractor: SerSpectrogramFeatureExtractor, speaker_norm: bool | None, clips: ClipArguments, windows: WindowArguments
) -> bool:
    """Whether features are speaker-normalised: by `--speaker_norm`, which defaults to the checkpoint's. Raises SerError
    as `check_whole_clips`."""
    relative = extractor.mean_spectrum is not None if speaker_norm is None else speaker_norm
    check_whole_clips(relative, clips, windowed=windows.window_seconds is not None)
    return relative


def load_imagenet(model: SerForSpectrogramClassification, file: str | None = None) -> None:
    """Load ImageNet weights into a model's network, from a safetensors `file` or the Hub, and set `config.weights`.

    The first convolution reads one channel: its weights of red, green and blue are summed, so that its output for a
    spectrogram is that for a grey image of it. The classifier of the thousand classes is not loaded.
    Raises SerError: there are no such weights, they cannot be fetched, or they do not fit.
    """
    arch = model.config.arch
    file = _fetched(arch) if file is None else file
    shapes = {name: weight.shape for name, weight in model.encoder.backbone.state_dict().items()}
    state = {name: weight for name, weight in load_file(file).items() if not name.startswith(CLASSIFIERS)}
    for name, weight in state.items():
        if weight.ndim == 4 and weight.shape[1] == 3 and name in shapes and shapes[name][1] == 1:
            state[name] = weight.sum(dim=1, keepdim=True)
    # Old files lack the counters of batch norm, which only matter where its momentum is None.
    missing = [name for name in shapes if name not in state and not name.endswith("num_batches_tracked")]
    wrong = [name for name, weight in state.items() if shapes.get(name) != weight.shape]
    if missing or wrong:
        counts = f"{len(missing)} weights are missing, {len(wrong)} do not fit"
        raise SerError(f"--imagenet: {file} is not {arch}: {counts} ({', '.join((missing + wrong)[:4])})")
    with torch.no_grad():
        model.encoder.backbone.load_state_dict(state, strict=False)
    model.config.weights = "imagenet"


def _fetched(arch: str) -> str:
    if arch not in REPOSITORIES:
        have = ", ".join(REPOSITORIES)
        raise SerError(f"--imagenet: no ImageNet weights as safetensors for {arch}, only for {have}; leave it out")
    try:
        return hf_hub_download(REPOSITORIES[arch], "model.safetensors")
    except Exception as error:  # offline, no such repository, no permission: the same to the user
        why = f"{REPOSITORIES[arch]} cannot be fetched ({reason(error)})"
        raise SerError(f"--imagenet: {why}; leave it out to begin with random weights") from None


class FeatureCollator(SpeechCollator):
    """Rows to a padded batch of features. Clips are trimmed by the extractor's `trim_db`, then augmented, cropped and
    zero-padded, in the order of every recipe (`audio.read_clip`).

    `store` is the cache of features before scaling (`compute`); None computes them from each clip's audio, whose
    waveform is augmented then. SpecAugment and mixup apply to both. `means` are mean spectra `(rows,)` by speaker
    (`speaker_means`), if features are speaker-normalised. The other arguments are `SpeechCollator`'s.
    """

    columns = (*SpeechCollator.columns, "speaker")

    def __init__(
        self,
        extractor: SerSpectrogramFeatureExtractor,
        store: Store | None,
        means: dict[str, torch.Tensor] | None = None,
        **kwargs: Any,
    ):
        super().__init__(extractor, trim_db=extractor.trim_db, keep_resampled=store is None, **kwargs)
        self.extractor, self.store, self.means = extractor, store, means or {}
        self._whole = copy.copy(extractor)
        self._whole.trim_db = None

    def from_audio(self, row: dict, generator: np.random.Generator) -> torch.Tensor:
        """`(frames, rows)` float32 of a row, not scaled and without SpecAugment."""
        return self._whole.unscaled(float_samples(self.samples(row, generator))).float()

    def unscaled(self, row: dict, generator: np.random.Generator) -> torch.Tensor:
        """The same, from the cache where the row has an entry."""
        stored = self.store is not None and row.get("audio_hash")
        return self.store[clip_name(row)] if stored else self.from_audio(row, generator)

    def _clip(self, row: dict) -> torch.Tensor:
        generator = self._generator(row["id"])
        mean = self.means[row["speaker"]] if self.means else None
        features = self.extractor.scaled(self.unscaled(row, generator), mean)
        if self.augmentation is None or not self.augmentation.spec_p:
            return features
        # Masked values become the mean. MFCC rows differ in scale, unlike mel bands: each row has its own mean.
        mean = features.mean(dim=0) if self.extractor.kind == "mfcc" else torch.zeros(1)
        masked = augment_spectrogram((features - mean).T.numpy(), self.augmentation, generator, self.passed)
        return torch.from_numpy(masked).T + mean

    def _batch(self, clips: list, names: list[str]) -> dict[str, torch.Tensor]:
        batch = dict(self.extractor.pad({"input_features": clips}, return_tensors="pt"))
        return batch if not batch["attention_mask"].all() else {"input_features": batch["input_features"]}  # faster


def compute(store: Store, rows: Dataset, collator: FeatureCollator) -> int:
    """Compute the features that the cache lacks; returns their number. Raises AudioError if a clip cannot be read."""
    rows = select_present(rows, collator.columns)

    def features(position: int) -> torch.Tensor:
        row = rows[position]
        return collator.from_audio(row, collator._generator(row["id"]))

    return store.fill([clip_name(row) for row in rows.remove_columns("audio").to_list()], features)


def speaker_means(parts: Mapping[str, Dataset], collator: FeatureCollator) -> dict[str, torch.Tensor]:
    """The mean spectrum `(rows,)` of each speaker over all clips of all parts, each clip with equal weight.

    Speaker normalisation of the mean alone (Schuller et al. 2010, "Cross-Corpus Acoustic Emotion Recognition: Variances
    and Strategies"). No label is read. Users of the model need clips of their speaker too (`adapted`).
    """
    cached = collator.store is not None
    columns = [name for name in collator.columns if not (cached and name == "audio")]
    clips = (row for rows in parts.values() for row in select_present(rows, columns))
    spectra = ((row["speaker"], collator.unscaled(row, collator._generator(row["id"])).double()) for row in clips)
    means = means_by((speaker, spectrum.mean(dim=0)) for speaker, spectrum in spectra)
    return {speaker: mean.float() for speaker, mean in means.items()}


def feature_collators(
    extractor: SerSpectrogramFeatureExtractor,
    parts: Mapping[str, Dataset],
    clips: ClipArguments,
    augmentation: Augmentation,
    training: TrainingArguments,  # the first process fills the cache
    *,
    relative: bool = False,  # whether features are speaker-normalised (`by_speaker`)
    num_labels: int,  # the width of the soft labels of mixup
) -> tuple[SerSpectrogramFeatureExtractor, dict[str, FeatureCollator]]:
    """The extractor to save, and `data_collator` and `eval_collator` over one cache with the features of all parts,
    whole or as windows. With `relative` and in training the saved `mean_spectrum` is the average training speaker's.

    Not cached are training clips whose waveforms are augmented, and all clips if `--max_seconds` crops them (in
    training at random). Raises SerError: with `relative`, an utterance has no speaker; AudioError: an unreadable clip.
    """
    same = {"min_seconds": clips.min_seconds, "max_seconds": clips.max_seconds, "seed": training.seed}
    if relative:
        check_speakers(parts)
    if extractor.trim_db is not None and "window_start" in parts["train"].column_names:
        raise SerError(f"--window_seconds: the model trims clips ({extractor.trim_db:g} dB), which shifts the times")
    store = None
    if clips.max_seconds is None:  # scaling is applied when features are read, and is not part of the cache
        scaling = ("auto_map", "mean_spectrum", "normalize", "padding_value")
        settings = {key: value for key, value in extractor.to_dict().items() if key not in scaling}
        store = Store(settings_folder("features", __file__, sorted(settings.items()), clips.min_seconds))
    plain = FeatureCollator(extractor, store, **same)
    changed = augmentation.changes_waveforms  # features must then be computed anew
    if store is not None:
        with training.main_process_first():
            wanted = [part for name, part in parts.items() if relative or not (changed and name == "train")]
            count = sum(compute(store, rows, plain) for rows in wanted if len(rows))
            if count and training.process_index == 0:
                logger.info("features of %d clips computed into %s", count, store.folder)
    saved, means = extractor, {}
    if relative:
        means = speaker_means(parts, plain)
        if training.do_train:
            mean = torch.stack([means[name] for name in sorted(set(parts["train"]["speaker"][:]))]).mean(dim=0)
            saved = copy.deepcopy(extractor)
            saved.mean_spectrum = mean.tolist()
    learning = {"skip_unreadable": True, "augmentation": augmentation, "num_labels": num_labels, **same}
    return saved, {
        "data_collator": FeatureCollator(saved, None if changed else store, means, **learning),
        "eval_collator": FeatureCollator(saved, store, means, **same),
    }
