"""Pictures of frames, labels and predictions. Images are arrays H W 3 uint8 RGB, labels H W integers."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.files import written_whole

Palette = Sequence[tuple[int, int, int]]
ERROR_COLOR = (213, 94, 0)  # vermilion of the Okabe-Ito palette, which the colour-blind tell from grey
CAPTION_HEIGHT = 22
GAP = 4


def colorized(label: np.ndarray, palette: Palette) -> np.ndarray:
    """A label map in the palette's colours."""
    return np.asarray(palette, dtype=np.uint8)[label]


def overlay(frame: np.ndarray, label: np.ndarray, palette: Palette, alpha: float = 0.5) -> np.ndarray:
    """The frame with the label's colours on top, ``alpha`` of them."""
    mixed = (1 - alpha) * frame.astype(np.float32) + alpha * colorized(label, palette)
    return mixed.round().astype(np.uint8)


def error_map(frame: np.ndarray, prediction: np.ndarray, label: np.ndarray, ignored: int) -> np.ndarray:
    """The frame in pale grey, wrong pixels in vermilion, pixels without a label in black."""
    grey = 128 + frame.mean(axis=2, keepdims=True) / 2
    picture = np.repeat(grey, 3, axis=2).astype(np.uint8)
    picture[prediction != label] = ERROR_COLOR
    picture[label == ignored] = 0
    return picture


def side_by_side(pictures: Sequence[tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """Pictures of one size in rows of ``columns``, each under its caption, on white."""
    height, width = pictures[0][1].shape[:2]
    rows = -(-len(pictures) // columns)
    canvas = Image.new(
        "RGB", (columns * (width + GAP) + GAP, rows * (height + CAPTION_HEIGHT + GAP) + GAP), (255, 255, 255)
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for position, (caption, picture) in enumerate(pictures):
        left = GAP + position % columns * (width + GAP)
        top = GAP + position // columns * (height + CAPTION_HEIGHT + GAP)
        draw.text((left + 2, top + 2), caption, fill=(0, 0, 0), font=font)
        canvas.paste(Image.fromarray(picture), (left, top + CAPTION_HEIGHT))
    return np.asarray(canvas)


def legend(names: Sequence[str], palette: Palette, width: int) -> np.ndarray:
    """Coloured squares with the names of the classes, in as many rows as the width asks for."""
    font, square, row_height = ImageFont.load_default(13), 14, 22
    places, left, top = [], GAP, 4
    for name in names:
        needed = square + 6 + int(font.getlength(name)) + 14
        if left + needed > width and left > GAP:
            left, top = GAP, top + row_height
        places.append((left, top))
        left += needed
    picture = Image.new("RGB", (width, top + row_height), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    for name, color, (left, top) in zip(names, palette, places, strict=False):
        draw.rectangle((left, top, left + square, top + square), fill=tuple(color), outline=(0, 0, 0))
        draw.text((left + square + 6, top - 1), name, fill=(0, 0, 0), font=font)
    return np.asarray(picture)


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one width, one above the other."""
    return np.concatenate(pictures, axis=0)


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes an image or a label map (uint8) as PNG; the file takes its name once it is whole."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG")
    with written_whole(path) as file:
        file.write(encoded.getvalue())
