"""Building blocks of all things on the street: class ids, colors, random draws, simple shapes. Sizes in meters."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ..cityscapes import CITYSCAPES_CLASSES
from .camera import exact
from .mesh import ALONG_X, ALONG_Z, DECAL, Color, Corner, Mesh, Outline, Point

Choice = TypeVar("Choice")

ID = {name: index for index, name in enumerate(CITYSCAPES_CLASSES.names)}
STILL: Point = (0.0, 0.0, 0.0)
TOWARDS, LEFT, RIGHT = (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0)

# One list for walls, another for everything painted or worn, so that no class can be told by its color.
_DULL = [
    (128, 122, 116),
    (168, 150, 128),
    (150, 104, 84),
    (186, 180, 170),
    (112, 106, 108),
    (160, 138, 104),
    (96, 88, 84),
]
_BRIGHT = [(28, 30, 34), (70, 74, 80), (150, 154, 158), (206, 206, 202), (134, 30, 30), (36, 56, 112), (40, 84, 62)]
_BRIGHT += [(176, 160, 124), (184, 148, 40), (92, 64, 46), (72, 112, 150)]
_GREENS = [(64, 82, 40), (82, 92, 48), (56, 72, 46), (100, 100, 56), (74, 90, 34)]
GLASS = (52, 60, 68)


def jitter(rng: np.random.RandomState, color: Color, amount: int = 14) -> Color:
    """``color`` with each channel moved by up to ``amount``."""
    moved = [int(c) + int(rng.randint(-amount, amount + 1)) for c in color]
    return (max(4, moved[0]), max(4, moved[1]), max(4, moved[2]))


def brighter(color: Color, amount: int) -> Color:
    """``color`` with ``amount``, which may be negative, added to each channel; at most 255."""
    red, green, blue = (min(255, channel + amount) for channel in color)
    return red, green, blue


def pick(rng: np.random.RandomState, choices: Sequence[Choice]) -> Choice:
    """One of ``choices``."""
    return choices[rng.randint(len(choices))]


def dull(rng: np.random.RandomState) -> Color:
    """A wall's color."""
    return jitter(rng, pick(rng, _DULL))


def bright(rng: np.random.RandomState) -> Color:
    """A color of paint or cloth."""
    return jitter(rng, pick(rng, _BRIGHT))


def green(rng: np.random.RandomState) -> Color:
    """A plant's color."""
    return jitter(rng, pick(rng, _GREENS), 10)


def uniform(rng: np.random.RandomState, low: float, high: float) -> float:
    """A number between ``low`` and ``high``."""
    return low + (high - low) * float(rng.random_sample())


def rectangle(left: float, bottom: float, right: float, top: float) -> Outline:
    """A rectangle's corners."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def disc(x: float, y: float, radius: float, corners: int = 12, squeeze: float = 1.0) -> Outline:
    """A regular polygon around (x, y)."""
    angles = [2 * math.pi * (k + 0.5) / corners for k in range(corners)]
    return [(x + squeeze * radius * exact(math.cos(a)), y + radius * exact(math.sin(a))) for a in angles]


def bar(start: Corner, end: Corner, width: float) -> Outline:
    """A straight bar of ``width`` from one point to another."""
    (x0, y0), (x1, y1) = start, end
    length = exact(math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2))
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy)]


def shadow(mesh: Mesh, left: float, right: float, near: float, far: float, velocity: Point) -> None:
    """A dark patch of the ground, with the class of the strip it lies on."""
    middle = (left + right) / 2
    train_id, paint, texture = mesh.ground_at(middle)
    patch = mesh.group((middle, 0, near), DECAL, velocity)
    patch.add(rectangle(left, near, right, far), (0, 0.0, 0), ALONG_X, ALONG_Z, paint, texture, train_id, (2.0, 2.0))
