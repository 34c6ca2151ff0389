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
        real = real_frames(x.shape[2], lengths).unsqueeze(1)  # (batch, 1, frames)
        if not self.training:
            return super().forward(x).masked_fill(~real, 0.0)
        frames = x.transpose(1, 2)  # (batch, frames, rows)
        normed = super().forward(frames[real.squeeze(1)])
        return torch.zeros_like(frames).masked_scatter(real.transpose(1, 2), normed.to(x.dtype)).transpose(1, 2)


class Layer(nn.Module):
    """Convolution, batch norm, ReLU, max-pooling, in one dimension or two; the last dimension is time."""

    def __init__(self, channels_in: int, channels: int, pooled: int | tuple[int, int]):
        super().__init__()
        flat = isinstance(pooled, int)
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if flat else (nn.Conv2d, nn.BatchNorm2d)
        self.pooled = (1, pooled) if flat else pooled  # rows, frames
        self.conv = conv(channels_in, channels, 5 if flat else 3, padding=2 if flat else 1, bias=False)
        self.norm = norm(channels)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = F.relu(self.norm(self.conv(x)))
        if self.pooled != (1, 1):
            if x.ndim == 3:  # max_pool1d would fix the number of frames in torch.export
                x = F.max_pool2d(x.unsqueeze(2), self.pooled).squeeze(2)
            else:
                x = F.max_pool2d(x, self.pooled)
            lengths = (
                lengths if lengths is None else lengths // self.pooled[1]
            )  # an odd last frame is dropped, as of a clip alone
        if lengths is not None:
            real = real_frames(x.shape[-1], lengths)
            x = x.masked_fill(~(real.unsqueeze(1) if x.ndim == 3 else real[:, None, None]), 0.0)
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
        # The direction from last to first would read padding before the clip: for it each clip moves to the end.
        places = torch.arange(x.shape[1], device=x.device)
        later = (places + lengths.unsqueeze(-1)) % x.shape[1]  # where a frame of the moved clip is from
        earlier = (places - lengths.unsqueeze(-1)) % x.shape[1]  # and where it goes back to
        moved = x.gather(1, later.unsqueeze(-1).expand_as(x))
        first, last = self.lstm(x)[0], self.lstm(moved)[0]
        width = self.lstm.hidden_size
        back = last[..., width:].gather(1, earlier.unsqueeze(-1).expand(-1, -1, width))
        return torch.cat([first[..., :width], back], dim=-1), lengths
