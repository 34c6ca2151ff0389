"""Linear classifiers of openSMILE's functionals: configuration, feature extractor, model. Ships to the Hub.

The package opensmile is loaded by the feature extractor. Its licence allows research and private use, not products.
"""

import copy
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .audio_blocks import clips_at, one_clip, package
from .common import PipelineConfig, StrictLoading, check_choice, classification_loss, wanted_outputs
from .pipeline_ser import SerPipeline as SerPipeline  # saved with the model because of this line; its config names it

# Functionals of a clip in each feature set of the package opensmile: eGeMAPS (Eyben et al. 2016, IEEE Trans. Affective
# Computing 7) in version 02, and the set of the INTERSPEECH ComParE challenges since 2013 in its version of 2016.
FEATURE_SETS = {"eGeMAPSv02": 88, "ComParE_2016": 6373}
# All are linear. svm: one against rest, squared hinge loss. logistic: multinomial logistic regression. ridge: least
# squares to -1 and 1.
CLASSIFIERS = ("svm", "logistic", "ridge")


class SerFunctionalsConfig(PipelineConfig):
    """A linear classifier of standardised functionals.

    Args:
        feature_set: One of `FEATURE_SETS`.
        classifier: One of `CLASSIFIERS`. A record, as is `complexity`: the model is the same linear layer.
        complexity: The classifier's C, the inverse strength of its regularisation.
    """

    model_type = "ser_functionals"

    feature_set: str = "eGeMAPSv02"
    classifier: str = "svm"
    complexity: float = 1.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_choice("feature_set", self.feature_set, FEATURE_SETS)
        check_choice("classifier", self.classifier, CLASSIFIERS)


# The longest frame of both sets, for the fundamental frequency: of shorter clips openSMILE returns NaN (measured: 959
# samples at 16 kHz are too short, 960 are not).
LEAST_SECONDS = 0.06


@lru_cache(maxsize=2)
def opensmile_of(feature_set: str):
    """openSMILE with one of `FEATURE_SETS`. Raises ImportError without the package opensmile."""
    opensmile = package("opensmile")
    kind = getattr(opensmile.FeatureSet, feature_set)
    return opensmile.Smile(feature_set=kind, feature_level=opensmile.FeatureLevel.Functionals)


def statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each functional over clips, `(clips, functionals)` to two `(functionals,)` in
    float32. The deviation of a constant is 1, so that it can divide.

    >>> [each.tolist() for each in statistics(np.array([[1.0, 5.0], [3.0, 5.0]]))]
    [[2.0, 5.0], [1.0, 1.0]]
    """
    exact = np.asarray(values, dtype=np.float64)
    scale = exact.std(axis=0).astype(np.float32)
    varies = (np.ptp(exact, axis=0) > 0) & (scale > 0)
    return exact.mean(axis=0).astype(np.float32), np.where(varies, scale, np.float32(1))


class SerFunctionalsFeatureExtractor(FeatureExtractionMixin):
    """openSMILE's functionals of whole clips. Raises ImportError without the package opensmile.

    Args:
        feature_set: One of `FEATURE_SETS`.
        sampling_rate: Rate of the samples in Hz.
        speaker_mean, speaker_scale: `(functionals,)`, subtracted from the functionals, and what divides them then; None
            changes nothing. Models with speaker normalisation have the averages over their training speakers here, for
            clips of unknown speakers; `adapted` replaces them by one speaker's mean and standard deviation.
    """

    model_input_names = ["input_features"]

    def __init__(
        self,
        feature_set: str = "eGeMAPSv02",
        sampling_rate: int = 16000,
        speaker_mean: list[float] | None = None,
        speaker_scale: list[float] | None = None,
        **kwargs,
    ):
        check_choice("feature_set", feature_set, FEATURE_SETS)
        package("opensmile")
        for name, values in {"speaker_mean": speaker_mean, "speaker_scale": speaker_scale}.items():
            if (values is None) != (speaker_mean is None) or len(values or []) not in (0, FEATURE_SETS[feature_set]):
                raise ValueError(f"{name}: must have {FEATURE_SETS[feature_set]} values, or neither of both any")
        super().__init__(**kwargs)
        self.feature_set, self.sampling_rate = feature_set, sampling_rate
        self.speaker_mean, self.speaker_scale = speaker_mean, speaker_scale

    @property
    def speaker_values(self) -> list[float] | None:
        """The values that `adapted` replaces; None without speaker normalisation."""
        return None if self.speaker_mean is None else [*self.speaker_mean, *self.speaker_scale]

    def unscaled(self, clip: np.ndarray) -> np.ndarray:
        """The functionals `(functionals,)`, float32, of one clip `(samples,)`, before speaker normalisation. A clip
        shorter than `LEAST_SECONDS` is zero-padded."""
        samples = one_clip(clip)
        missing = round(LEAST_SECONDS * self.sampling_rate) - len(samples)
        samples = np.pad(samples, (0, max(0, missing)))
        return opensmile_of(self.feature_set)(samples, self.sampling_rate).reshape(-1)

    def scaled(self, values: np.ndarray, speaker: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """Functionals `(..., functionals)` after speaker normalisation. `speaker` are the speaker's `statistics`, where
        they are known; they default to this extractor's, if it has any."""
        if speaker is None and self.speaker_mean is not None:
            speaker = np.float32(self.speaker_mean), np.float32(self.speaker_scale)
        return values if speaker is None else (values - speaker[0]) / speaker[1]

    def adapted(self, clips: Iterable) -> "SerFunctionalsFeatureExtractor":
        """A copy of this extractor for one speaker: its `speaker_mean` and `speaker_scale` are those of the speaker's
        `clips`.

        These are `(samples,)` each, ten or more in various emotions: if all are angry, the anger is subtracted with the
        voice. Silent clips are left out. ValueError: no clips, or a model without speaker normalisation.
        """
        if self.speaker_mean is None:
            raise ValueError("this model was not trained with --speaker_norm: it has no use for a speaker's mean")
        values = [self.unscaled(clip) for clip in clips if np.any(clip)]
        if not values:
            raise ValueError("no clips of the speaker, or only silent ones")
        other = copy.deepcopy(self)
        other.speaker_mean, other.speaker_scale = (each.tolist() for each in statistics(np.stack(values)))
        return other

    def __call__(
        self,
        clips,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """`input_features` `(batch, functionals)` of one clip or several. ValueError: another `sampling_rate`, in Hz,
        or an empty clip.

        Args:
            clips: `(samples,)`, or a list of such or `(batch, samples)`.
            padding, return_attention_mask: Have no effect: a clip of any length is one vector.
        """
        clips = clips_at(clips, sampling_rate, self.sampling_rate)
        values = np.stack([self.scaled(self.unscaled(clip)) for clip in clips])
        return BatchFeature({"input_features": values}, tensor_type=return_tensors or "np")


class SerForFunctionalsClassification(StrictLoading, PreTrainedModel):
    """Emotion of a clip by its functionals, standardised by `mean` and `scale` of the training clips."""

    config_class = SerFunctionalsConfig
    main_input_name = "input_features"
    input_modalities = "audio"

    def __init__(self, config: SerFunctionalsConfig):
        super().__init__(config)
        size = FEATURE_SETS[config.feature_set]
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.ser_classifier = nn.Linear(size, config.num_labels)
        self.post_init()

    def standardised(self, input_features: torch.Tensor) -> torch.Tensor:
        """`(batch, functionals)` with zero mean and unit variance over the training clips."""
        return (input_features - self.mean) / self.scale

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """`logits` `(batch, labels)` of functionals `(batch, functionals)`, and with labels the `loss` of
        `classification_loss`. An SVM's logits are its decision values, divided by a temperature. The one of the
        `hidden_states` are the standardised functionals; there are no attentions."""
        states = self.standardised(input_features)
        logits = self.ser_classifier(states)
        loss = classification_loss(logits, labels, self.config.problem_type)
        wanted = wanted_outputs(self.config, output_hidden_states, output_attentions)["output_hidden_states"]
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=(states,) if wanted else None)
