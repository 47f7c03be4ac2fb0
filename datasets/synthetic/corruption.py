"""Corruptions of a frame, drawn anew for each: sensor noise, blotches, motion blur, glare, rain, low contrast.

All of it is integer arithmetic on the bytes of a bit generator, so that the result is the same on every machine.
"""

import numpy as np

MOST = 232  # largest opacity of glare or a veil, in 256ths: something of a pixel always stays


class Dice:
    """Random integers from a bit generator's raw stream, which NumPy guarantees to be stable."""

    def __init__(self, seed: list[int]) -> None:
        self._bits = np.random.PCG64(seed)

    def bytes(self, count: int) -> np.ndarray:
        """``count`` uniform uint8."""
        return self._bits.random_raw((count + 7) // 8).astype("<u8").view(np.uint8)[:count]

    def below(self, limit: int) -> int:
        """A whole number from 0 to ``limit`` - 1."""
        return int(self._bits.random_raw()) % limit


def spoiled(image: np.ndarray, difficulty: float, seed: list[int]) -> np.ndarray:
    """A corrupted copy of an image, H x W x 3 uint8; the corruption depends on the seed and not on the image."""
    strength = int(difficulty * 256)
    if strength == 0:
        return image
    dice = Dice(seed)
    work = image.astype(np.int32)
    work = _blurred(work, dice, strength)
    work = _glared(work, dice, strength)
    work = _rained(work, dice, strength)
    work = _flattened(work, dice, strength)
    work += _blotches(work.shape, dice, strength)
    work += grain(work.shape, dice, strength)
    return np.clip(work, 0, 255).astype(np.uint8)


def grain(shape: tuple[int, int, int], dice: Dice, strength: int) -> np.ndarray:
    """Sensor noise: the sum of four bytes is nearly Gaussian with a deviation of 148; here up to 23 gray levels."""
    count = shape[0] * shape[1] * shape[2]
    total = dice.bytes(4 * count).reshape(4, *shape)
    amount = strength * (60 + dice.below(100)) >> 8
    level = total[0].astype(np.int32) + total[1] + total[2] + total[3] - 510
    return level * amount >> 10


def _blotches(shape: tuple[int, int, int], dice: Dice, strength: int) -> np.ndarray:
    """Colored noise of 2, 4, 8 and 16 pixels' width, which filtering a single frame does not remove.

    Its strength varies from frame to frame, so that some frames of a clip show what others hide.
    """
    height, width, _ = shape
    total = np.zeros(shape, np.int32)
    for shift, weight in ((1, 36), (2, 34), (3, 28), (4, 26)):
        size = (-(-height >> shift) + 2, -(-width >> shift) + 2)
        color = dice.bytes(size[0] * size[1] * 3).reshape(*size, 3).astype(np.int16)
        gray = dice.bytes(size[0] * size[1]).reshape(*size, 1).astype(np.int16)
        total += enlarged(color + 2 * gray - 382, shift)[:height, :width] * np.int32(weight)
    return (total >> 8) * (strength * (96 + dice.below(320)) >> 8) >> 10


def enlarged(grid: np.ndarray, shift: int) -> np.ndarray:
    """Linear interpolation by a factor of 2**shift in whole numbers (below 2048, so that 16 bits hold the products)."""
    step = 1 << shift
    ramp = np.arange(step, dtype=grid.dtype)
    for axis in (0, 1):
        grid = np.moveaxis(grid, axis, 0)
        left, right = grid[:-1, None], grid[1:, None]
        part = ramp.reshape(1, step, *([1] * (grid.ndim - 1)))
        grid = (left * (step - part) + right * part) >> shift
        grid = np.moveaxis(grid.reshape(-1, *grid.shape[2:]), 0, axis)
    return grid


def _blurred(work: np.ndarray, dice: Dice, strength: int) -> np.ndarray:
    """Motion blur along one of four directions, longer in some frames than in others."""
    longest = (work.shape[0] * 9 * strength >> 8) // 256 + 1
    taps = 1 + dice.below(longest + 1)
    step = ((0, 1), (1, 0), (1, 1), (1, -1))[dice.below(6) % 4]
    if taps == 1:
        return work
    border = taps
    padded = np.pad(work, ((border, border), (border, border), (0, 0)), mode="edge")
    total = np.zeros_like(work)
    height, width = work.shape[:2]
    for tap in range(taps):
        top, left = border + (tap - taps // 2) * step[0], border + (tap - taps // 2) * step[1]
        total += padded[top : top + height, left : left + width]
    return total // taps


def _flattened(work: np.ndarray, dice: Dice, strength: int) -> np.ndarray:
    """A change of exposure, and less contrast in a band of the frame, as behind a wet or dirty windshield."""
    gain = 256 + ((dice.below(130) - 65) * strength >> 8)
    veil = 90 + dice.below(90)
    height = work.shape[0]
    middle, reach = dice.below(height), height // 4 + dice.below(height // 2)
    rows = np.maximum(0, reach - np.abs(np.arange(height, dtype=np.int32) - middle)) * 256 // reach
    share = (16 + dice.below(40) + (rows * dice.below(100) >> 8)) * strength >> 8
    share = np.minimum(share, MOST).astype(np.int32)[:, None, None]
    return (work * gain >> 8) + ((veil - work) * share >> 8)


def _glared(work: np.ndarray, dice: Dice, strength: int) -> np.ndarray:
    """Glare: up to three soft discs that whiten the image, different in each frame."""
    height, width = work.shape[:2]
    for _ in range(dice.below(4)):
        y, x, radius = dice.below(height), dice.below(width), height // 10 + dice.below(height // 4)
        top, left = max(0, y - radius), max(0, x - radius)
        covered = work[top : y + radius, left : x + radius]
        row = np.arange(top - y, top - y + covered.shape[0], dtype=np.int32)[:, None]
        column = np.arange(left - x, left - x + covered.shape[1], dtype=np.int32)[None]
        glow = np.maximum(0, radius * radius - row * row - column * column) * 256 // (radius * radius)
        color = np.array([255, 236 + dice.below(20), 200 + dice.below(56)], np.int32)
        share = np.minimum((glow * (80 + dice.below(150)) >> 8) * strength >> 8, MOST)
        covered += (color - covered) * share[..., None] >> 8
    return work


def _rained(work: np.ndarray, dice: Dice, strength: int) -> np.ndarray:
    """Streaks of rain, in half of the frames."""
    if dice.below(2):
        return work
    height, width = work.shape[:2]
    mask = np.zeros((height, width), np.int32)
    slant = dice.below(7) - 3
    for _ in range(60 * strength >> 8):
        x, y, length = dice.below(width), dice.below(height), height // 24 + dice.below(height // 10)
        step, wide = np.arange(min(length, height - y)), 1 + dice.below(max(1, height // 128))
        light = 60 + dice.below(90)
        for column in (x + side + step * slant // 8 for side in range(wide)):
            inside = (column >= 0) & (column < width)
            mask[y + step[inside], column[inside]] = light
    return work + ((210 - work) * mask[..., None] >> 8)
