"""Configuration of the audio model. Ships to the Hub."""

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .common import PipelineConfig, check_choice
from .encoders import complete, describe_audio, layer_count, longest_clip, width
from .pooling import POOLINGS

HEADS = ("linear", "mlp")
LAYER_MIXES = ("last", "sum", "concat")
CONTEXTS = ("clip", "full")


class SerConfig(PipelineConfig):
    """Speech encoder + mix of its layers + pooling + head.

    Args:
        audio_config: The encoder's configuration (wav2vec2, XLSR, HuBERT, WavLM, Whisper, w2v-BERT, ...).
        pooling: A name of `POOLINGS`, such as `mean`, `max` or `attentive` (learned weights), over real frames only.
        head: `linear` (project, pool, classify: the head of `Wav2Vec2ForSequenceClassification`) or `mlp` (pool,
            dropout, dense, tanh, dropout, project: soxan's head).
        head_size: Width of the projection, 256 as in the stock class. The `mlp` head keeps the pooled width.
        head_dropout: Dropout of the `mlp` head (soxan: 0.1); the stock head has none.
        layer_mix: What the head reads: the `last` layer, a learned softmax-weighted `sum` of layers (SUPERB), or
            layers one after another (`concat`).
        layers: The hidden states of `sum` and `concat`: 0 is the input of the first layer, `n` the output of layer `n`.
            None: all.
        standardise: Whether hidden states are shifted and scaled, by numbers that were measured on training clips,
            before the head (`pooling.Scale.fit`). A pooling without weights comes before that, layer by layer.
        speaker_norm: Whether training and test clips were relative to their speaker's mean; `standardise` has the
            mean of an average training speaker, for clips of unknown ones (`SerForAudioClassification.adapt`).
        speaker_dims: Width of the map that tells speakers apart (`SerForAudioClassification.set_speaker_map`); 0: none.
        speaker_distance: Its distance between speakers.
        context: `clip`, or for Whisper `full`: every clip is padded to 30 s and the zeros are pooled with it, as in
            `WhisperForAudioClassification`.
        initializer_range: Standard deviation of the head's initial weights.
    """

    # Its own type, so that a stock class refuses to load this checkpoint instead of inventing a random head.
    model_type = "ser"
    sub_configs_defaults = {"audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2")}
    # Not annotated, so that it is not a field and not saved: without it hidden states would become predictions.
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    audio_config: dict | PreTrainedConfig | None = None
    pooling: str = "mean"
    head: str = "linear"
    head_size: int = 256
    head_dropout: float = 0.1
    layer_mix: str = "last"
    layers: list[int] | None = None
    standardise: bool = False
    speaker_norm: bool = False
    speaker_dims: int = 0
    speaker_distance: float = 0.0
    context: str = "clip"
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("head", self.head, HEADS)
        check_choice("layer_mix", self.layer_mix, LAYER_MIXES)
        check_choice("context", self.context, CONTEXTS)
        audio = self.audio_config
        describe_audio(audio, "waveform", "log-mel")
        self.hidden_size = width(audio)
        if self.context == "full" and longest_clip(audio) is None:
            raise ValueError(f"context 'full': {audio.model_type} reads clips of any length; choose clip")
        if self.context == "full" and (self.pooling, self.head) != ("mean", "linear"):
            why = "the stock class pools by mean under the linear head"
            raise ValueError(f"context 'full' with pooling {self.pooling} and head {self.head}: {why}; choose clip")
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError(f"layers {self.layers}: name each layer once, at least one; None reads all")
        if self.layers is not None and self.layer_mix == "last":
            raise ValueError(f"layers {self.layers}: the last layer alone is read; choose layer_mix sum or concat")
        if self.speaker_norm and not self.standardise:
            raise ValueError("speaker_norm: needs standardise, which holds the mean that is subtracted")
        count = layer_count(audio)
        if wrong := [layer for layer in self.layers or () if not 0 <= layer < count]:
            raise ValueError(f"layers {wrong}: {audio.model_type} has the layers 0 to {count - 1}")
        if self.layer_mix != "last" and getattr(audio, "add_adapter", False):
            raise ValueError(
                f"layer_mix {self.layer_mix!r}: {audio.model_type}'s adapter shortens the last layer alone"
            )
        complete(audio, every_layer=self.layer_mix != "last")

    @property
    def read_layers(self) -> list[int]:
        """The hidden states that the head reads, by number."""
        count = layer_count(self.audio_config)
        return [count - 1] if self.layer_mix == "last" else self.layers or list(range(count))
