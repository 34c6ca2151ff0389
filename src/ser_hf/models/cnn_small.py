"""Small convolutional networks over features, for clips of any length. Ships to the Hub.

After every layer the frames after a clip's end are set to zero, because convolutions read zeros there when the clip is
alone: in evaluation the output for a clip is the same alone and in a padded batch.
"""

import torch
import torch.nn.functional as F
from torch import nn

# Layers as (channels, max-pooling after it): kernels of 5 in one dimension, of 3 by 3 in two.
LAYERS_1D = {
    "cnn1d_3": ((128, 2), (128, 2), (256, 1)),
    "cnn1d_5": ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1)),
    "cnn1d_8": ((64, 1), (64, 2), (128, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1)),
}
LAYERS_2D = {
    "cnn2d_2": ((32, (4, 2)), (64, (4, 2))),
    "cnn2d_6": ((16, (2, 2)), (32, (2, 2)), (64, (2, 2)), (64, (1, 1)), (128, (2, 1)), (128, (1, 1))),
    "cnn_lstm": ((32, (2, 2)), (64, (2, 2)), (64, (2, 1))),
    "cnn_lstm_attention": ((32, (2, 2)), (64, (2, 2)), (64, (2, 1))),
}


def real_frames(frames: int, lengths: torch.Tensor) -> torch.Tensor:
    """`(batch, frames)`, True where the frame belongs to the clip."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(-1)


class InputNorm(nn.BatchNorm1d):
    """Batch norm of every row of `(batch, rows, frames)`; only real frames are counted, the others become zero."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if lengths is None:
            return super().forward(x)
        real = real_frames(x.shape[2], lengths)
        out = torch.zeros_like(x.transpose(1, 2))  # (batch, frames, rows)
        out[real] = super().forward(x.transpose(1, 2)[real]).to(out.dtype)
        return out.transpose(1, 2)


class Layer(nn.Module):
    """Convolution, batch norm, ReLU, max-pooling, in one dimension or two; the last dimension is time."""

    def __init__(self, channels_in: int, channels: int, pooled):
        super().__init__()
        flat = isinstance(pooled, int)
        kinds = (nn.Conv1d, nn.BatchNorm1d, F.max_pool1d) if flat else (nn.Conv2d, nn.BatchNorm2d, F.max_pool2d)
        conv, norm, self.pool = kinds
        self.pooled = pooled
        self.conv = conv(channels_in, channels, 5 if flat else 3, padding="same", bias=False)
        self.norm = norm(channels)

    def forward(self, x, lengths):
        x = F.relu(self.norm(self.conv(x)))
        if self.pooled not in (1, (1, 1)):
            x = self.pool(x, self.pooled)
            by = self.pooled if isinstance(self.pooled, int) else self.pooled[1]
            lengths = lengths if lengths is None else lengths // by  # an odd last frame is dropped, as in a clip alone
        if lengths is not None:
            real = real_frames(x.shape[-1], lengths)
            x = x * real.view(len(x), *[1] * (x.ndim - 2), x.shape[-1]).to(x.dtype)
        return x, lengths


class SmallCnn(nn.Module):
    """The architectures of `LAYERS_1D` and `LAYERS_2D`.

    Input `(batch, channels, frames)` or `(batch, 1, rows, frames)`, at least `least` frames (and rows); output
    `(batch, frames, width)` and the clips' lengths in these frames. In two dimensions `cnn2d_6` takes the mean over
    the remaining rows; `cnn2d_2` projects them to 256; the others feed them to a bidirectional LSTM of 2 * 128.
    """

    def __init__(self, arch: str, rows: int):
        super().__init__()
        self.flat = arch in LAYERS_1D
        self.layers, channels_in, self.least, self.least_rows = nn.ModuleList(), rows if self.flat else 1, 1, 1
        for channels, pooled in (LAYERS_1D | LAYERS_2D)[arch]:
            self.layers.append(Layer(channels_in, channels, pooled))
            channels_in = channels
            self.least *= pooled if self.flat else pooled[1]
            self.least_rows *= 1 if self.flat else pooled[0]
        read = channels_in * max(1, rows // self.least_rows)
        self.project = nn.Linear(read, 256) if arch == "cnn2d_2" else None
        self.lstm = nn.LSTM(read, 128, batch_first=True, bidirectional=True) if arch.startswith("cnn_lstm") else None

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None):
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        if self.flat:
            return x.transpose(1, 2), lengths
        if self.project is None and self.lstm is None:
            return x.mean(dim=2).transpose(1, 2), lengths
        x = x.flatten(1, 2).transpose(1, 2)  # (batch, frames, channels * rows)
        if self.project is not None:
            return F.relu(self.project(x)), lengths
        if lengths is None:
            return self.lstm(x)[0], None
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return x, lengths
