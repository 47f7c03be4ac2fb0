"""PSPNet on ResNet-101 (Zhao et al., *Pyramid Scene Parsing Network*, 2017).

Modules carry the names of the published weight files, but for the pyramid pooling, which is a part of the decoder here.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from models.config import LMANetConfig
from models.enlarging import EnlargingDecoder
from models.norms import BackboneNorm

STAGE_BLOCKS = (3, 4, 23, 3)  # ResNet-101
STAGE_WIDTHS = (64, 128, 256, 512)
STAGE_STRIDES = (1, 2, 1, 1)
STAGE_DILATIONS = (1, 1, 2, 4)  # of every 3x3 convolution of a stage, also of its first block
POOLING_BINS = (1, 2, 3, 6)
POOLED_CHANNELS = 512
HEAD_CHANNELS = 512

Norm = Callable[[int], nn.Module]  # makes the batch norm of so many channels


def stem(norm: Norm) -> nn.Sequential:
    """Three 3x3 convolutions and a max-pooling: B 3 H W -> B 128 H/4 W/4, rounded up."""
    layers: list[nn.Module] = []
    for channels_in, channels_out, stride in ((3, 64, 2), (64, 64, 1), (64, 128, 1)):
        conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        layers += [conv, norm(channels_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))


def stage(channels_in: int, width: int, blocks: int, stride: int, dilation: int, norm: Norm) -> nn.Sequential:
    """Bottlenecks with ``4 * width`` output channels; the stride is on the first one's 3x3 convolution."""
    channels_out = width * Bottleneck.expansion
    shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), norm(channels_out))
    first = Bottleneck(channels_in, width, stride, shortcut, dilation=dilation, norm_layer=norm)
    others = (Bottleneck(channels_out, width, dilation=dilation, norm_layer=norm) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


class Encoder(nn.Module):
    """B 3 H W, sides 8k + 1 -> B 2048 (H-1)/8+1 (W-1)/8+1."""

    def __init__(self, batch_norm: bool = True):
        super().__init__()
        norm = partial(BackboneNorm, applied=batch_norm)
        self.layer0 = stem(norm)
        widths_in = (128, *(width * Bottleneck.expansion for width in STAGE_WIDTHS[:-1]))
        plan = zip(widths_in, STAGE_WIDTHS, STAGE_BLOCKS, STAGE_STRIDES, STAGE_DILATIONS, strict=True)
        self.layer1, self.layer2, self.layer3, self.layer4 = (stage(*each, norm) for each in plan)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.layer0, self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x


class PyramidPooling(nn.Module):
    """The input and its averages over a few grids, side by side: B C h w -> B C+2048 h w."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(bins),
                nn.Conv2d(channels, POOLED_CHANNELS, 1, bias=False),
                norm(POOLED_CHANNELS),
                nn.ReLU(inplace=True),
            )
            for bins in POOLING_BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        pooled = [F.interpolate(grid(x), size, mode="bilinear", align_corners=True) for grid in self.features]
        return torch.cat([x, *pooled], dim=1)


class Decoder(EnlargingDecoder):
    """Pyramid pooling and head: B C h w -> logits B K H W, the last one, of the ignore index, constantly 0."""

    align_corners = True

    def __init__(self, channels: int, num_classes: int, batch_norm: bool = True):
        super().__init__()
        norm = partial(BackboneNorm, applied=batch_norm)
        self.ppm = PyramidPooling(channels, norm)
        self.cls = nn.Sequential(
            nn.Conv2d(channels + len(POOLING_BINS) * POOLED_CHANNELS, HEAD_CHANNELS, 3, padding=1, bias=False),
            norm(HEAD_CHANNELS),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(HEAD_CHANNELS, num_classes - 1, 1),
        )

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        logits = self.enlarged(self.cls(self.ppm(features)), size)
        return F.pad(logits, (0, 0, 0, 0, 0, 1))  # B K-1 H W -> B K H W


class PspNet101:
    """Makes PSPNet-101's two halves; with ``batch_norm=False`` its batch norms are held, but not applied."""

    def __init__(self, config: LMANetConfig):
        self.batch_norm = config.batch_norm

    def make_encoder(self) -> nn.Module:
        return Encoder(self.batch_norm)

    def make_decoder(self, channels: int, num_classes: int) -> nn.Module:
        return Decoder(channels, num_classes, self.batch_norm)
