"""Damage that lasts for several frames: glare, dirt, drops, reflections, shadows, and a drifting exposure.

Each spot of damage comes, stays for a while and goes: it keeps its place on the lens, drifts over it, or stays with a
thing of the street. A frame can be drawn alone: its spots are those of the time slots around it, each of which has a
bit generator of its own. All of it is integer arithmetic, but for the places of things, which the camera projects.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .corruption import MOST, Dice, enlarged, grain

Cameras = Callable[[int], Camera]  # the clip's camera by frame, those before its first frame included

_GLARE, _DIRT, _DROP, _REFLECTION, _SHADOW, _DISGUISE = range(6)
_WITH_THE_STREET = (_SHADOW, _DISGUISE)
_SLOTS_BEFORE = 3  # a spot that began earlier has gone
_FINE = 16  # parts of a pixel, in which speeds are counted
_BLUR = 3  # through a drop one sees averages of 8x8 pixels
_SPOTS, _EXPOSURE = 2**31, 2**31 + 1  # where a frame's seed has its number
_LARGEST = 1024  # of a thing that comes nearer, in 256ths of its first size
_NEAREST = 1.0  # meters
_REACH = 1 << 20  # pixels: what is farther outside of the frame does not reach into it


@dataclass(frozen=True)
class _Spot:
    """A spot of damage in one frame: its kind, middle and radii in pixels, and opacity in 256ths.

    ``color`` and ``shift`` (of the mirrored frame, in pixels) are its looks, which do not change.
    """

    kind: int
    y: int
    x: int
    high: int
    wide: int
    opacity: int
    color: tuple[int, int, int]
    shift: int


def worn(
    image: np.ndarray, difficulty: float, persistence: int, seed: list[int], time: int, cameras: Cameras
) -> np.ndarray:
    """A damaged copy of frame ``time`` of a clip, H x W x 3 uint8; the damage lasts for about ``persistence`` frames.

    ``seed`` is the clip's. Places and looks of the damage depend on it, the time and the cameras alone.
    """
    strength = int(difficulty * 256)
    if strength == 0:
        return image
    work = image.astype(np.int32)
    blurred, mirrored = _blurred(work), work[:, ::-1].copy()
    for spot in _spots((image.shape[0], image.shape[1]), strength, persistence, seed, time, cameras):
        _cover(work, spot, blurred, mirrored)
    work = _exposed(work, strength, persistence, seed, time)
    work += grain(work.shape, Dice([*seed, time]), strength * 3 >> 3)
    return np.clip(work, 0, 255).astype(np.uint8)


def _spots(
    size: tuple[int, int], strength: int, persistence: int, seed: list[int], time: int, cameras: Cameras
) -> Iterator[_Spot]:
    """The spots that there are at a time, in the order in which they are drawn."""
    now = time // persistence
    for slot in range(now - _SLOTS_BEFORE, now + 1):
        dice = Dice([*seed, _SPOTS, slot + _SLOTS_BEFORE])
        for _ in range(2 + dice.below(2 + (strength * 3 >> 8))):
            spot = _spot(size, strength, persistence, dice, slot, time, cameras)
            if spot is not None:
                yield spot


def _spot(
    size: tuple[int, int], strength: int, persistence: int, dice: Dice, slot: int, time: int, cameras: Cameras
) -> _Spot | None:
    """The next spot of a slot; ``None`` where it has not come yet, or has gone."""
    height, width = size
    # The same numbers are drawn at every time.
    kind, birth = dice.below(6), slot * persistence + dice.below(persistence)
    life = persistence // 2 + 1 + dice.below(2 * persistence)
    y, x = dice.below(height), dice.below(width)
    high, wide = height // 16 + dice.below(height // 5), height // 16 + dice.below(height // 5)
    down, right = dice.below(6 * _FINE + 1) - 3 * _FINE, dice.below(6 * _FINE + 1) - 3 * _FINE
    depth, opacity = 5 + dice.below(20), 150 + dice.below(106)
    color, shift = (dice.below(256), dice.below(256), dice.below(256)), dice.below(width)
    age = time - birth
    if not 0 <= age < life:
        return None
    if kind in _WITH_THE_STREET:
        place = _with_the_street(cameras(birth), cameras(time), y, x, depth)
        if place is None:
            return None
        y, x, scale = place
        high, wide = max(1, high * scale >> 8), max(1, wide * scale >> 8)
    elif kind != _DIRT:
        y, x = (start + speed * age * width // (256 * _FINE) for start, speed in ((y, down // 4), (x, right)))
    fade = min(2, age + 1, life - age)  # half of it at first and at last
    return _Spot(kind, y, x, high, wide, min(MOST, opacity * strength >> 8) * fade // 2, color, shift)


def _with_the_street(first: Camera, now: Camera, y: int, x: int, depth: int) -> tuple[int, int, int] | None:
    """Row and column where a thing is now that the first camera sees at a pixel, ``depth`` meters away, and its size
    in 256ths of that then; ``None`` where it is out of sight."""
    there = np.array([(x - first.center[0]) / first.focal, (first.center[1] - y) / first.focal, 1.0]) * depth
    seen = now.seen(first.world(there))
    if seen[2] < _NEAREST:
        return None
    column, row = (float(value) for value in now.pixels(seen))
    if abs(column) > _REACH or abs(row) > _REACH:
        return None
    return int(row // 1), int(column // 1), min(int(depth * 256 / seen[2]), _LARGEST)


def _cover(work: np.ndarray, spot: _Spot, blurred: np.ndarray, mirrored: np.ndarray) -> None:
    """Covers an ellipse with a soft edge, in place."""
    top, left = max(0, spot.y - spot.high), max(0, spot.x - spot.wide)
    part = slice(top, max(top, spot.y + spot.high)), slice(left, max(left, spot.x + spot.wide))
    covered = work[part]
    row = (np.arange(top, top + covered.shape[0], dtype=np.int64) - spot.y)[:, None] * 256 // spot.high
    column = (np.arange(left, left + covered.shape[1], dtype=np.int64) - spot.x)[None] * 256 // spot.wide
    inside = np.clip((65536 - row * row - column * column) >> 7, 0, 256).astype(np.int32)
    share = (inside * spot.opacity >> 8)[..., None]
    red, green, blue = spot.color
    if spot.kind == _SHADOW:
        target = covered >> 2
    elif spot.kind == _REFLECTION:
        target = np.roll(mirrored, spot.shift, 1)[part]
    elif spot.kind == _DROP:
        target = blurred[part]
    elif spot.kind == _DISGUISE:
        target = (blurred[part] + np.array(spot.color, np.int32)) >> 1
    elif spot.kind == _GLARE:
        target = np.array([255, 240 + green // 16, 210 + blue // 6], np.int32)
    else:
        target = np.array([60 + red // 6, 50 + green // 6, 40 + blue // 6], np.int32)
    covered += (target - covered) * share >> 8


def _blurred(work: np.ndarray) -> np.ndarray:
    """The frame, averaged over blocks of 8x8 pixels and interpolated."""
    side, (height, width, channels) = 1 << _BLUR, work.shape
    padded = np.pad(work, ((0, -height % side + side), (0, -width % side + side), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side, channels).sum((1, 3))
    return enlarged(blocks >> (2 * _BLUR), _BLUR)[:height, :width].astype(np.int32)


def _exposed(work: np.ndarray, strength: int, persistence: int, seed: list[int], time: int) -> np.ndarray:
    """Another exposure, which drifts from that of a slot's first frame to that of the next one's."""
    slot, part = divmod(time, persistence)
    here, there = (Dice([*seed, _EXPOSURE, slot + step]).below(130) - 65 for step in (0, 1))
    drifting = (here * (persistence - part) + there * part) // persistence
    return work * (256 + (drifting * strength >> 8)) >> 8
