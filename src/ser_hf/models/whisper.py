"""Whisper's encoder on clips instead of 30 s of zeros, and its features. Ships to the Hub.

The stock encoder reads 3000 frames whatever the clip's length, and knows no mask: a clip of 4 s costs as much as one of
30 s. Here positions end where the clip ends, and padded frames take part in no convolution and no attention.
"""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BatchFeature, PreTrainedConfig, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .audio_blocks import check_trim_db, clips_at, one_clip, trimmed


class ClipWhisperEncoder(WhisperEncoder):
    """The weights of `WhisperEncoder`; without a mask, and for 3000 frames, it computes exactly what that does."""

    _supports_sdpa = True

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **_) -> "ClipWhisperEncoder":
        """As `AutoModel.from_config`: random weights."""
        return cls(config)

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        """Hidden states `(batch, ceil(frames / 2), dim)` of log-mel features `(batch, mels, frames)`.

        `attention_mask` is `(batch, frames)`, 1 = real; None when no clip is padded. In training with SpecAugment
        (`config.apply_spec_augment`) frames and mel bands are masked by zeros, as `WhisperModel` does. ValueError: more
        frames than there are positions (3000, 30 s).
        """
        frames, most = input_features.shape[-1], 2 * self.max_source_positions
        if frames > most:
            raise ValueError(f"{frames} frames: Whisper has positions for {most}; cut the clip into windows")
        if self.training and self.config.apply_spec_augment:
            input_features = self._masked(input_features, attention_mask)
        real = None if attention_mask is None else attention_mask.to(input_features.dtype).unsqueeze(1)
        values = F.gelu(self.conv1(input_features if real is None else input_features * real))
        values = F.gelu(self.conv2(values if real is None else values * real)).permute(0, 2, 1)
        hidden = values + self.embed_positions.weight[: values.shape[1]]
        hidden = F.dropout(hidden, p=self.dropout, training=self.training)
        # Frame i is made of the input frames around 2i: it is real where that one is.
        mask = None if attention_mask is None else attention_mask[:, ::2]
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=mask)
        for layer in self.layers:
            # Read here, not when the encoder was made: a layer mix sets it to 0.
            drop = self.config.encoder_layerdrop if self.training else 0.0
            if not drop or torch.rand([]) >= drop:
                hidden = layer(hidden, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))

    def _masked(self, features: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        (batch, bands, frames), config, device = features.shape, self.config, features.device
        if config.mask_time_prob > 0 and frames > config.mask_time_length:
            size = config.mask_time_prob, config.mask_time_length, attention_mask, config.mask_time_min_masks
            masked = torch.from_numpy(_compute_mask_indices((batch, frames), *size)).to(device)
            features = features.masked_fill(masked.unsqueeze(1), 0.0)
        if config.mask_feature_prob > 0:
            size = config.mask_feature_prob, config.mask_feature_length, None, config.mask_feature_min_masks
            masked = torch.from_numpy(_compute_mask_indices((batch, bands), *size)).to(device)
            features = features.masked_fill(masked.unsqueeze(2), 0.0)
        return features


class ClipWhisperFeatureExtractor(WhisperFeatureExtractor):
    """The log-mel features of the stock extractor, cut to the clip: `(batch, mels, frames)` of 10 ms, where the stock
    one gives 30 s of them. A frame belongs to the clip if its centre does.

    Args:
        trim_db: Trim silence at both ends, this many dB below the loudest (`audio_blocks.trim`); None keeps it.
        kwargs: The stock extractor's.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(self, trim_db: float | None = None, **kwargs):
        check_trim_db(trim_db)
        super().__init__(**kwargs)
        self.trim_db = trim_db

    def log_mel(self, clip: np.ndarray) -> np.ndarray:
        """`(mels, frames)` of one clip `(samples,)`, at least one frame. ValueError if it is empty or no mono clip."""
        samples = trimmed(one_clip(clip), self.sampling_rate, self.trim_db)
        frames = -(-len(samples) // self.hop_length)
        # Zeros follow, as in 30 s, over all frames that the clip takes part in: the loudest may be any of them.
        zeros = (frames + 1) * self.hop_length + self.n_fft - len(samples)
        features = self._torch_extract_fbank_features(np.pad(samples, (0, zeros)))
        return features[:, :frames]

    def pad(self, processed_features, *args, return_tensors: str | None = None, **kwargs) -> BatchFeature:
        """As in transformers, over time: `input_features` are `(mels, frames)` before and after it."""
        if not isinstance(processed_features, dict | BatchFeature):
            names = processed_features[0].keys()
            processed_features = {name: [one[name] for one in processed_features] for name in names}
        frames = [np.asarray(values).T for values in processed_features["input_features"]]
        batch = super().pad({**processed_features, "input_features": frames}, *args, return_tensors="np", **kwargs)
        batch["input_features"] = np.ascontiguousarray(batch["input_features"].transpose(0, 2, 1))
        return batch.convert_to_tensors(return_tensors or "np")

    def __call__(
        self,
        clips,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """`input_features` `(batch, mels, frames)` of one clip or several, and `attention_mask` `(batch, frames)`,
        1 = real: always if `return_attention_mask`, never if False, and if None where a clip is padded.

        Args:
            clips: `(samples,)`, or a list of such or `(batch, samples)`, at `sampling_rate` Hz.
            padding: True or `longest`: zeros after shorter clips. False: all must have equally many frames.
                `max_length`: zeros after all, to this length.
            max_length, truncation: In samples, as the stock extractor's; frames after it are left out if `truncation`.
        """
        clips = clips_at(clips, sampling_rate, self.sampling_rate)
        features = [self.log_mel(clip) for clip in clips]
        if padding in (False, "do_not_pad") and len({values.shape[1] for values in features}) > 1:
            raise ValueError("clips of unequal lengths: give padding=True")
        frames = None if max_length is None else -(-max_length // self.hop_length)
        batch = self.pad({"input_features": features}, padding, frames, truncation, return_attention_mask=True)
        if return_attention_mask is False or (return_attention_mask is None and batch["attention_mask"].all()):
            del batch["attention_mask"]
        return batch.convert_to_tensors(return_tensors or "np")
