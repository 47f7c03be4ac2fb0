"""Frames of dry runs: those that a network takes, and the strides of what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cut.halves import Gap
from models.cut.structure import logits_of
from utils.errors import OptionError

Size = tuple[int, int]


def random_frame(size: Size, batch: int = 1) -> Tensor:
    """Frames ``B 3 H W`` of uniform noise."""
    return torch.rand(batch, 3, *size)


def sizes_taken(network: nn.Module, sizes: Sequence[Size]) -> Iterator[Size]:
    """Those of some sizes of frames on which the network runs, one or more.

    Raises ``OptionError`` with the reason where there is none.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels in (1, 2, 4):
        channels = f"{first.in_channels} channel{'s' if first.in_channels > 1 else ''}"
        raise OptionError(
            f"{type(network).__name__} takes frames of {channels}, by its first convolution: expected 3, RGB"
        )
    reasons: dict[Size, str] = {}
    candidates = dict.fromkeys(sizes)
    for size in candidates:
        try:
            with torch.no_grad():
                logits_of(network(random_frame(size)))
            yield size
        except OptionError:
            raise
        except Exception as error:  # whatever the network raises
            reasons[size] = f"{type(error).__name__}: {line_of(error)}"
    if len(reasons) < len(candidates):
        return
    (height, width), reason = next(iter(reasons.items()))
    kept = any(module._forward_hooks for module in network.modules())
    why = "; a copy of it has no forward hooks of its own: expected features that modules return" if kept else ""
    raise OptionError(f"{type(network).__name__} does not run on frames, such as {height} x {width} x 3: {reason}{why}")


def line_of(error: BaseException) -> str:
    """The message of an error in one line, cut off where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]} ..."


def size_of(frame: Tensor) -> Size:
    """Height and width of a frame."""
    return frame.shape[-2], frame.shape[-1]


def resized(logits: Tensor, frame: Tensor) -> Tensor:
    """Logits of the frame's size."""
    if logits.shape[-2:] == frame.shape[-2:]:
        return logits
    return F.interpolate(logits, frame.shape[-2:], mode="bilinear", align_corners=False)


def stride_of(level: Tensor, frame: Tensor) -> int | None:
    """The stride of features ``B C h w``, with sides rounded up; ``None`` for a tensor that is none."""
    return _map_stride(level, frame) if level.is_floating_point() and level.numel() else None


def _map_stride(level: Tensor, frame: Tensor) -> int | None:
    """The stride of a tensor of the shape of features, whatever its numbers are; ``None`` for another shape."""
    if level.dim() != 4 or level.shape[0] != frame.shape[0]:
        return None
    stride = round(frame.shape[-2] / max(1, level.shape[-2]))
    return stride if stride >= 1 and level.shape[-2:] == sides_at(frame, stride) else None


def sides_at(frame: Tensor, stride: int) -> Size:
    """Height and width of features at a stride, rounded up."""
    height, width = frame.shape[-2:]
    return -(-height // stride), -(-width // stride)


def gap_of(level: Tensor, frame: Tensor) -> Gap | None:
    """What stands for a tensor that the decoder does not use; ``None`` where it has no shape of features."""
    stride = _map_stride(level, frame)
    return None if stride is None else Gap(level.shape[1], stride)
