"""AlexNet, ResNet-50, ResNeXt-50 and DenseNet-201 with torchvision's layout and names, so that its weights load.
Written here because remote code must load without torchvision. Ships to the Hub.

Each module's `forward` maps `(batch, in_channels, rows, frames)` to the feature map `(batch, channels, rows, frames)`;
the classifier exists only with `num_classes`.
"""

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class AlexNet(nn.Module):
    """Krizhevsky 2014 ("one weird trick"), as torchvision.models.alexnet."""

    def __init__(self, in_channels: int = 1, num_classes: int | None = None):
        super().__init__()
        layers = [nn.Conv2d(in_channels, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
        channels_in = 64
        for channels, kernel, pooled in ((192, 5, True), (384, 3, False), (256, 3, False), (256, 3, True)):
            layers += [nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if pooled else []
            channels_in = channels
        self.features = nn.Sequential(*layers)
        dense = [nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(inplace=True)]
        dense += [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True)]
        self.classifier = nn.Sequential(*dense, *([] if num_classes is None else [nn.Linear(4096, num_classes)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)

    def vectors(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Feature maps to `(batch, 4096)`; only a clip's real frames are averaged to AlexNet's six by six."""
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[3], device=x.device)
        rows = sixths(torch.full_like(lengths, x.shape[2]), x.shape[2]).to(x.dtype)
        maps = torch.einsum("bcrf,bir,bjf->bcij", x, rows, sixths(lengths, x.shape[3]).to(x.dtype))
        return self.classifier(maps.flatten(1))


def sixths(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """The weights `(batch, 6, size)` of adaptive average pooling of the first `lengths` `(batch,)` places to six.

    >>> sixths(torch.tensor([3, 4]), 4)[:, :2]
    tensor([[[1.0000, 0.0000, 0.0000, 0.0000],
             [1.0000, 0.0000, 0.0000, 0.0000]],
    <BLANKLINE>
            [[1.0000, 0.0000, 0.0000, 0.0000],
             [0.5000, 0.5000, 0.0000, 0.0000]]])
    """
    number, place = torch.arange(6, device=lengths.device), torch.arange(size, device=lengths.device)
    lengths = lengths.unsqueeze(-1)
    first, end = lengths * number // 6, (lengths * (number + 1) + 5) // 6  # (batch, 6)
    inside = (place >= first.unsqueeze(-1)) & (place < end.unsqueeze(-1))
    return inside / (end - first).unsqueeze(-1)


class Bottleneck(nn.Module):
    def __init__(self, channels_in: int, width: int, channels: int, stride: int, groups: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1 or channels_in != channels:
            conv = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet-50 (He et al. 2016; the stride is in the 3 by 3 convolution); with `groups=32, base=4` ResNeXt-50 32x4d
    (Xie et al. 2017)."""

    def __init__(self, in_channels: int = 1, num_classes: int | None = None, groups: int = 1, base: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels_in = 64
        for number, (depth, planes) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
            width, blocks = planes * base // 64 * groups, []
            for block in range(depth):
                stride = 2 if number > 1 and block == 0 else 1
                blocks.append(Bottleneck(channels_in, width, planes * 4, stride, groups))
                channels_in = planes * 4
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        if num_classes is not None:
            self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class DenseLayer(nn.Module):
    def __init__(self, channels_in: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels_in), nn.Conv2d(channels_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, out], dim=1)


def transition(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
    layers = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True), "conv": conv, "pool": nn.AvgPool2d(2)}
    return nn.Sequential(OrderedDict(layers))


class DenseNet(nn.Module):
    """DenseNet-201 (Huang et al. 2017): growth 32, blocks of 6, 12, 48 and 32 layers."""

    def __init__(self, in_channels: int = 1, num_classes: int | None = None):
        super().__init__()
        modules = {"conv0": nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False), "norm0": nn.BatchNorm2d(64)}
        modules |= {"relu0": nn.ReLU(inplace=True), "pool0": nn.MaxPool2d(3, 2, padding=1)}
        channels = 64
        for number, depth in enumerate((6, 12, 48, 32), start=1):
            layers = {f"denselayer{layer + 1}": DenseLayer(channels + 32 * layer, 32) for layer in range(depth)}
            modules[f"denseblock{number}"] = nn.Sequential(OrderedDict(layers))
            channels += 32 * depth
            if number < 4:
                modules[f"transition{number}"] = transition(channels)
                channels //= 2
        self.features = nn.Sequential(OrderedDict(modules, norm5=nn.BatchNorm2d(channels)))
        if num_classes is not None:
            self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.features(x))


IMAGE_NETWORKS = {
    "alexnet": AlexNet,
    "resnet50": ResNet,
    "resnext50": partial(ResNet, groups=32, base=4),
    "densenet201": DenseNet,
}
