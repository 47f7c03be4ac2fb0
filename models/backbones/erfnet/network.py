"""ERFNet (Romera et al., *ERFNet: Efficient Residual Factorized ConvNet for Real-time Semantic Segmentation*, 2018).

Modules carry the names of the published weight files, so that these load as they are.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.config import LMANetConfig
from models.line_convolution import LineConvolution
from models.norms import BackboneNorm

BATCH_NORM_EPS = 1e-3
FEW_CHANNELS = 4
ENCODER_DILATIONS = (2, 4, 8, 16, 2, 4, 8, 16)


class Downsampler(nn.Module):
    """Halves the size: a stride-2 convolution beside a max-pooling, concatenated."""

    def __init__(self, channels_in: int, channels_out: int, batch_norm: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out - channels_in, 3, stride=2, padding=1)
        self.bn = BackboneNorm(channels_out, batch_norm, BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:  # B C H W -> B C' H/2 W/2
        return F.relu(self.bn(torch.cat([self.conv(x), F.max_pool2d(x, 2)], dim=1)), inplace=True)

    def folded(self) -> "FoldedDownsampler":
        """The same for inference, with less work."""
        return FoldedDownsampler(self)


class FoldedDownsampler(nn.Module):
    """A ``Downsampler`` in evaluation mode, whose batch norm is left on the pooled channels alone."""

    def __init__(self, block: Downsampler):
        super().__init__()
        made = block.conv.out_channels
        self.conv = block.conv
        if block.bn.applied:
            self.conv = fuse_conv_bn_eval(block.conv, _part_of(block.bn, slice(made)))
        self.bn = _part_of(block.bn, slice(made, None))

    def forward(self, x: Tensor) -> Tensor:  # B C H W -> B C' H/2 W/2
        # In channels-last frames max-pooling goes through the few channels of a pixel one by one; slices go in vectors.
        by_slices = self.conv.in_channels <= FEW_CHANNELS and not torch.compiler.is_exporting()
        pooled = _pooled_by_slices(x) if by_slices else F.max_pool2d(x, 2)
        return F.relu(torch.cat([self.conv(x), self.bn(pooled)], dim=1), inplace=True)


def _part_of(norm: BackboneNorm, channels: slice) -> BackboneNorm:
    """The norm of some of the channels."""
    part = BackboneNorm(len(norm.weight[channels]), norm.applied, norm.eps).to(norm.weight).eval().requires_grad_(False)
    part.load_state_dict({n: x[channels] if x.dim() else x for n, x in norm.state_dict().items()})
    return part


def _pooled_by_slices(x: Tensor) -> Tensor:
    """2x2 max-pooling for inference: where equal values meet, gradients differ from those of ``F.max_pool2d``."""
    rows = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class Upsampler(nn.Module):
    """Doubles the size by a transposed convolution."""

    def __init__(self, channels_in: int, channels_out: int, batch_norm: bool):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
        self.bn = BackboneNorm(channels_out, batch_norm, BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:  # B C H W -> B C' 2H 2W
        return F.relu(self.bn(self.conv(x)), inplace=True)


class NonBottleneck1D(nn.Module):
    """Residual block of two 3x3 convolutions, each factorized into 3x1 and 1x3; the second pair is dilated."""

    def __init__(self, channels: int, dilation: int, dropout: float, batch_norm: bool):
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = BackboneNorm(channels, batch_norm, BATCH_NORM_EPS)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.bn2 = BackboneNorm(channels, batch_norm, BATCH_NORM_EPS)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # B C H W -> B C H W
        y = F.relu(self.conv3x1_1(x), inplace=True)
        y = F.relu(self.bn1(self.conv1x3_1(y)), inplace=True)
        y = F.relu(self.conv3x1_2(y), inplace=True)
        y = self.bn2(self.conv1x3_2(y))
        return F.relu(self.dropout(y).add_(x), inplace=True)

    def folded(self) -> "FoldedNonBottleneck1D":
        """The same for inference, with less work."""
        return FoldedNonBottleneck1D(self)


class FoldedNonBottleneck1D(nn.Module):
    """A ``NonBottleneck1D`` in evaluation mode: four convolutions, each of which ends in a ReLU."""

    def __init__(self, block: NonBottleneck1D):
        super().__init__()
        first, second = block.conv1x3_1, block.conv1x3_2
        if block.bn1.applied:
            first, second = fuse_conv_bn_eval(first, block.bn1), fuse_conv_bn_eval(second, block.bn2)
        self.conv3x1_1, self.conv1x3_1 = LineConvolution(block.conv3x1_1, relu=True), LineConvolution(first, relu=True)
        self.conv3x1_2, self.conv1x3_2 = LineConvolution(block.conv3x1_2, relu=True), LineConvolution(second, relu=True)

    def forward(self, x: Tensor) -> Tensor:  # B C H W -> B C H W
        y = self.conv1x3_1(self.conv3x1_1(x))
        return self.conv1x3_2(self.conv3x1_2(y), added=x)


class Encoder(nn.Module):
    """B 3 H W, sides multiples of 8 -> B 128 H/8 W/8."""

    def __init__(self, batch_norm: bool = True):
        super().__init__()
        self.initial_block = Downsampler(3, 16, batch_norm)
        self.layers = nn.Sequential(
            Downsampler(16, 64, batch_norm),
            *(NonBottleneck1D(64, 1, 0.03, batch_norm) for _ in range(5)),
            Downsampler(64, 128, batch_norm),
            *(NonBottleneck1D(128, dilation, 0.3, batch_norm) for dilation in ENCODER_DILATIONS),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.initial_block(x))


class Decoder(nn.Module):
    """B C H/8 W/8 -> logits B K H W."""

    def __init__(self, channels: int, num_classes: int, batch_norm: bool = True):
        super().__init__()
        middle = channels // 2
        self.layers = nn.Sequential(
            Upsampler(channels, middle, batch_norm),
            *(NonBottleneck1D(middle, 1, 0.0, batch_norm) for _ in range(2)),
            Upsampler(middle, 16, batch_norm),
            *(NonBottleneck1D(16, 1, 0.0, batch_norm) for _ in range(2)),
        )
        self.output_conv = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.output_conv(self.layers(features))


class ErfNet:
    """Makes ERFNet's two halves; with ``batch_norm=False`` its batch norms are held, but not applied."""

    def __init__(self, config: LMANetConfig):
        self.batch_norm = config.batch_norm

    def make_encoder(self) -> nn.Module:
        return Encoder(self.batch_norm)

    def make_decoder(self, channels: int, num_classes: int) -> nn.Module:
        return Decoder(channels, num_classes, self.batch_norm)
