"""The audio model. Ships to the Hub."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import AutoConfig, FeatureExtractionMixin, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .common import StrictLoading, classification_loss, wanted_outputs
from .configuration_ser import SerConfig
from .encoders import (
    complete,
    describe_audio,
    encode,
    encode_above,
    extract,
    freeze_feature_encoder,
    freeze_layers,
    load_encoder,
    new_encoder,
    stacked,
    train_upper_layers,
    transformer_layers,
)
from .pipeline_ser import SerPipeline as SerPipeline  # saved with the model because of this line; SerConfig names it
from .pooling import POOLINGS, LayerSum, Scale, pool, pool_layers


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
        self.main_input_name = describe_audio(config.audio_config, "waveform", "log-mel").input_name
        self.encoder = new_encoder(config.audio_config)
        # The layers that FSDP wraps and device_map keeps whole; wav2vec2 and WavLM do not name them themselves.
        self._no_split_modules = [type(transformer_layers(self.encoder)[0]).__name__]
        self._frozen = False
        self._frozen_layers = 0
        pooling, count = POOLINGS[config.pooling], len(config.read_layers)
        # Each layer is pooled before everything else where that changes nothing: no trained weights come before the
        # pooling or belong to it. Hidden states are standardised after it, so that it comes first there too.
        commutes = pooling.linear or (config.head == "mlp" and config.layer_mix != "sum")
        self.pools_audio = pooling.parameters is None and (config.standardise or commutes)
        # Layers and width of the hidden states that `encode_audio` returns.
        self.audio_shape = count, config.hidden_size * (pooling.width if self.pools_audio else 1)
        # No encoder has modules of these names: PEFT's modules_to_save matches by the end of a name.
        if config.standardise:
            self.ser_scale = Scale(*self.audio_shape)
        if config.layer_mix == "sum":
            self.ser_layer_sum = LayerSum(count)
        width = self.audio_shape[1] * (count if config.layer_mix == "concat" else 1)
        if config.head == "linear":
            self.ser_projector = nn.Linear(width, config.head_size)
            width = config.head_size
        self.ser_pool = None if pooling.parameters is None else pooling.parameters(width)
        width *= 1 if self.pools_audio else pooling.width
        if config.head == "mlp":
            self.ser_dense = nn.Linear(width, width)
            self.ser_dropout = nn.Dropout(config.head_dropout)
        self.ser_classifier = nn.Linear(width, config.num_labels)
        if config.speaker_dims:
            self.ser_speakers = nn.Linear(math.prod(self.audio_shape), config.speaker_dims, bias=False)
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
            encoder = trained_encoder(name_or_path, overrides)[0]
        else:
            describe_audio(audio, "waveform", "log-mel")  # before its weights are looked for
            encoder = load_encoder(name_or_path, audio, trust_remote_code=trust_remote_code)
        model = cls(SerConfig(audio_config=encoder.config, **config))
        model.encoder = encoder
        model.config.audio_config = encoder.config
        return model

    def freeze_feature_encoder(self) -> None:
        """Stop the gradients of the convolutions that read the waveform."""
        freeze_feature_encoder(self.encoder)

    def freeze_encoder(self) -> None:
        """No gradients for the encoder, and no dropout or SpecAugment in it from now on, also in training."""
        self._frozen = True
        self.encoder.requires_grad_(False).eval()

    def freeze_layers(self, count: int) -> None:
        """No gradients for the first `count` transformer layers and all before them, and no dropout there from now on.
        SpecAugment and LayerDrop, which the encoder does as a whole, end too. ValueError: no layer is left to train."""
        layers = len(transformer_layers(self.encoder))
        if not 0 < count < layers:
            raise ValueError(f"freeze 1 to {layers - 1} of {layers} layers, got {count}")
        self._frozen_layers = count
        freeze_layers(self.encoder, count)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self._frozen and self.encoder is not None:
            self.encoder.eval()
        elif self._frozen_layers:
            train_upper_layers(self.encoder, self._frozen_layers, mode)
        return self

    def encode_audio(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None):
        """Hidden states `(batch, layers, frames, dim)` that the head reads, and their mask `(batch, frames)`, True =
        real. There is one frame where `pools_audio`.

        Args:
            inputs: The feature extractor's output: `(batch, samples)`, or features of Whisper or w2v-BERT.
            attention_mask: `(batch, samples)` or `(batch, frames)`, 1 = real; None when no clip is padded.
        """
        return self._read(*self._encode(inputs, attention_mask))

    def encode_frozen(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None):
        """As `encode_audio`, of the hidden states `(batch, 1, frames, dim)` after the last of the frozen layers."""
        out, real = self._encode(inputs, attention_mask, output_hidden_states=True)
        return out.hidden_states[self._frozen_layers].unsqueeze(1), real

    def _encode(
        self,
        inputs: torch.Tensor,
        attention_mask: torch.Tensor | None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> tuple[ModelOutput, torch.Tensor]:
        mask = None if self.config.context == "full" else attention_mask
        every_layer = output_hidden_states or self.config.layer_mix != "last"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            return encode(self.encoder, inputs, mask, every_layer, output_attentions)

    def _read(self, out: ModelOutput, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`encode_audio` from the encoder's output."""
        states = stacked(out, self.config.layer_mix != "last")
        if self.config.layers is not None:
            states = states[:, self.config.layers]
        return pool_layers(states, real, self.config.pooling) if self.pools_audio else (states, real)

    def set_speaker_map(self, weight: torch.Tensor, distance: float) -> None:
        """Keep a map `(dims, layers * dim)` of a clip's states, averaged over frames, to where clips of one speaker lie
        together: groups of clips beyond `distance` (Ward's) are different speakers."""
        self.config.speaker_dims, self.config.speaker_distance = len(weight), distance
        self.ser_speakers = nn.Linear(weight.shape[1], len(weight), bias=False)
        self.ser_speakers.weight.data.copy_(weight)

    @torch.no_grad()
    def clip_means(self, clips: Iterable, feature_extractor) -> Iterator[torch.Tensor]:
        """The states `(layers, dim)` that the head reads of each clip `(samples,)`, averaged over frames."""
        least = describe_audio(self.config.audio_config).least
        for clip in clips:
            batch = extract(feature_extractor, [clip], least)
            inputs, mask = batch[self.main_input_name], batch["attention_mask"]
            states, real = self.encode_audio(inputs.to(self.device, self.dtype), mask.to(self.device))
            yield states[0][:, real[0]].double().mean(dim=1)

    @torch.no_grad()
    def adapt(self, clips: Iterable, feature_extractor: FeatureExtractionMixin) -> None:
        """From now on the model's clips are of one known speaker, whose mean is that of `clips`: ten or more of
        `(samples,)` at the feature extractor's rate, in various emotions. If all are angry, the anger is subtracted
        with the voice. ValueError: no clips, or a model without speaker normalisation."""
        if not self.config.speaker_norm:
            raise ValueError("this model was not trained with --speaker_norm: it has no use for a speaker's mean")
        means = list(self.clip_means(clips, feature_extractor))
        if not means:
            raise ValueError("no clips of the speaker")
        self.ser_scale.mean.copy_(torch.stack(means).mean(dim=0))

    def classify(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, labels)` from the output of `encode_audio`, in any floating point type."""
        config, states = self.config, states.to(self.ser_classifier.weight.dtype)
        if config.standardise:
            states = self.ser_scale(states)
        if config.layer_mix == "sum":
            frames = self.ser_layer_sum(states)
        else:
            frames = states.transpose(1, 2).flatten(2)  # (batch, frames, layers * dim)
        if config.head == "linear":
            frames = self.ser_projector(frames)
        pooled = frames[:, 0] if self.pools_audio else pool(frames, mask, config.pooling, self.ser_pool)
        if config.head == "mlp":
            pooled = self.ser_dropout(torch.tanh(self.ser_dense(self.ser_dropout(pooled))))
        return self.ser_classifier(pooled)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_states: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """`logits` `(batch, labels)` of clips, and with labels the `loss` of `classification_loss`.

        Args:
            input_values, input_features, attention_mask: Either input, and its mask, as `encode_audio` takes it.
            labels: `(batch,)` class indices, or `(batch, labels)` floats for multi-label and regression.
            audio_states, audio_mask: The output of `encode_audio`, instead of its input; with frozen layers that of
                `encode_frozen`.
            output_hidden_states, output_attentions: Whether to return the encoder's; default by the configuration.
        """
        hidden_states = attentions = None
        if audio_states is None:
            inputs = input_values if input_features is None else input_features
            if inputs is None:
                raise ValueError(f"no input: give {self.main_input_name}")
            wanted = wanted_outputs(self.config, output_hidden_states, output_attentions)
            out, real = self._encode(inputs, attention_mask, **wanted)
            audio_states, audio_mask = self._read(out, real)
            hidden_states = out.hidden_states if wanted["output_hidden_states"] else None
            attentions = out.attentions
        elif self._frozen_layers:
            out = encode_above(self.encoder, audio_states[:, 0], audio_mask, self._frozen_layers)
            audio_states, audio_mask = self._read(out, audio_mask)
        logits = self.classify(audio_states, audio_mask)
        loss = classification_loss(logits, labels, self.config.problem_type)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)


def trained_encoder(name_or_path: str, overrides: dict | None = None) -> tuple[PreTrainedModel, str]:
    """The encoder of a `SerForAudioClassification`, in float32, and the model's pooling. `overrides` change the
    encoder's configuration; ValueError: its weights do not fit it then."""
    trained = SerForAudioClassification.from_pretrained(name_or_path, dtype=torch.float32)
    encoder = trained.encoder
    if overrides:
        encoder.config.update(overrides)
        complete(encoder.config, every_layer=False)
        weights, encoder = encoder.state_dict(), new_encoder(encoder.config)
        try:
            left = encoder.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise ValueError(f"{name_or_path} with {overrides}: {error}") from None
        # masked_spec_embed as in `load_encoder`
        if missing := [key for key in left.missing_keys if not key.endswith("masked_spec_embed")]:
            raise ValueError(
                f"{name_or_path} with {overrides}: the encoder's weights {', '.join(missing[:4])} are missing"
            )
    return encoder, trained.config.pooling
