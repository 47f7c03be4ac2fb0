"""Convolutions of three taps along one axis, for inference on a CPU: in half the products, with what follows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.local_attention import cpu

# Winograd's F(4, 3) with the points 0, 1, -1, 2, -2 and infinity: what a filter of three taps is at them (Lavin & Gray,
# Fast Algorithms for Convolutional Neural Networks, 2016, section 4.3).
AT_POINTS = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]

LEAST_CHANNELS = 96  # made: less would be mostly padding
MOST_BYTES = 4 << 20  # of the weights at the points: twice as many as taps


class LineConvolution(nn.Module):
    """A convolution of 3x1, 1x3 or 3x3 taps that keeps the size, its sum with another tensor, and with ``relu`` the
    ReLU of that: ``B C h w`` -> ``B D h w``.

    In float32 on a CPU, without gradients, the compiled library computes it, channels-last; elsewhere PyTorch does.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False):
        super().__init__()
        self.conv, self.relu = conv, relu
        self._at_points: Tensor | None = None  # made at the first call, as the library is

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if self._is_fast(x):
            return self._fast(x, added)
        y = self.conv(x)
        if added is not None:
            y = y.add_(added)
        return F.relu(y, inplace=True) if self.relu else y

    def _is_fast(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return False
        if x.device.type != "cpu" or not x.dtype == self.conv.weight.dtype == torch.float32:
            return False
        block = cpu.line_block()
        return block > 0 and self.conv.in_channels % block == 0

    def _fast(self, x: Tensor, added: Tensor | None) -> Tensor:
        conv = self.conv
        along_rows, made = conv.kernel_size[1] == 3, conv.out_channels
        if self._at_points is None:
            assert conv.bias is not None
            padding = -made % cpu.line_block()
            along_last = conv.weight if along_rows else conv.weight.transpose(2, 3)
            self._at_points = at_points(F.pad(along_last, (0, 0) * 3 + (0, padding)), cpu.line_block())
            self._bias = F.pad(conv.bias, (0, padding))
        dilation = conv.dilation[along_rows]
        found = cpu.line_convolution(x, self._at_points, self._bias, added, dilation, along_rows, self.relu)
        return found if found.shape[1] == made else found[:, :made]


def at_points(weight: Tensor, block: int) -> Tensor:
    """A filter ``O I taps 3`` at each point, in the order of the library: 6, blocks of O, taps and I, O in a block."""
    there = torch.einsum("pt,oiat->paio", torch.tensor(AT_POINTS, dtype=torch.float64), weight.double())
    points, taps, read, made = there.shape
    there = there.reshape(points, taps * read, made // block, block).transpose(1, 2)
    return there.float().contiguous()


def takes(conv: nn.Module) -> bool:
    """Whether a module is a 3x3 convolution that gains from it: neither few channels nor more weights than a cache."""
    if type(conv) is not nn.Conv2d or conv.bias is None or conv.groups > 1 or conv.padding_mode != "zeros":
        return False
    plain = conv.kernel_size == (3, 3) and conv.padding == (1, 1) == conv.stride == conv.dilation
    return plain and conv.out_channels >= LEAST_CHANNELS and 8 * conv.weight.numel() <= MOST_BYTES
