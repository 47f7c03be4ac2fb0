"""Class indices of logits, enlarged on the way.

Enlarging the logits to the size of a frame, and looking for the largest, takes longer than a small network. A kernel in
C++ does both at once, on the CPU, without writing the enlarged logits to memory.
"""

import functools

import torch
from torch import Tensor

from models.enlarging import enlarged
from models.local_attention.cpu import labels_of_logits
from models.local_attention.cpu_build import built

MOST_CLASSES = 256  # of labels of 8 bits


def labels_of(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """The index of the largest of ``1 K h w`` enlarged logits, uint8 ``H W``.

    Where logits are enlarged on the CPU, rounding may decide between two that are equal to the last bits.
    """
    return checked_labels(logits, size, align_corners)[0]


def checked_labels(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> tuple[Tensor, Tensor]:
    """``labels_of`` logits, and whether all logits are finite, one element, both on their device."""
    if _why_not(logits, size) is not None:
        return enlarged(logits, size, align_corners)[0].argmax(0).to(torch.uint8), all_finite(logits)
    rows, columns = (_between(*sides, align_corners) for sides in zip(logits.shape[-2:], size, strict=True))
    return labels_of_logits(logits, size, rows, columns)


def all_finite(scores: Tensor) -> Tensor:
    """Whether all numbers of a tensor are finite, one element; in one pass and without memory of its size."""
    # As they lie in memory: along strides it takes 40 times as long.
    in_memory = scores.detach().permute(sorted(range(scores.ndim), key=scores.stride, reverse=True))
    return torch.stack(torch.aminmax(in_memory)).isfinite().all()


def _why_not(logits: Tensor, size: tuple[int, int]) -> str | None:
    """Why the kernel cannot serve, as a phrase."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return f"it takes float32 on the CPU, found {logits.dtype} on {logits.device}"
    if logits.shape[0] != 1 or logits.shape[1] > MOST_CLASSES:
        return f"it takes one frame with up to {MOST_CLASSES} classes, found {tuple(logits.shape)}"
    if any(there < here for here, there in zip(logits.shape[-2:], size, strict=True)):
        return f"it enlarges, found {tuple(logits.shape)} and {size}"
    return built().problem


@functools.lru_cache(maxsize=8)
def _between(here: int, there: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """For each of ``there`` positions the first of the two of ``here`` that it lies between, and the other's weight.

    Computed in float32, as PyTorch does.
    """
    with torch.inference_mode(False):
        at = torch.arange(there, dtype=torch.float32)
        if align_corners:
            at = at * torch.tensor((here - 1) / max(1, there - 1), dtype=torch.float32)
        else:
            at = (torch.tensor(here / there, dtype=torch.float32) * (at + 0.5) - 0.5).clamp(min=0)
        first = at.to(torch.int32).clamp(max=here - 1)
        return first, at - first
