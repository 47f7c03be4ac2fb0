"""Images of frames, labels and predictions. Images are arrays H W 3 uint8 RGB, labels H W integers."""

import base64
import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Palette = Sequence[tuple[int, int, int]]
ERROR_COLOR = (213, 94, 0)  # vermilion of the Okabe-Ito palette, distinct from gray for the color-blind
MARK_COLOR = (86, 180, 233)  # sky blue of the same palette; visible on dark and bright frames with a black edge
# Meaning of the colors of an error map.
ERROR_LEGEND = (("wrong", ERROR_COLOR), ("right", (200, 200, 200)), ("without a label", (0, 0, 0)))
CAPTION_HEIGHT = 22
SCALE_HEIGHT = 32
GAP = 4


def colorized(label: np.ndarray, palette: Palette) -> np.ndarray:
    """A label map in the palette's colors."""
    return np.asarray(palette, dtype=np.uint8)[label]


def overlay(frame: np.ndarray, label: np.ndarray, palette: Palette, alpha: float = 0.5) -> np.ndarray:
    """The frame with the label's colors on top; ``alpha`` is the overlay opacity in [0, 1]."""
    return blended(frame, colorized(label, palette), alpha)


def blended(frame: np.ndarray, colors: np.ndarray, alpha: float, out: np.ndarray | None = None) -> np.ndarray:
    """``(1 - alpha) * frame + alpha * colors``, rounded to uint8; into ``out``, which may be a view, where given."""
    return cv2.addWeighted(frame, 1 - alpha, colors, alpha, 0, dst=out)


def error_map(frame: np.ndarray, prediction: np.ndarray, label: np.ndarray, ignored: int) -> np.ndarray:
    """The frame in pale gray, wrong pixels in vermilion, pixels without a label in black."""
    gray = 128 + frame.mean(axis=2, keepdims=True) / 2
    picture = np.repeat(gray, 3, axis=2).astype(np.uint8)
    picture[prediction != label] = ERROR_COLOR
    picture[label == ignored] = 0
    return picture


def heat_overlay(frame: np.ndarray, heat: np.ndarray, shown: np.ndarray, highest: float) -> np.ndarray:
    """The frame in gray with ``heat`` (h w, 0 to ``highest``) overlaid, from violet to yellow.

    ``shown`` (h w, bool) is where heat is drawn; its edge is outlined and the rest of the frame is dimmed.
    """
    height, width = frame.shape[:2]
    coarse = np.clip(255 * heat / max(highest, 1e-12), 0, 255).round().astype(np.uint8)
    levels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
    inside = cv2.resize(shown.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
    gray = frame.mean(axis=2, keepdims=True) * (0.45 + 0.4 * inside)
    alpha = 0.95 * inside * np.sqrt(levels / 255)
    picture = ((1 - alpha) * gray + alpha * heat_colors(levels[..., 0])).round().astype(np.uint8)
    if not shown.all():
        edge = cv2.morphologyEx(np.pad(inside[..., 0], 1), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        picture[(edge > 0) & (inside[..., 0] > 0)] = MARK_COLOR
    return picture


def heat_colors(levels: np.ndarray) -> np.ndarray:
    """Levels 0..255 (any shape, uint8) as RGB of the color map "inferno", whose lightness rises evenly."""
    flat = cv2.applyColorMap(np.ascontiguousarray(levels).reshape(-1, 1), cv2.COLORMAP_INFERNO)
    return flat[..., ::-1].reshape(*levels.shape, 3)


def heat_scale(width: int, highest: float) -> np.ndarray:
    """The color bar of a heat map: 0 to ``highest``, a share, in percent."""
    height, font = SCALE_HEIGHT, ImageFont.load_default(SCALE_HEIGHT - 11)
    canvas = Image.new("RGB", (width, height), (0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    high = f"{100 * highest:.2g} %"
    left, right = 10 + int(font.getlength("0")) + 8, width - int(font.getlength(high)) - 18
    draw.text((10, height // 2), "0", fill=(255, 255, 255), font=font, anchor="lm")
    draw.text((right + 8, height // 2), high, fill=(255, 255, 255), font=font, anchor="lm")
    if right > left:
        ramp = np.linspace(0, 255, right - left).round().astype(np.uint8)
        canvas.paste(Image.fromarray(np.repeat(heat_colors(ramp)[None], height - 14, axis=0)), (left, 7))
    return np.asarray(canvas)


def marked(frame: np.ndarray, down: float, right: float) -> np.ndarray:
    """The frame with a ring and a cross around the point at ``down`` and ``right``, in pixels."""
    canvas = Image.fromarray(frame)
    draw, radius = ImageDraw.Draw(canvas), max(5, frame.shape[1] // 80)
    for color, wide in (((0, 0, 0), 5), (MARK_COLOR, 2)):
        draw.ellipse((right - radius, down - radius, right + radius, down + radius), outline=color, width=wide)
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            start, end = radius, 2 * radius
            draw.line(
                (right + dx * start, down + dy * start, right + dx * end, down + dy * end), fill=color, width=wide
            )
    return np.asarray(canvas)


def narrowed(picture: np.ndarray, width: int, exact: bool = False) -> np.ndarray:
    """The picture at most ``width`` wide; ``exact`` resizes by nearest neighbor, as label maps need it."""
    height, wide = picture.shape[:2]
    if wide <= width:
        return picture
    # Not by utils.resize: OpenCV takes the pixel at a cell's upper left corner instead of that at its center, and
    # pictures of labels stay, pixel for pixel, those of earlier reports.
    method = cv2.INTER_NEAREST if exact else cv2.INTER_AREA
    return cv2.resize(picture, (width, max(1, round(height * width / wide))), interpolation=method)


def enlarged_to(picture: np.ndarray, width: int) -> np.ndarray:
    """The picture, enlarged to ``width`` by bicubic interpolation."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)


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
    """Colored squares with the names of the classes, in as many rows as they need at that width."""
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


def data_uri(picture: np.ndarray, exact: bool = False) -> str:
    """The picture as a data URI: JPEG, or PNG for ``exact`` colors."""
    if exact:
        return png_uri(_encoded(picture, "PNG", optimize=True))
    return "data:image/jpeg;base64," + base64.b64encode(_encoded(picture, "JPEG", quality=85)).decode("ascii")


def png_uri(png: bytes) -> str:
    """An encoded PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _encoded(picture: np.ndarray, file_format: str, **options: int) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, file_format, **options)
    return encoded.getvalue()
