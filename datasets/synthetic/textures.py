"""The surfaces' textures: brightness and a mix of two colors, painted once from a fixed seed, with all their mipmaps.

A texel is one byte: five bits of brightness (16 is neutral) and three bits for the share of the surface's second color.
A surface's *material* maps these 256 values to colors, so that a few textures make many different walls. Only
elementwise IEEE operations are used, so every machine paints the same bytes.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SIZE = 128  # texels along each edge
LEVELS = 8  # 128, 64, ... 1
_SEED = 20211001

Painted = tuple[np.ndarray, np.ndarray]  # brightness (1 is neutral) and share of the second color, SIZE x SIZE


class Atlas(NamedTuple):
    """All textures in one row of bytes."""

    texels: np.ndarray  # N uint8
    numbers: dict[str, int]  # name -> number of the texture
    stride: int  # bytes per texture
    level_offset: np.ndarray  # LEVELS int32, where a level begins inside its texture


def value_noise(rng: np.random.RandomState, across: int, up: int) -> np.ndarray:
    """Smooth periodic noise in [0, 1) on SIZE x SIZE texels from a random grid of ``up`` x ``across`` cells."""
    grid = rng.random_sample((up, across))
    rows, columns = (np.arange(SIZE) * up) / SIZE, (np.arange(SIZE) * across) / SIZE
    r, c = rows.astype(np.int64), columns.astype(np.int64)
    fr, fc = rows - r, columns - c
    fr, fc = (fr * fr * (3 - 2 * fr))[:, None], (fc * fc * (3 - 2 * fc))[None]
    upper = grid[r][:, c] * (1 - fc) + grid[r][:, (c + 1) % across] * fc
    lower = grid[(r + 1) % up][:, c] * (1 - fc) + grid[(r + 1) % up][:, (c + 1) % across] * fc
    return upper * (1 - fr) + lower * fr


def _octaves(rng: np.random.RandomState, across: int, up: int, count: int = 3) -> np.ndarray:
    total = np.zeros((SIZE, SIZE))
    for octave in range(count):
        total += value_noise(rng, min(SIZE, across << octave), min(SIZE, up << octave)) * 0.5 ** (octave + 1)
    return total / (1 - 0.5**count)


def _white(rng: np.random.RandomState) -> np.ndarray:
    return rng.random_sample((SIZE, SIZE))


def _blank() -> Painted:
    return np.ones((SIZE, SIZE)), np.zeros((SIZE, SIZE))


_ROW, _COLUMN = np.mgrid[:SIZE, :SIZE]  # row 0 is the bottom of an upright surface


def _plain(rng: np.random.RandomState) -> Painted:
    return 0.94 + 0.12 * _octaves(rng, 4, 4), np.zeros((SIZE, SIZE))


def _asphalt(rng: np.random.RandomState) -> Painted:
    light = 0.75 + 0.25 * _white(rng) + 0.25 * _octaves(rng, 3, 3)
    crack = np.abs(_octaves(rng, 3, 3, 4) - 0.5) < 0.006
    return np.where(crack, 0.72, light), (_octaves(rng, 2, 2) > 0.58) * 0.45


def _paving(rng: np.random.RandomState) -> Painted:
    row, column = _ROW // 32, (_COLUMN + 16 * ((_ROW // 32) % 2)) % SIZE // 32
    light = 0.85 + 0.25 * rng.random_sample((4, 4))[row, column] + 0.12 * (_white(rng) - 0.5)
    joint = (_ROW % 32 < 2) | ((_COLUMN + 16 * ((_ROW // 32) % 2)) % 32 < 2)
    return np.where(joint, 0.62, light), rng.random_sample((4, 4))[row, column] * 0.4


def _cobbles(rng: np.random.RandomState) -> Painted:
    row = _ROW // 16
    shifted = (_COLUMN + 8 * (row % 2)) % SIZE
    light = 0.75 + 0.45 * rng.random_sample((8, 8))[row, shifted // 16] + 0.1 * (_white(rng) - 0.5)
    joint = (_ROW % 16 < 3) | (shifted % 16 < 3)
    return np.where(joint, 0.5, light), np.where(joint, 0.6, 0.2)


def _brick(rng: np.random.RandomState) -> Painted:
    row = _ROW // 8
    shifted = (_COLUMN + 8 * (row % 2)) % SIZE
    light = 0.8 + 0.4 * rng.random_sample((16, 8))[row, shifted // 16] + 0.1 * (_white(rng) - 0.5)
    joint = (_ROW % 8 < 1) | (shifted % 16 < 1)
    return np.where(joint, 1.15, light), np.where(joint, 0.55, 0.1 * rng.random_sample((16, 8))[row, shifted // 16])


def _concrete(rng: np.random.RandomState) -> Painted:
    light = 0.8 + 0.3 * _octaves(rng, 4, 2, 4) + 0.1 * (_white(rng) - 0.5)
    seam = (_COLUMN % 64 < 2) | (_ROW % 128 < 2)
    return np.where(seam, 0.6, light), _octaves(rng, 8, 2) * 0.4


def _windows(
    rng: np.random.RandomState, across: int, up: int, wide: float, high: float, sill: float, brick: bool
) -> Painted:
    light, mix = _brick(rng) if brick else (0.92 + 0.16 * _octaves(rng, 6, 3), 0.15 * _octaves(rng, 4, 4))
    cell_w, cell_h = SIZE // across, SIZE // up
    c, r = _COLUMN % cell_w, _ROW % cell_h
    left, bottom = int(cell_w * (1 - wide) / 2), int(cell_h * sill)
    right, top = cell_w - left, bottom + int(cell_h * high)
    glass = (c >= left) & (c < right) & (r >= bottom) & (r < top)
    frame = (c >= left - 2) & (c < right + 2) & (r >= bottom - 3) & (r < top + 2) & ~glass
    cross = glass & ((np.abs(c - (left + right) // 2) < 1) | (np.abs(r - (bottom + 2 * top) // 3) < 1))
    pane = (0.7 + 0.6 * rng.random_sample((up, across)))[_ROW // cell_h, _COLUMN // cell_w]
    pane = pane * (0.75 + 0.5 * (r - bottom) / max(1, top - bottom))
    light = np.where(glass, pane, np.where(frame, 1.25, light))
    mix = np.where(glass, 1.0, np.where(frame, 0.0, mix))
    return np.where(cross, 1.2, light), np.where(cross, 0.1, mix)


def _shop(rng: np.random.RandomState) -> Painted:
    light, mix = _windows(rng, 2, 1, 0.84, 0.62, 0.08, False)
    band = (_ROW > 96) & (_ROW < 122)
    letters = band & (_ROW > 102) & (_ROW < 116) & (value_noise(rng, 32, 8) > 0.55)
    return np.where(band, np.where(letters, 1.8, 0.75), light), np.where(band, np.where(letters, 0.0, 0.6), mix)


def _bars(rng: np.random.RandomState) -> Painted:
    bar = (_COLUMN % 16 < 6) | ((_ROW > 8) & (_ROW < 20)) | ((_ROW > 104) & (_ROW < 116))
    return np.where(bar, 0.95 + 0.1 * _white(rng), 0.7 + 0.6 * _octaves(rng, 8, 8)), np.where(bar, 0.0, 1.0)


def _mesh(rng: np.random.RandomState) -> Painted:
    wire = ((_COLUMN + _ROW) % 16 < 4) | ((_COLUMN - _ROW) % 16 < 4) | (_COLUMN % 128 < 7) | (_ROW > 120)
    return np.where(wire, 1.0 + 0.1 * _white(rng), 0.7 + 0.6 * _octaves(rng, 8, 8)), np.where(wire, 0.0, 1.0)


def _planks(rng: np.random.RandomState) -> Painted:
    light = 0.8 + 0.4 * rng.random_sample(8)[_COLUMN // 16] + 0.2 * (value_noise(rng, 64, 4) - 0.5)
    return np.where(_COLUMN % 16 < 2, 0.4, light), 0.4 * value_noise(rng, 32, 3)


def _foliage(rng: np.random.RandomState) -> Painted:
    clumps, leaves = _octaves(rng, 6, 6), _octaves(rng, 24, 24, 2)
    light = 0.3 + 0.8 * clumps + 0.6 * leaves
    return light + 0.25 * (_white(rng) - 0.5), np.minimum(1, np.maximum(0, 3 * (_octaves(rng, 8, 8) - 0.45)))


def _grass(rng: np.random.RandomState) -> Painted:
    light = 0.65 + 0.4 * value_noise(rng, 64, 24) + 0.3 * _octaves(rng, 4, 4)
    return light + 0.15 * (_white(rng) - 0.5), np.minimum(1, np.maximum(0, 4 * (_octaves(rng, 5, 5) - 0.5)))


def _cloth(rng: np.random.RandomState) -> Painted:
    return 0.75 + 0.5 * value_noise(rng, 12, 4), 0.3 * value_noise(rng, 4, 8)


def _stripes(rng: np.random.RandomState) -> Painted:
    return 0.85 + 0.3 * value_noise(rng, 12, 4), np.where(_ROW % 32 < 14, 1.0, 0.0)


def _ridges(rng: np.random.RandomState) -> Painted:
    light = np.where(_COLUMN % 16 < 8, 1.08, 0.88) + 0.06 * _octaves(rng, 4, 4)
    logo = (np.abs(_ROW - 72) < 18) & (np.abs(_COLUMN - 64) < 44)
    return np.where(logo, 1.0, light), np.where(logo, np.where(value_noise(rng, 12, 6) > 0.5, 1.0, 0.3), 0.0)


def _coach(rng: np.random.RandomState) -> Painted:
    """A bus's side: the lower half is paint, a band of panes above it."""
    light, mix = 0.95 + 0.1 * _octaves(rng, 4, 4), np.zeros((SIZE, SIZE))
    pane = (_ROW > 56) & (_ROW < 108) & (_COLUMN % 64 > 4)
    light = np.where(pane, 0.7 + 0.6 * value_noise(rng, 8, 6), light)
    stripe = (_ROW > 30) & (_ROW < 40)
    return np.where(stripe, 1.3, light), np.where(pane, 1.0, np.where(stripe, 0.4, mix))


def _tram(rng: np.random.RandomState) -> Painted:
    """A tram's side: tall panes with round corners, doors down to the floor, a broad band of color below."""
    light, mix = 0.95 + 0.1 * _octaves(rng, 4, 4), np.zeros((SIZE, SIZE))
    c = _COLUMN % 64
    corner = ((c < 12) | (c > 56)) & ((_ROW < 56) | (_ROW > 96))
    door = (c > 42) & (c < 60) & (_ROW > 10) & (_ROW < 100) & (_COLUMN > 64)
    pane = ((_ROW > 50) & (_ROW < 102) & (c > 6) & (c < 62) & ~corner) | door
    light = np.where(pane, 0.7 + 0.6 * value_noise(rng, 8, 6), light)
    band = (_ROW < 26) | (_ROW > 116)
    return np.where(band, 0.5, light), np.where(pane, 1.0, np.where(band, 0.3, mix))


def _spokes(rng: np.random.RandomState) -> Painted:
    x, y = _COLUMN - 63.5, _ROW - 63.5
    square = x * x + y * y
    rim = square > 50 * 50
    spoke = (np.abs(x) < 4) | (np.abs(y) < 4) | (np.abs(x - y) < 5) | (np.abs(x + y) < 5) | (square < 100)
    return np.where(rim, 0.9, np.where(spoke, 1.2, 0.9 + 0.2 * _octaves(rng, 6, 6))), np.where(rim | spoke, 0.0, 1.0)


def _hub(rng: np.random.RandomState) -> Painted:
    x, y = _COLUMN - 63.5, _ROW - 63.5
    square = x * x + y * y
    return 0.9 + 0.2 * _white(rng), np.where(square < 34 * 34, np.where((np.abs(x) < 6) | (np.abs(y) < 6), 0.5, 1), 0.0)


def _clouds(rng: np.random.RandomState) -> Painted:
    return 0.97 + 0.06 * _octaves(rng, 4, 4), np.minimum(1, np.maximum(0, 3.2 * (_octaves(rng, 3, 5, 4) - 0.42)))


def _glass(rng: np.random.RandomState) -> Painted:
    return 0.6 + 0.5 * _octaves(rng, 3, 5) + 0.35 * (((_COLUMN + _ROW) % 128) > 84), 0.3 * _octaves(rng, 3, 3)


def _sign_ring(rng: np.random.RandomState) -> Painted:
    x, y = _COLUMN - 63.5, _ROW - 63.5
    square = x * x + y * y
    glyph = (np.abs(x) < 26) & (np.abs(y) < 22) & (value_noise(rng, 9, 5) > 0.5)
    light, _ = _blank()
    return np.where(glyph & (square < 44 * 44), 0.25, light), np.where(square > 46 * 46, 1.0, 0.0)


def _sign_bar(rng: np.random.RandomState) -> Painted:
    bar = (np.abs(_ROW - 63.5) < 13) & (np.abs(_COLUMN - 63.5) < 46)
    return np.ones((SIZE, SIZE)), np.where(bar, 0.0, 1.0)


def _sign_arrow(rng: np.random.RandomState) -> Painted:
    shaft = (np.abs(_COLUMN - 63.5) < 9) & (_ROW > 20) & (_ROW < 90)
    head = (_ROW >= 62) & (np.abs(_COLUMN - 63.5) < (108 - _ROW) * 0.8)
    border = (_COLUMN < 8) | (_COLUMN > 119) | (_ROW < 8) | (_ROW > 119)
    return np.ones((SIZE, SIZE)), np.where(shaft | head | border, 0.0, 1.0)


_PAINTERS: dict[str, Callable[[np.random.RandomState], Painted]] = {
    "plain": _plain,
    "asphalt": _asphalt,
    "paving": _paving,
    "cobbles": _cobbles,
    "brick": _brick,
    "concrete": _concrete,
    "facade_a": lambda rng: _windows(rng, 2, 2, 0.46, 0.56, 0.26, False),
    "facade_b": lambda rng: _windows(rng, 2, 2, 0.42, 0.6, 0.22, True),
    "facade_c": lambda rng: _windows(rng, 4, 2, 0.5, 0.66, 0.2, False),
    "facade_d": lambda rng: _windows(rng, 1, 2, 0.86, 0.44, 0.36, False),
    "facade_e": lambda rng: _windows(rng, 4, 4, 0.6, 0.5, 0.3, True),
    "shop": _shop,
    "bars": _bars,
    "mesh": _mesh,
    "planks": _planks,
    "foliage": _foliage,
    "grass": _grass,
    "cloth": _cloth,
    "stripes": _stripes,
    "ridges": _ridges,
    "coach": _coach,
    "tram": _tram,
    "spokes": _spokes,
    "hub": _hub,
    "clouds": _clouds,
    "glass": _glass,
    "sign_ring": _sign_ring,
    "sign_bar": _sign_bar,
    "sign_arrow": _sign_arrow,
}


def _halved(texture: np.ndarray) -> np.ndarray:
    return (texture[::2, ::2] + texture[1::2, ::2] + texture[::2, 1::2] + texture[1::2, 1::2]) / 4


def _packed(light: np.ndarray, mix: np.ndarray, dither: np.ndarray) -> np.ndarray:
    """Texels of one byte; ``dither``, of the same shape, in [0, 1), hides the steps of the quantization."""
    brightness = np.clip(np.floor(light * 16 + dither), 0, 31).astype(np.uint8)
    share = np.clip(np.floor(mix * 7 + dither[::-1]), 0, 7).astype(np.uint8)
    return (brightness << 3 | share).ravel()


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """All textures; painted once per process, in about 0.1 s."""
    rows = []
    for number, paint in enumerate(_PAINTERS.values()):
        rng = np.random.RandomState([_SEED, number])
        light, mix = paint(rng)
        for level in range(LEVELS):
            rows.append(_packed(light, mix, rng.random_sample(light.shape)))
            if level < LEVELS - 1:
                light, mix = _halved(light), _halved(mix)
    offsets = np.cumsum([0] + [(SIZE >> level) ** 2 for level in range(LEVELS)])
    names = {name: number for number, name in enumerate(_PAINTERS)}
    return Atlas(np.concatenate(rows), names, int(offsets[-1]), offsets[:-1].astype(np.int32))


def material(first: tuple[int, int, int], second: tuple[int, int, int], light: float = 1.0) -> np.ndarray:
    """The 256 colors of a surface, 256 x 4 uint8 (RGB and a zero), from its two colors and a brightness factor."""
    brightness, share = np.arange(256) >> 3, np.arange(256) & 7
    a, b = np.array(first, np.int64), np.array(second, np.int64)
    mixed = a * (7 - share)[:, None] + b * share[:, None]
    colors = mixed * brightness[:, None] * int(light * 256) // (7 * 16 * 256)
    return np.pad(np.minimum(colors, 255), ((0, 0), (0, 1))).astype(np.uint8)
