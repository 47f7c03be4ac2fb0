"""Label files as class indices: one channel of ids (8 or 16 bits, or a palette), or colors."""

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.clips import Frame
from datasets.image_files import content, opened, unreadable
from datasets.images import image_size
from utils.class_set import NO_CLASS, Color, LabelCoding
from utils.errors import DataError
from utils.resize import resize_label_as_pillow
from utils.sizes import format_size

# Of Pillow: one channel of up to 8 bits, of 16 bits, and colors.
ID_MODES, WIDE_MODES = ("1", "L", "P"), ("I", "I;16", "I;16B")
COLOR_MODES = ("RGB", "RGBA", "P")
Value = int | Color
MOST_NAMED = 3  # ids without a class in one message
# Pillow stretches gray levels of 1, 2 and 4 bits to 8, by these factors; ids are to stay as they are.
_STRETCHED = {"1": 255, "L;2": 85, "L;4": 17}
_UNKNOWN = 255  # no class index: there are fewer


def read_label(path: str | Path, size: tuple[int, int] | None, coding: LabelCoding) -> Tensor:
    """Reads a label as class indices, resized by nearest neighbor as Pillow's NEAREST does.

    Returns uint8 H x W with ``size = (H, W)``, or as large as the file for None. ``coding`` maps the file's values, or
    its colors, to class indices. Raises DataError where the file is missing, damaged, too large, of another kind, or
    holds values that are not valid.
    """
    indices = torch.from_numpy(_indices(path, coding))
    return indices if size is None else resize_label_as_pillow(indices, size)


def value_counts(path: str | Path, coding: LabelCoding) -> tuple[np.ndarray, dict[Value, int]]:
    """Pixels by class index, the ignore index included, and pixels of each value or color that is not valid.

    Raises what ``read_label`` does, except for values that are not valid.
    """
    unknown: dict[Value, int] = {}
    indices = _indices(path, coding, unknown)
    return np.bincount(indices[indices != _UNKNOWN], minlength=_UNKNOWN), unknown


def check_label_fits_frame(label: str | Path, frame: Frame) -> None:
    """Compares the sizes in the two headers; raises DataError where they differ."""
    label_size, frame_size = image_size(label), image_size(frame)
    if label_size != frame_size:
        raise DataError(
            f"label {label} has {format_size(label_size[::-1])} pixels, its frame {frame.name} "
            f"{format_size(frame_size[::-1])} (width x height): both must have the same size"
        )


def _indices(path: str | Path, coding: LabelCoding, unknown: dict[Value, int] | None = None) -> np.ndarray:
    """Class indices, uint8 ``H W``. Values that are not valid are collected in ``unknown``, where it is given."""
    with opened(path) as image:
        id_modes = (*ID_MODES, *WIDE_MODES) if len(coding.to_index) > 256 else ID_MODES
        has_ids = bool(coding.valid) and image.mode in id_modes
        if not has_ids and not (coding.colors is not None and image.mode in COLOR_MODES):
            bits = "8 or 16 bits" if len(coding.to_index) > 256 else "8 bits"
            expected = [f"one channel of {bits} with class ids"] if coding.valid else []
            expected += ["a color for each class"] if coding.colors is not None else []
            raise DataError(f"label {path}: pixels of kind {image.mode}, expected {' or '.join(expected)}")
        content(path, image)
        tiles = getattr(image, "tile", None)  # of files alone, and until they are loaded
        stretched = _STRETCHED.get(str(tiles[0][3]), 1) if tiles else 1
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise unreadable(path, error) from error
        if has_ids:
            return _id_indices(path, _as_stored(image, stretched), coding, unknown)
        assert coding.colors is not None
        return _color_indices(path, image.convert("RGB"), coding.colors, unknown)


def _as_stored(image: Image.Image, stretched: int) -> Image.Image:
    """The image with the values that its file holds."""
    return image if stretched == 1 else image.convert("L").point([value // stretched for value in range(256)])


def _id_indices(
    path: str | Path, image: Image.Image, coding: LabelCoding, unknown: dict[Value, int] | None
) -> np.ndarray:
    pixels, table = np.asarray(image), coding.to_index
    # Pillow counts the values of 8 bits fastest.
    counts = image.histogram() if image.mode in ("L", "P") else np.bincount(pixels.ravel()).tolist()
    wrong: dict[Value, int] = {
        value: count for value, count in enumerate(counts) if count and value not in coding.valid
    }
    if not wrong:
        return table[pixels]
    if unknown is None:
        none = f", or {NO_CLASS} for none" if NO_CLASS in coding.valid else ""
        raise DataError(
            f"label {path} holds the id {_found(wrong, lambda value: pixels == value)}; expected class ids "
            f"{_ranges(coding.valid - {NO_CLASS})}{none} (a picture in colors or gray levels is not a label)"
        )
    unknown.update(wrong)
    is_wrong = np.isin(pixels, list(wrong))
    indices = table[np.where(is_wrong, 0, pixels)]
    indices[is_wrong] = _UNKNOWN
    return indices


def _color_indices(
    path: str | Path, image: Image.Image, colors: Mapping[Color, int], unknown: dict[Value, int] | None
) -> np.ndarray:
    packed = np.asarray(image).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    indices = _color_table(tuple(colors.items()))[packed]
    strange = packed[indices == _UNKNOWN]
    if strange.size:
        values, counts = np.unique(strange, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        wrong: dict[Value, int] = {_unpacked(values[i]): int(counts[i]) for i in order}
        if unknown is None:
            raise DataError(
                f"label {path} holds the color {_found(wrong, lambda color: packed == _packed(color))}; expected one "
                f"of the {len(colors)} colors of its data set"
            )
        unknown.update(wrong)
    return indices


@lru_cache(maxsize=2)  # 16 MB each
def _color_table(colors: tuple[tuple[Color, int], ...]) -> np.ndarray:
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for color, index in colors:
        table[_packed(color)] = index
    return table


def _packed(color: Color) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def _unpacked(value: int) -> Color:
    return int(value) >> 16, int(value) >> 8 & 255, int(value) & 255


def _found(wrong: Mapping[Value, int], where: Callable[..., np.ndarray]) -> str:
    """Values, how many pixels have them, and the place of the first: which to look at."""
    texts = []
    for value, count in list(wrong.items())[:MOST_NAMED]:
        row, column = np.unravel_index(int(np.argmax(where(value))), where(value).shape)
        pixels = "1 pixel" if count == 1 else f"{count:,} pixels"
        texts.append(f"{value} ({pixels}, first in row {row}, column {column})")
    return ", ".join(texts) + (f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else "")


def _ranges(numbers: frozenset[int]) -> str:
    """Whole numbers as text, such as ``0..33`` or ``1..4, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
