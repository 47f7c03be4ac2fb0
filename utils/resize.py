"""Frames and labels at another size.

Labels are resized by nearest neighbor in two ways, which differ where a pixel's center falls on the border of two:
exactly, as networks' predictions are, and as Pillow does, as labels from files are.
"""

from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Labels = TypeVar("Labels", np.ndarray, Tensor)


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes frames, uint8 ``B 3 H W``, to ``size = (H, W)`` as Pillow's BILINEAR filter does, within one gray level.

    Frames of that size already are returned as they are.
    """
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return F.interpolate(frames, size=tuple(size), mode="bilinear", antialias=True)


def resize_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Resizes label maps ``... H W`` to ``size = (H, W)``: each pixel's label is the one that its center falls on.

    On a border of two that is the later one. Labels of that size already are returned as they are.
    """
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    # Columns first: where labels are enlarged, that is the smaller of the two steps.
    if isinstance(labels, Tensor):
        # Indices are made on the device: copied there, a GPU would be waited for.
        rows_there, columns_there = (
            _nearest(torch.arange(wanted, device=labels.device), wanted, given)
            for wanted, given in zip(size, labels.shape[-2:], strict=True)
        )
        return labels.index_select(-1, columns_there).index_select(-2, rows_there)
    rows, columns = (
        _nearest(np.arange(wanted), wanted, given) for wanted, given in zip(size, labels.shape[-2:], strict=True)
    )
    return labels.take(columns, axis=-1).take(rows, axis=-2)


def resize_label_as_pillow(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes a label, uint8 ``H W`` on the CPU, to ``size = (H, W)`` as Pillow's NEAREST does.

    Pillow adds up steps of rounded length, so that it may take the earlier pixel where ``resize_labels`` takes the
    later one (for example one column of 2049 from 2048). Networks are trained and scored on labels like these.
    """
    if tuple(label.shape) == tuple(size):
        return label
    height, width = size
    resized = Image.fromarray(label.numpy()).resize((width, height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))


def _nearest(pixels: Labels, wanted: int, given: int) -> Labels:
    """For pixels ``0 ... wanted - 1`` of a line the one of ``given`` that the center of each falls on."""
    return (2 * pixels + 1) * given // (2 * wanted)  # in whole numbers, so that nothing is rounded
