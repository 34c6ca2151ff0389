"""The audio model. Ships to the Hub."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .common import StrictLoading, classification_output
from .configuration_ser import SerConfig
from .encoders import (
    describe_audio,
    frame_mask,
    freeze_feature_encoder,
    layer_count,
    load_encoder,
    long_enough,
    transformer_layers,
)
from .pipeline_ser import SerPipeline as SerPipeline  # saved with the model because of this line; SerConfig names it
from .pooling import POOLINGS, LayerSum, pool


class SerForAudioClassification(StrictLoading, PreTrainedModel):
    """Emotion of a clip: classes, several labels at once, or continuous values, by `config.problem_type`."""

    config_class = SerConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: SerConfig):
        super().__init__(config)
        describe_audio(config.audio_config, "waveform")
        self.encoder = AutoModel.from_config(config.audio_config)
        # The layers that FSDP wraps and device_map keeps whole; wav2vec2 and WavLM do not name them themselves.
        self._no_split_modules = [type(transformer_layers(self.encoder)[0]).__name__]
        if config.use_weighted_layer_sum:
            self.ser_layer_sum = LayerSum(layer_count(config.audio_config))
        # No encoder has modules of these names: PEFT's modules_to_save matches by the end of a name.
        width, pooling = config.hidden_size, POOLINGS[config.pooling]
        if config.head == "linear":
            self.ser_projector = nn.Linear(width, config.head_size)
            width = config.head_size
        self.ser_pool = None if pooling.parameters is None else pooling.parameters(width)
        width *= pooling.width
        if config.head == "mlp":
            self.ser_dense = nn.Linear(width, width)
            self.ser_dropout = nn.Dropout(config.head_dropout)
        self.ser_classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    @classmethod
    def from_encoder(
        cls, name_or_path: str, overrides: dict | None = None, trust_remote_code: bool = False, **config
    ) -> "SerForAudioClassification":
        """A pretrained encoder, or that of any model with one, under a new, random head, to be trained. `overrides`
        change the encoder's configuration, `config` are arguments of `SerConfig`. ValueError: the encoder is not
        supported, or its weights are missing from the checkpoint."""
        audio = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code, **(overrides or {}))
        if audio.model_type == "ser":
            encoder = cls.from_pretrained(name_or_path).encoder
        else:
            encoder = load_encoder(name_or_path, audio, trust_remote_code=trust_remote_code)
        model = cls(SerConfig(audio_config=encoder.config, **config))
        model.encoder = encoder
        model.config.audio_config = encoder.config
        return model

    def freeze_feature_encoder(self) -> None:
        """Stop the gradients of the convolutions that read the waveform."""
        freeze_feature_encoder(self.encoder)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """`logits` `(batch, labels)` of clips, and with labels the `loss` of `classification_output`.

        Args:
            input_values: `(batch, samples)`, each clip normalised as its feature extractor does.
            attention_mask: `(batch, samples)`, 1 = real sample; None when no clip is padded.
            labels: `(batch,)` class indices, or `(batch, labels)` floats for multi-label and regression.
        """
        values, mask = long_enough(input_values, attention_mask, self.config.audio_config, self.training)
        out = self.encoder(
            values,
            attention_mask=mask,
            output_hidden_states=output_hidden_states or self.config.use_weighted_layer_sum,
            output_attentions=output_attentions,
            return_dict=True,
        )
        frames = out.last_hidden_state  # (batch, frames, hidden)
        if self.config.use_weighted_layer_sum:
            frames = self.ser_layer_sum(torch.stack(out.hidden_states, dim=1))
        logits = self._head(frames, frame_mask(self.config.audio_config, frames, mask))
        states = out.hidden_states if output_hidden_states else None
        return classification_output(logits, labels, self.config.problem_type, return_dict, states, out.attentions)

    def _head(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        linear, pooling = self.config.head == "linear", POOLINGS[self.config.pooling]
        if linear and pooling.linear:  # it commutes with the projection: the stock head at 1/frames of its cost
            return self.ser_classifier(self.ser_projector(pool(frames, mask, self.config.pooling)))
        if linear:
            frames = self.ser_projector(frames)
        pooled = pool(frames, mask, self.config.pooling, self.ser_pool)
        if not linear:
            pooled = self.ser_dropout(torch.tanh(self.ser_dense(self.ser_dropout(pooled))))
        return self.ser_classifier(pooled)
