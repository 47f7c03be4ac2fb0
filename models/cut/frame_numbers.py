"""Whole numbers among the outputs of modules that follow from the frame's size, such as the ``H, W`` beside tokens."""

from __future__ import annotations

from itertools import product
from typing import Any

from torch import Tensor, nn

from models.cut.frames import random_frame, size_of
from models.cut.halves import Number
from models.cut.record import Record, recorded
from models.cut.structure import leaves_of, replaced


def with_frame_numbers(network: nn.Module, record: Record, frame: Tensor) -> None:
    """Puts ``Number`` in place of whole numbers that a run noted, where they are others for frames of another size."""
    noted = (record.arguments, record.outputs)
    if not any(type(leaf) is int for leaf in leaves_of(noted)):
        return
    height, width = size_of(frame)
    larger = random_frame((2 * height, 3 * width), batch=2)
    try:
        other = recorded(network, larger, set(record.outputs), record.cut)
    except Exception:  # whatever the network raises for a size that it does not take
        return
    record.arguments = _followed(record.arguments, other.arguments, frame, larger)
    record.outputs = {
        name: _followed(output, other.outputs[name], frame, larger) for name, output in record.outputs.items()
    }


def _followed(value: Any, other: Any, frame: Tensor, larger: Tensor) -> Any:
    """A nested structure with ``Number`` for what differs between two frames and follows from their sizes."""
    own, others = list(leaves_of(value)), list(leaves_of(other))
    if len(own) != len(others):
        return value
    found = iter([_number(a, b, frame, larger) for a, b in zip(own, others, strict=True)])
    return replaced(value, lambda _: next(found))


def _number(value: Any, other: Any, frame: Tensor, larger: Tensor) -> Any:
    if type(value) is not int or type(other) is not int or value == other or value < 1:
        return value
    height, width = size_of(frame)
    for by_height, by_width, by_batch in product((True, False), (True, False), (False, True)):
        pixels = (height if by_height else 1) * (width if by_width else 1)
        stride = round((pixels / value) ** (1 / max(1, by_height + by_width)))
        number = Number(stride * by_height, stride * by_width, by_batch)
        if (number.of(frame), number.of(larger)) == (value, other):
            return number
    return value
