"""The spectrogram models. Ships to the Hub."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from .cnn_image import IMAGE_NETWORKS
from .cnn_small import InputNorm, SmallCnn, real_frames
from .common import StrictLoading, classification_output
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

    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> BaseModelOutputWithPooling | tuple:
        """One vector per clip: `pooler_output` `(batch, hidden_size)`, `last_hidden_state` `(batch, 1, hidden_size)`.
        Inputs are `(batch, rows, frames)`, the mask `(batch, frames)`, 1 = real, or None when no clip is padded."""
        lengths = None if attention_mask is None else attention_mask.sum(dim=-1)
        x = self.norm(input_features, lengths)
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
            vector = self._image(x, lengths)
        else:
            vector = self._pool(*self.backbone(x if self.backbone.flat else x.unsqueeze(1), lengths))
        if return_dict is False:
            return vector.unsqueeze(1), vector
        return BaseModelOutputWithPooling(last_hidden_state=vector.unsqueeze(1), pooler_output=vector)

    def _image(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        maps = self.backbone(x.unsqueeze(1))  # (batch, channels, rows, frames)
        if lengths is not None:  # rounded up: a frame is real if any of its input is
            lengths = -(-lengths * maps.shape[3] // x.shape[2])
        if self.config.arch == "alexnet":
            return self.backbone.vectors(maps, lengths)
        return self._pool(maps.mean(dim=2).transpose(1, 2), lengths)

    def _pool(self, frames: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if lengths is None:
            lengths = torch.full((len(frames),), frames.shape[1], device=frames.device)
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

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """`logits` `(batch, labels)` of the encoder's inputs, and with labels the `loss` of `classification_output`."""
        vector = self.encoder(input_features, attention_mask).pooler_output
        logits = self.ser_classifier(self.ser_dropout(vector))
        return classification_output(logits, labels, self.config.problem_type, return_dict)
