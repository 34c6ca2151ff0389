"""The fusion model. Ships to the Hub.

It has two halves, so that frozen encoders run over a corpus only once: `encode_audio` and `encode_text` return hidden
states, `fuse` turns them into logits; `forward` takes either inputs or hidden states.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .common import StrictLoading, classification_loss, wanted_outputs
from .configuration_fusion import SerFusionConfig
from .encoders import (
    check_text,
    describe_audio,
    encode,
    encode_text,
    freeze_feature_encoder,
    layer_count,
    load_encoder,
    new_encoder,
    stacked,
    transformer_layers,
    width,
    without_pooler,
)
from .fusion_layers import Concat, CrossAttention, Gated, Modality
from .modeling_ser import trained_encoder
from .modeling_spectrogram import SerSpectrogramModel
from .pipeline_ser import SerPipeline as SerPipeline  # saved with the model because of this line; its config names it
from .pooling import POOLINGS, TEXT_POOLINGS, Pooling, pool_layers


def load_audio_encoder(
    name_or_path: str, overrides: dict | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, str | None]:
    """A pretrained audio encoder, or that of a model with one, and the pooling of the `ser` model it is from, if it is.
    `overrides` change the configuration of an encoder of transformers. ValueError: the encoder is not supported, or its
    weights are missing from the checkpoint."""
    kind = PreTrainedConfig.get_config_dict(name_or_path)[0].get("model_type")
    if kind == "ser":
        return trained_encoder(name_or_path, overrides)
    if kind == "ser_spectrogram":
        return SerSpectrogramModel.from_pretrained(name_or_path, dtype=torch.float32), None
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code, **(overrides or {}))
    describe_audio(config)
    return load_encoder(name_or_path, config, trust_remote_code=trust_remote_code), None


def load_text_encoder(name_or_path: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """A pretrained text encoder, or that of a model with one; raises as `load_audio_encoder` does."""
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    check_text(config)
    return load_encoder(name_or_path, config, trust_remote_code=trust_remote_code)


@dataclass
class SerFusionOutput(SequenceClassifierOutput):
    """`hidden_states` and `attentions` of the audio encoder, and the same of the text encoder. In training they have
    only the rows that are there."""

    text_hidden_states: tuple[torch.Tensor, ...] | None = None
    text_attentions: tuple[torch.Tensor, ...] | None = None


class SerFusionForClassification(StrictLoading, PreTrainedModel):
    """Emotion of what is said and how: classes, several labels at once, or values, by `config.problem_type`."""

    config_class = SerFusionConfig
    base_model_prefix = "fusion"
    main_input_name = "input_values"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: SerFusionConfig):
        super().__init__(config)
        audio, text = config.audio_config, config.text_config
        description = describe_audio(audio)
        check_text(text)
        self.main_input_name = description.input_name
        # AutoModel knows our spectrogram model only where ser_hf is installed.
        spectrogram = description.reads == "spectrogram"
        self.audio_encoder = SerSpectrogramModel(audio) if spectrogram else new_encoder(audio)
        self.text_encoder = AutoModel.from_config(text, **without_pooler(text))
        if layers := transformer_layers(self.audio_encoder):  # for FSDP; text encoders name theirs themselves
            self._no_split_modules = [type(layers[0]).__name__]
        self._frozen = False
        # Layers and width of the hidden states that `encode_audio` and `encode_text` return, and whether those pool.
        self.audio_shape, self.pools_audio = self._encoded(audio, POOLINGS[config.pooling])
        self.text_shape, self.pools_text = self._encoded(text, TEXT_POOLINGS[config.text_pooling])
        sequence = config.fusion == "cross_attention"
        # No encoder has modules of these names: PEFT's modules_to_save matches by the end of a name.
        self.ser_audio = Modality(*self.audio_shape, None if sequence or self.pools_audio else config.pooling)
        self.ser_text = Modality(*self.text_shape, None if sequence or self.pools_text else config.text_pooling)
        sizes = self.ser_audio.width, self.ser_text.width, config.head_size
        if sequence:
            self.ser_fusion = CrossAttention(*sizes, config.attention_heads)
        else:
            self.ser_fusion = (Gated if config.fusion == "gated" else Concat)(*sizes)
        self.ser_dropout = nn.Dropout(config.head_dropout)
        self.ser_classifier = nn.Linear(self.ser_fusion.width, config.num_labels)
        self.post_init()

    @classmethod
    def from_encoders(
        cls, audio: str, text: str, audio_overrides: dict | None = None, trust_remote_code: bool = False, **config
    ) -> "SerFusionForClassification":
        """Two pretrained encoders, named by Hub ids or folders, under a new, random head, to be trained. The pooling of
        a `ser` model becomes the default of `config`, the arguments of `SerFusionConfig`. `audio_overrides` and errors
        as in `load_audio_encoder`."""
        audio_encoder, pooling = load_audio_encoder(audio, audio_overrides, trust_remote_code)
        config = {**({"pooling": pooling} if pooling else {}), **config}
        text_encoder = load_text_encoder(text, trust_remote_code)
        model = cls(SerFusionConfig(audio_config=audio_encoder.config, text_config=text_encoder.config, **config))
        model.audio_encoder, model.text_encoder = audio_encoder, text_encoder
        model.config.audio_config, model.config.text_config = audio_encoder.config, text_encoder.config
        return model

    def freeze_encoders(self) -> None:
        """No gradients for the encoders, and no dropout or SpecAugment in them from now on, also in training."""
        self._frozen = True
        self.audio_encoder.requires_grad_(False).eval()
        self.text_encoder.requires_grad_(False).eval()

    def freeze_feature_encoder(self) -> None:
        """Stop the gradients of the convolutions that read the waveform."""
        freeze_feature_encoder(self.audio_encoder)

    def train(self, mode: bool = True):
        super().train(mode)
        if self._frozen:
            self.audio_encoder.eval()
            self.text_encoder.eval()
        return self

    # ---- inputs to hidden states

    def _encoded(self, encoder: PreTrainedConfig, pooling: Pooling) -> tuple[tuple[int, int], bool]:
        layers = layer_count(encoder) if self.config.use_weighted_layer_sum else 1
        # Pooled before the fusion where no trained weights come before the pooling or belong to it.
        pools = self.config.fusion != "cross_attention" and pooling.parameters is None
        pools = pools and (pooling.linear or layers == 1)
        return (layers, width(encoder) * (pooling.width if pools else 1)), pools

    def encode_audio(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None):
        """Hidden states `(batch, layers, frames, dim)` of the audio encoder, and their mask `(batch, frames)`, True =
        real. There is one layer without layer sum, one frame where `pools_audio`, no True for a missing clip.

        Args:
            inputs: The feature extractor's output: `(batch, samples)`, or features of Whisper, w2v-BERT or the
                spectrogram model.
            attention_mask: `(batch, samples)` or `(batch, frames)`, 1 = real; a row of zeros is a clip that is missing
                and does not reach the encoder. None when no clip is padded.
        """
        return self._encode_audio(inputs, attention_mask)[:2]

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None):
        """As `encode_audio`, for `(batch, tokens)` padded on the right and their mask; one frame where `pools_text`."""
        return self._encode_text(input_ids, attention_mask)[:2]

    def _encode_audio(self, inputs: torch.Tensor, mask: torch.Tensor | None, **wanted: bool):
        pooling = self.config.pooling if self.pools_audio else None
        return self._encode(encode, self.audio_encoder, inputs, mask, self.audio_shape, pooling, **wanted)

    def _encode_text(self, inputs: torch.Tensor, mask: torch.Tensor | None, **wanted: bool):
        pooling = self.config.text_pooling if self.pools_text else None
        return self._encode(encode_text, self.text_encoder, inputs, mask, self.text_shape, pooling, **wanted)

    def _encode(
        self,
        run: Callable,
        encoder: PreTrainedModel,
        inputs: torch.Tensor,
        mask: torch.Tensor | None,
        shape: tuple[int, int],
        pooling: str | None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ):
        """States, their mask, and the encoder's hidden states and attentions if wanted. In training, missing rows do
        not go through the encoder, whose batch norm would count them. Else they do (a branch on data cannot be
        exported), and as if they were real: attention over no step is NaN."""
        present = None if mask is None else mask.any(dim=-1)  # (batch,)
        rows = inputs, mask
        if present is not None and self.training:
            if not present.any():
                return *self._nothing(inputs.shape[0], shape), None, None
            rows = inputs[present], mask[present]
        elif present is not None:
            rows = inputs, mask.masked_fill(~present.unsqueeze(-1), 1)
        every_layer = shape[0] > 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            out, real = run(encoder, *rows, every_layer or output_hidden_states, output_attentions)
            states = stacked(out, every_layer)
            if pooling is not None:
                states, real = pool_layers(states, real, pooling)
            if present is not None and self.training:
                some = states, real
                states, real = (values.new_zeros((inputs.shape[0], *values.shape[1:])) for values in some)
                states[present], real[present] = some
            elif present is not None:
                states, real = states.masked_fill(~present.view(-1, 1, 1, 1), 0.0), real & present.unsqueeze(-1)
        return states, real, out.hidden_states if output_hidden_states else None, getattr(out, "attentions", None)

    def _nothing(self, batch: int, shape: tuple[int, int]):
        """Hidden states and mask of a modality that no row has."""
        states = torch.zeros((batch, shape[0], 1, shape[1]), dtype=self.dtype, device=self.device)
        return states, torch.zeros((batch, 1), dtype=torch.bool, device=self.device)

    # ---- hidden states to logits

    def fuse(
        self,
        audio_states: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits `(batch, labels)` from the outputs of `encode_audio` and `encode_text`, in any floating point type.

        A modality is missing where it is None, or its mask has no True in the row; the mask of hidden states may
        be None. A row without either (a withheld text of an utterance without audio) gets both learned vectors.
        ValueError: neither audio nor text.
        """
        if audio_states is None and text_states is None:
            raise ValueError("neither audio nor text: give at least one")
        batch = (text_states if audio_states is None else audio_states).shape[0]
        audio_states, audio_mask = self._complete(audio_states, audio_mask, batch, self.audio_shape)
        text_states, text_mask = self._complete(text_states, text_mask, batch, self.text_shape)
        audio_there, text_there = audio_mask.any(dim=-1), text_mask.any(dim=-1)  # (batch,)
        if self.training and self.config.modality_dropout > 0:
            audio_there, text_there = self.drop_modality(audio_there, text_there)
        audio, audio_mask = self.ser_audio(audio_states, audio_mask, audio_there)
        text, text_mask = self.ser_text(text_states, text_mask, text_there)
        fused = self.ser_fusion(self.ser_dropout(audio), audio_mask, self.ser_dropout(text), text_mask)
        return self.ser_classifier(self.ser_dropout(fused))

    def _complete(
        self, states: torch.Tensor | None, mask: torch.Tensor | None, batch: int, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if states is None:
            return self._nothing(batch, shape)
        if mask is None:
            mask = torch.ones((batch, states.shape[2]), dtype=torch.bool, device=states.device)
        # A cache may hold half precision. Autocast, where it is on, chooses the type itself.
        return states.to(self.dtype), mask.bool()

    def drop_modality(self, audio_there: torch.Tensor, text_there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Modality dropout: of `(batch,)` masks of what is there, the same with audio or text, never both, missing at
        random in a share `modality_dropout` of the rows that have both."""
        both, draw = audio_there & text_there, torch.rand(audio_there.shape[0], device=audio_there.device)
        share = self.config.modality_dropout
        return audio_there & ~(both & (draw < share / 2)), text_there & ~(both & (draw > 1 - share / 2))

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        audio_states: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SerFusionOutput | tuple:
        """`logits` `(batch, labels)` of clips and texts, and with labels the `loss` of `classification_loss`. A
        modality is missing where its argument is None or its mask has a row of zeros. Errors as in `fuse`.

        Args:
            input_values, input_features, attention_mask: Either audio, and its mask, as `encode_audio` takes it.
            input_ids, text_attention_mask: As `encode_text` takes them.
            audio_states, audio_mask, text_states, text_mask: Outputs of those two, instead of their inputs.
            labels: `(batch,)` class indices, or `(batch, labels)` floats for multi-label and regression.
            output_hidden_states, output_attentions: Whether to return the encoders'; default by the configuration.
        """
        wanted = wanted_outputs(self.config, output_hidden_states, output_attentions)
        more = {}
        audio = input_values if input_features is None else input_features
        if audio_states is None and audio is not None:
            encoded = self._encode_audio(audio, attention_mask, **wanted)
            audio_states, audio_mask, more["hidden_states"], more["attentions"] = encoded
        if text_states is None and input_ids is not None:
            encoded = self._encode_text(input_ids, text_attention_mask, **wanted)
            text_states, text_mask, more["text_hidden_states"], more["text_attentions"] = encoded
        logits = self.fuse(audio_states, audio_mask, text_states, text_mask)
        return SerFusionOutput(classification_loss(logits, labels, self.config.problem_type), logits, **more)
