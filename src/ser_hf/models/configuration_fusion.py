"""Configuration of the fusion model. Ships to the Hub."""

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .common import PipelineConfig, check_choice
from .configuration_spectrogram import SerSpectrogramConfig
from .encoders import complete, width
from .pooling import POOLINGS, TEXT_POOLINGS

FUSIONS = ("concat", "gated", "cross_attention")


class SerFusionConfig(PipelineConfig):
    """Audio encoder + text encoder, each pooled to one vector, fused, and a head; either input may be missing.

    Args:
        audio_config: The audio encoder's configuration, of a kind in `encoders.ENCODERS`.
        text_config: The text encoder's configuration (BERT, RoBERTa, XLM-R, DistilBERT, DeBERTa, ...).
        fusion: `concat`, `gated` or `cross_attention`, see `Concat`, `Gated` and `CrossAttention`.
        pooling: Pooling of frames for `concat` and `gated`, a name of `POOLINGS`.
        text_pooling: Pooling of tokens for `concat` and `gated`, a name of `TEXT_POOLINGS`.
        use_weighted_layer_sum: Learn a softmax-weighted sum of all layers, one for each encoder (SUPERB).
        head_size: Width of the fused vector (of each half of it with `cross_attention`).
        head_dropout: Dropout before and after the fusion.
        attention_heads: Attention heads of `cross_attention`; `head_size` must be a multiple.
        modality_dropout: In training, the probability that audio or text, by even odds, is treated as missing.
        initializer_range: Standard deviation of the head's initial weights.
    """

    # Its own type, so that a stock class refuses to load this checkpoint instead of inventing a random head.
    model_type = "ser_fusion"
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }
    # Not annotated, so that it is not a field and not saved (as in configuration_ser.py).
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "text_hidden_states", "text_attentions"]

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    fusion: str = "concat"
    pooling: str = "mean"
    text_pooling: str = "first"
    use_weighted_layer_sum: bool = False
    head_size: int = 256
    head_dropout: float = 0.1
    attention_heads: int = 4
    modality_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if isinstance(self.audio_config, dict) and self.audio_config.get("model_type") == "ser_spectrogram":
            self.audio_config = SerSpectrogramConfig(**self.audio_config)  # AutoConfig does not know it everywhere
        super().__post_init__(**kwargs)
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("text_pooling", self.text_pooling, TEXT_POOLINGS)
        if not 0.0 <= self.modality_dropout < 1.0:
            raise ValueError(f"modality_dropout {self.modality_dropout}: must be at least 0 and below 1")
        if self.fusion == "cross_attention" and self.head_size % self.attention_heads:
            raise ValueError(
                f"head_size {self.head_size}: must be a multiple of attention_heads {self.attention_heads}"
            )
        self.hidden_size = width(self.audio_config) + self.text_config.hidden_size
        complete(self.audio_config, every_layer=self.use_weighted_layer_sum)
