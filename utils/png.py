"""Pictures and label maps as PNG files."""

from pathlib import Path

import cv2
import numpy as np

from utils.files import write_bytes
from utils.visualize import Palette

# Rows are like those above them: of a label map that takes a third of the default's time and makes a smaller file, of a
# frame a third of the time for a file of the same size.
_SETTINGS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Writes an image, RGB uint8 ``H W 3``, or a label map, uint8 ``H W``; the file takes its name once it is whole."""
    write_bytes(path, png_of(pixels))


def png_of(pixels: np.ndarray) -> bytes:
    """The content of a PNG with such pixels."""
    assert pixels.dtype == np.uint8
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)  # the order in which OpenCV takes colors
    return _encoded(pixels)


def png_of_labels(labels: np.ndarray, palette: Palette) -> bytes:
    """The content of a PNG with a label map, uint8 ``H W``, in the palette's colors."""
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(palette), 0] = np.asarray(palette, np.uint8)[:, ::-1]
    return _encoded(cv2.applyColorMap(labels, table))  # without the indices of 8 bytes that NumPy would take


def _encoded(pixels: np.ndarray) -> bytes:
    _, content = cv2.imencode(".png", pixels, _SETTINGS)
    return content.tobytes()
