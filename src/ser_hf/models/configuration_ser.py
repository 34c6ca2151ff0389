"""Configuration of the audio model. Ships to the Hub."""

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .common import PipelineConfig, check_choice
from .pooling import POOLINGS

HEADS = ("linear", "mlp")


class SerConfig(PipelineConfig):
    """Speech encoder + optional learned layer sum + pooling + head.

    Args:
        audio_config: The encoder's configuration (wav2vec2, XLSR, HuBERT, WavLM, data2vec-audio, ...).
        pooling: A name of `POOLINGS`: `mean`, `max`, `meanmax` (both, concatenated) or `attentive` (learned weights),
            over real frames only.
        head: `linear` (project, pool, classify: the head of `Wav2Vec2ForSequenceClassification`) or `mlp` (pool,
            dropout, dense, tanh, dropout, project: soxan's head).
        head_size: Width of the projection, 256 as in the stock class. The `mlp` head keeps the pooled width.
        head_dropout: Dropout of the `mlp` head (soxan: 0.1); the stock head has none.
        use_weighted_layer_sum: Learn a softmax-weighted sum of all layers instead of taking the last (SUPERB).
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
    use_weighted_layer_sum: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("head", self.head, HEADS)
        self.hidden_size = self.audio_config.hidden_size
        if self.use_weighted_layer_sum:
            self.audio_config.layerdrop = 0.0  # a dropped layer leaves no hidden state to weigh
