"""Images of several frames: pages of a TIFF, animated PNG, WebP, GIF and AVIF."""

import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datasets.image_files import check_pixels, check_size, content, opened, unreadable
from datasets.images import read_picture

SHORTEST, USUAL = 0.011, 0.1  # seconds: a shorter duration, or none, is shown as the usual one, as browsers do
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE = 254, 255  # tags of a TIFF
_REDUCED_OR_MASK, _OLD_REDUCED = 0b101, 2


class Picture(NamedTuple):
    """A frame of an image, RGB uint8 ``3 H W``, and the seconds that it is shown; ``None`` where the file says none."""

    pixels: Tensor
    seconds: float | None


def picture_count(path: str | Path) -> int:
    """Number of frames of an image. A photograph with further ones for viewers (MPO) has one.

    Raises what ``read_picture`` does.
    """
    with opened(path) as image:
        return getattr(image, "n_frames", 1) if _is_animated(path, image) else 1


def read_pictures(path: str | Path) -> Iterator[Picture]:
    """The frames of an image, one after the other, upright. Raises what ``read_picture`` does, where it fails."""
    with opened(path) as image:
        if not _is_animated(path, image):
            yield Picture(read_picture(path), None)
            return
        content(path, image)  # for its checksums
        for number in count():
            try:
                image.seek(number)
            except EOFError:
                return
            except (OSError, SyntaxError, ValueError, struct.error) as error:
                raise unreadable(path, error) from error
            if number and _is_aside(image):
                continue
            if not number and getattr(image, "default_image", False):
                continue  # for viewers that know no animations
            check_size(path, image)
            check_pixels(path, image)
            yield _picture(path, image)


def _is_animated(path: str | Path, image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise unreadable(path, error) from error


def _is_aside(image: Image.Image) -> bool:
    """Whether a page of a TIFF is a smaller copy, or a mask, of another one."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK) or tags.get(_OLD_SUBFILE_TYPE) == _OLD_REDUCED


def _picture(path: str | Path, image: Image.Image) -> Picture:
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            gray = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
            pixels = gray[..., None].repeat(3, axis=2)
        else:
            pixels = np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise unreadable(path, error) from error
    seconds = None
    if "duration" in image.info:
        seconds = float(image.info["duration"]) / 1000
        seconds = seconds if seconds >= SHORTEST else USUAL
    elif image.format != "TIFF":
        seconds = USUAL
    return Picture(torch.from_numpy(pixels).permute(2, 0, 1), seconds)
