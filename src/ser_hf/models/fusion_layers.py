"""The trained parts of a fusion model between its encoders and its classifier. Ships to the Hub."""

import torch
from torch import nn

from .pooling import POOLINGS, TEXT_POOLINGS, LayerSum, pool


class Modality(nn.Module):
    """Hidden states of one modality, prepared for fusion: learned sum of the layers, pooling, norm (encoders differ in
    scale by orders of magnitude), and a learned vector where the modality is missing (first zeros, the norm's mean).

    `pooling` is one that cannot be done before (learned, or not linear after a layer sum); None for hidden states that
    are pooled already or stay a sequence.
    """

    def __init__(self, layers: int, dim: int, pooling: str | None):
        super().__init__()
        self.pooling = pooling
        self.layers = LayerSum(layers) if layers > 1 else None
        kind = (POOLINGS | TEXT_POOLINGS).get(pooling)
        self.scores = None if kind is None or kind.parameters is None else kind.parameters(dim)
        self.width = dim if kind is None else dim * kind.width
        self.norm = nn.LayerNorm(self.width)
        self.missing = nn.Parameter(torch.zeros(self.width))

    def forward(self, states: torch.Tensor, mask: torch.Tensor, present: torch.Tensor):
        """States `(batch, layers, frames, dim)` to frames `(batch, frames, width)` and their mask, with a True in each
        row: one frame where this pools or the modality is missing.

        `mask` is `(batch, frames)`, True = real frame; `present` `(batch,)`, False = missing, overrides it.
        """
        frames = states[:, 0] if self.layers is None else self.layers(states)  # (batch, frames, dim)
        absent = ~present.unsqueeze(-1)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        mask = (mask & ~absent) | (first & absent)
        if self.pooling is not None:
            frames = pool(frames, mask, self.pooling, self.scores).unsqueeze(1)
            mask = torch.ones_like(mask[:, :1])
        return torch.where(absent.unsqueeze(-1), self.missing.to(frames), self.norm(frames)), mask


class Concat(nn.Module):
    """Both vectors side by side through one layer, the reference system's fusion."""

    def __init__(self, audio: int, text: int, size: int):
        super().__init__()
        self.dense = nn.Linear(audio + text, size)
        self.width = size

    def forward(
        self, audio: torch.Tensor, audio_mask: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> torch.Tensor:
        """One frame each, `(batch, 1, audio)` and `(batch, 1, text)`, to `(batch, size)`."""
        return torch.tanh(self.dense(torch.cat([audio[:, 0], text[:, 0]], dim=-1)))


class Gated(nn.Module):
    """A Gated Multimodal Unit (Arevalo et al. 2017, eq. 4): a weight between audio and text, learned from both."""

    def __init__(self, audio: int, text: int, size: int):
        super().__init__()
        self.audio, self.text = nn.Linear(audio, size), nn.Linear(text, size)
        self.gate = nn.Linear(audio + text, size)
        self.width = size

    def forward(
        self, audio: torch.Tensor, audio_mask: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> torch.Tensor:
        """One frame each, `(batch, 1, audio)` and `(batch, 1, text)`, to `(batch, size)`."""
        audio, text = audio[:, 0], text[:, 0]
        weight = torch.sigmoid(self.gate(torch.cat([audio, text], dim=-1)))
        return weight * torch.tanh(self.audio(audio)) + (1 - weight) * torch.tanh(self.text(text))


class CrossAttention(nn.Module):
    """Frames attend to tokens and tokens to frames, one block each way with residual and norm, then the mean of each.

    A missing modality is one learned frame, to which everything attends.
    """

    def __init__(self, audio: int, text: int, size: int, heads: int):
        super().__init__()
        self.audio, self.text = nn.Linear(audio, size), nn.Linear(text, size)
        self.to_text = nn.MultiheadAttention(size, heads, batch_first=True)
        self.to_audio = nn.MultiheadAttention(size, heads, batch_first=True)
        self.audio_norm, self.text_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.width = 2 * size

    def forward(
        self, audio: torch.Tensor, audio_mask: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> torch.Tensor:
        """`(batch, frames, audio)` and `(batch, tokens, text)` with masks, True = real, to `(batch, 2 * size)`."""
        audio, text = self.audio(audio), self.text(text)
        from_text = self.to_text(audio, text, text, key_padding_mask=~text_mask, need_weights=False)[0]
        from_audio = self.to_audio(text, audio, audio, key_padding_mask=~audio_mask, need_weights=False)[0]
        audio, text = self.audio_norm(audio + from_text), self.text_norm(text + from_audio)
        return torch.cat([pool(audio, audio_mask, "mean"), pool(text, text_mask, "mean")], dim=-1)
