"""Attention without the neighbors outside of the frame, by an attention in which they take part with score 0."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def inside_the_frame(attend: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """``attend`` on values ``B D T h w`` -> ``B D h w``, with neighbors outside of the frame masked; without a sink."""
    # A channel of ones is read as the sum of the weights inside of the frame, by which the others are renormalized.
    read = attend(F.pad(values, (0, 0, 0, 0, 0, 0, 0, 1), value=1.0))  # B D+1 h w
    return read[:, :-1] / read[:, -1:].clamp(min=torch.finfo(read.dtype).tiny)
