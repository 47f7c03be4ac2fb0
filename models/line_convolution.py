"""Convolutions of three taps along one axis, for inference on a CPU: in half the products, with what follows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.local_attention import cpu

# Winograd's F(4, 3): what a filter of three taps is at the points 0, a, -a, 2a, -2a and infinity (Lavin & Gray, Fast
# Algorithms for Convolutional Neural Networks, 2016, section 4.3, where a is 1). 3/4 rounds less: in bfloat16 the error
# is two thirds of that with 1.
POINT = 3 / 4
AT_POINTS = [
    [1 / 4 / POINT**4, 0, 0],
    [-1 / 6 / POINT**4, -1 / 6 / POINT**3, -1 / 6 / POINT**2],
    [-1 / 6 / POINT**4, 1 / 6 / POINT**3, -1 / 6 / POINT**2],
    [1 / 24 / POINT**4, 1 / 12 / POINT**3, 1 / 6 / POINT**2],
    [1 / 24 / POINT**4, -1 / 12 / POINT**3, 1 / 6 / POINT**2],
    [0, 0, 1],
]

# The same of F(2, 3), across, with the points 0, 1, -1 and infinity.
AT_POINTS_ACROSS = [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]

LEAST_CHANNELS = 96  # made: less would be mostly padding
MOST_BYTES = 6 << 20  # of the weights at the points: 24 for 9 taps


class LineConvolution(nn.Module):
    """A convolution of 3x1, 1x3 or 3x3 taps that keeps the size, its sum with another tensor, and with ``relu`` the
    ReLU of that: ``B C h w`` -> ``B D h w``.

    In float32 on a CPU, without gradients, the compiled library computes it, channels-last; elsewhere PyTorch does.
    With ``in_bfloat16``, and under autocast to bfloat16, numbers are rounded to that before they are multiplied, where
    the processor does so (``cpu.why_not_bfloat16``); sums and results stay float32.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False):
        super().__init__()
        self.conv, self.relu = conv, relu
        self.in_bfloat16 = False
        self._filters: dict[torch.dtype, cpu.Filter] = {}  # made at the first call, as the library is

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        factors = self.factors(x)
        if factors is not None:
            return self._fast(x.float(), None if added is None else added.float(), factors)
        y = self.conv(x)
        if added is not None:
            y = y.add_(added)
        return F.relu(y, inplace=True) if self.relu else y

    def fits_library(self) -> bool:
        """Whether there is a library, and it takes this number of channels."""
        block = cpu.line_block()
        return block > 0 and self.conv.in_channels % block == 0

    def factors(self, x: Tensor) -> torch.dtype | None:
        """What the library multiplies; ``None`` where PyTorch computes."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        if x.device.type != "cpu" or self.conv.weight.dtype != torch.float32:
            return None
        if not self.fits_library():
            return None
        if torch.is_autocast_enabled("cpu"):
            is_fast = torch.get_autocast_dtype("cpu") == torch.bfloat16 and cpu.why_not_bfloat16() is None
            return torch.bfloat16 if is_fast else None
        if x.dtype != torch.float32:
            return None
        return torch.bfloat16 if self.in_bfloat16 and cpu.why_not_bfloat16() is None else torch.float32

    def _fast(self, x: Tensor, added: Tensor | None, factors: torch.dtype) -> Tensor:
        along_rows, made = self.conv.kernel_size[1] == 3, self.conv.out_channels
        weight, bias = self.filter(factors)
        if added is not None and len(bias) > made:
            added = F.pad(added, (0, 0, 0, 0, 0, len(bias) - made))
        found = cpu.line_convolution(x, weight, bias, added, self.conv.dilation[along_rows], along_rows, self.relu)
        return found if found.shape[1] == made else found[:, :made]

    def filter(self, factors: torch.dtype) -> cpu.Filter:
        """The filter at the points and its bias, with as many channels as the library makes; kept for the next call."""
        if factors not in self._filters:
            conv, padding = self.conv, -self.conv.out_channels % cpu.line_lanes()
            assert conv.bias is not None
            along_last = conv.weight if conv.kernel_size[1] == 3 else conv.weight.transpose(2, 3)
            there = at_points(F.pad(along_last, (0, 0) * 3 + (0, padding)), cpu.line_block(), factors)
            self._filters[factors] = there, F.pad(conv.bias, (0, padding))
        return self._filters[factors]


def filters_of(x: Tensor, *convolutions: nn.Module) -> list[cpu.Filter] | None:
    """The filters of convolutions of 3x3 taps, if the library computes all of them, of blocks of channels alone, where
    ``x`` is what they read; otherwise ``None``."""
    lines = [each for each in convolutions if isinstance(each, LineConvolution)]
    factors = {each.factors(x) for each in lines}
    if len(lines) < len(convolutions) or len(factors) > 1:
        return None
    (factor,) = factors
    if factor is None or any(each.conv.out_channels % cpu.line_block() for each in lines):
        return None
    return [each.filter(factor) for each in lines]


def at_points(weight: Tensor, block: int, factors: torch.dtype = torch.float32) -> Tensor:
    """A filter ``O I taps 3`` at each point, in the order of the library: points, blocks of O, I, O in a block; in
    bfloat16 pairs of I are last. All but the points are one dimension, as the last block may be smaller.

    There are 6 points, for three taps across 24: 6 along and 4 across.
    """
    along = torch.tensor(AT_POINTS, dtype=torch.float64)
    across = torch.tensor(AT_POINTS_ACROSS if weight.shape[2] == 3 else [[1]], dtype=torch.float64)
    there = torch.einsum("pt,qa,oiat->pqio", along, across, weight.double()).flatten(0, 1)
    blocks = there.split(block, dim=2)  # points, I, O in a block
    if factors == torch.bfloat16:
        blocks = [each.unflatten(1, (-1, 2)).transpose(2, 3) for each in blocks]
    return torch.cat([each.flatten(1) for each in blocks], dim=1).to(factors)


def takes(conv: nn.Module) -> bool:
    """Whether a module is a 3x3 convolution that gains from it: neither few channels nor more weights than a cache."""
    if type(conv) is not nn.Conv2d or conv.bias is None or conv.groups > 1 or conv.padding_mode != "zeros":
        return False
    plain = conv.kernel_size == (3, 3) and conv.padding == (1, 1) == conv.stride == conv.dilation
    return plain and conv.out_channels >= LEAST_CHANNELS and 4 * 24 / 9 * conv.weight.numel() <= MOST_BYTES
