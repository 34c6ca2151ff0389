"""The spectrogram models. Ships to the Hub."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .cnn_image import IMAGE_NETWORKS
from .cnn_small import InputNorm, SmallCnn, real_frames
from .common import StrictLoading, classification_loss, wanted_outputs
from .configuration_spectrogram import IMAGE_ARCHS, SerSpectrogramConfig
from .pipeline_ser import SerPipeline as SerPipeline  # saved with the model because of this line; its config names it
from .pooling import attention_scores, pool

# Rows and frames that AlexNet requires for one output; the others have two outputs of 64, enough for batch norm of one
# clip.
LEAST_IMAGE = 64


class SerSpectrogramPreTrainedModel(StrictLoading, PreTrainedModel):
    """Loading rules and initialisation of the spectrogram models."""

    config_class = SerSpectrogramConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    input_modalities = "audio"

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.LSTM):
            module.reset_parameters()  # torch's own: a standard deviation of 0.02 suits transformers, not these
        else:
            super()._init_weights(module)


class SerSpectrogramModel(SerSpectrogramPreTrainedModel):
    """Features to one vector per clip: batch norm of every row, the network, pooling over real frames."""

    def __init__(self, config: SerSpectrogramConfig):
        super().__init__(config)
        self.norm = InputNorm(config.rows)
        if config.arch in IMAGE_ARCHS:
            self.backbone = IMAGE_NETWORKS[config.arch]()
            self.least = self.least_rows = LEAST_IMAGE
        else:
            self.backbone = SmallCnn(config.arch, 1 if config.reduce else config.rows)
            self.least, self.least_rows = self.backbone.least, self.backbone.least_rows
        self.attention = attention_scores(256) if config.arch == "cnn_lstm_attention" else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple:
        """One vector per clip: `pooler_output` `(batch, hidden_size)`, `last_hidden_state` `(batch, 1, hidden_size)`;
        the `hidden_states` are what the network reads, and its output before the pooling. There are no attentions.
        Inputs are `(batch, frames, rows)`, the mask `(batch, frames)`, 1 = real, or None when no clip is padded."""
        lengths = None if attention_mask is None else attention_mask.sum(dim=-1)
        x = self.norm(input_features.transpose(1, 2), lengths)  # (batch, rows, frames)
        if self.config.reduce == "time":  # no padding remains: every clip is a sequence of equally many coefficients
            frames = x.shape[2] if lengths is None else lengths.unsqueeze(-1)
            x, lengths = (x.sum(dim=2) / frames).unsqueeze(1), None
        elif self.config.reduce == "frequency":
            x = x.mean(dim=1, keepdim=True)
        # Zero-pad what is too short for one output frame, or has too few rows (after the norm, zero is the mean); the
        # zeros count as real, for a clip alone and in a batch alike.
        x = F.pad(x, (0, max(0, self.least - x.shape[2]), 0, max(0, self.least_rows - x.shape[1])))
        lengths = None if lengths is None else lengths.clamp(min=self.least)
        if self.config.arch in IMAGE_ARCHS:
            out = self.backbone(x.unsqueeze(1))  # (batch, channels, rows, frames)
            if lengths is not None:  # rounded up: a frame is real if any of its input is
                lengths = (lengths * out.shape[3] + x.shape[2] - 1) // x.shape[2]
        else:
            out, lengths = self.backbone(x if self.backbone.flat else x.unsqueeze(1), lengths)  # (batch, frames, width)
        if self.config.arch == "alexnet":
            vector = self.backbone.vectors(out, lengths)
        else:
            vector = self._pool(out if out.ndim == 3 else out.mean(dim=2).transpose(1, 2), lengths)
        wanted = wanted_outputs(self.config, output_hidden_states, output_attentions)["output_hidden_states"]
        states = (x, out) if wanted else None
        return BaseModelOutputWithPooling(vector.unsqueeze(1), vector, hidden_states=states)

    def _pool(self, frames: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if lengths is None:
            lengths = torch.full((frames.shape[0],), frames.shape[1], device=frames.device)
        real = real_frames(frames.shape[1], lengths)
        return pool(frames, real, self.config.pooling if self.attention is None else "attentive", self.attention)


class SerForSpectrogramClassification(SerSpectrogramPreTrainedModel):
    """Emotion of a clip: classes, several labels at once, or continuous values, by `config.problem_type`."""

    def __init__(self, config: SerSpectrogramConfig):
        super().__init__(config)
        self.encoder = SerSpectrogramModel(config)
        self.ser_dropout = nn.Dropout(config.dropout)
        self.ser_classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def freeze_feature_encoder(self) -> None:
        """Stop the gradients of the network, and its batch norm: only the classifier is trained then."""
        self.encoder.requires_grad_(False).train(self.encoder.training)

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """`logits` `(batch, labels)` of the encoder's inputs, and with labels the `loss` of `classification_loss`; the
        `hidden_states` are the encoder's."""
        wanted = wanted_outputs(self.config, output_hidden_states, output_attentions)
        out = self.encoder(input_features, attention_mask, **wanted)
        logits = self.ser_classifier(self.ser_dropout(out.pooler_output))
        loss = classification_loss(logits, labels, self.config.problem_type)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=out.hidden_states)
