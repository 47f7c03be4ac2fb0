"""Image files opened with care: which kinds are read, how large and how much work they may be, and what is damaged."""

import os
import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from utils.allocator import make_room
from utils.errors import DataError, UnreachableError
from utils.limits import AT_MOST, MAX_SCANNED, too_many_pixels

# Of Pillow's formats those that are pictures and nothing else: others would start an interpreter, as for EPS.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
ENDINGS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".jp2", ".avif",
)  # fmt: skip
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE, _SCAN = b"\xff\xd8", b"\xff\xda"
_BITS, _SAMPLE_FORMAT, _FLOATING = 258, 339, 3  # tags of a TIFF

# Pillow warns about large images when it reads their header; here they are refused instead.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def opened(path: str | Path) -> Image.Image:
    """The image with only its header read, to be closed by the caller.

    Raises DataError where the file is no image or of more than MAX_PIXELS, its child UnreachableError where it is
    missing or its file system does not answer.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise DataError(f"image {path} cannot be read: it is a pipe or a device: expected a file")
        image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise UnreachableError(
            f"no file {path}: it was there when the folder was listed, or its name is wrong"
        ) from error
    except Image.UnidentifiedImageError as error:
        pixels = _pixels_of_tiff(path)
        if pixels:
            raise _of_other_numbers(path, pixels) from error
        raise damaged(path, f"none of {', '.join(FORMATS)}, or cut off in its header") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image {path} has far too many {AT_MOST}") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise unreadable(path, error) from error
    check_size(path, image)
    return image


def check_size(path: str | Path, image: Image.Image) -> None:
    """Raises DataError for an image of too many pixels, and closes it."""
    too_large = too_many_pixels(image.height, image.width)
    if too_large:
        image.close()
        raise DataError(f"image {path} has {too_large}")
    make_room(image.height, image.width)


def check_pixels(path: str | Path, image: Image.Image) -> None:
    """Raises DataError where the pixels of an image are neither brightness nor colors of 8 or 16 bits."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating-point" if image.mode == "F" else "whole"
        raise _of_other_numbers(path, f"{kind} numbers of 32 bits")


def content(path: str | Path, image: Image.Image) -> np.ndarray:
    """A file's bytes, before its pixels are decoded; ``image`` is its header.

    Raises DataError for a PNG whose checksums do not hold, as decoders return wrong pixels for some damaged files, and
    for a JPEG that would take minutes.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise unreadable(path, error) from error
    reason = _png_damage(data.data)
    if reason:
        raise damaged(path, reason)
    if data[:2].tobytes() == _JPEG_SIGNATURE:
        scans = data.tobytes().count(_SCAN)  # never inside of one
        if scans * image.width * image.height > MAX_SCANNED:
            raise DataError(
                f"image {path} has {scans} scans of {image.width}x{image.height} pixels (width x height), too many to "
                "be decoded: expected about ten; save it as an ordinary JPEG or PNG"
            )
    return data


def unreadable(path: str | Path, error: Exception) -> DataError:
    """A read error as ``UnreachableError`` (the file system does not answer) or ``DataError`` (not an image)."""
    if isinstance(error, OSError) and error.errno is not None:  # decoders raise it without a number
        return UnreachableError(f"image {path} cannot be read: {error.strerror}; see whether its file system is there")
    return damaged(path, str(error))


def damaged(path: str | Path, reason: str) -> DataError:
    """That a file's content is no image."""
    first_line = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return DataError(f"image {path} cannot be read: {first_line}; copy or download this file again")


def _of_other_numbers(path: str | Path, pixels: str) -> DataError:
    return DataError(
        f"image {path}: its pixels are {pixels}: expected whole numbers of 8 or 16 bits; convert it, for example to PNG"
    )


def _pixels_of_tiff(path: str | Path) -> str:
    """What the pixels of a TIFF are that Pillow does not know; empty for other files."""
    try:
        with open(path, "rb") as file:
            directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(directory.next)
            directory.load(file)
        bits = directory.get(_BITS, (1,))
        floating = _FLOATING in directory.get(_SAMPLE_FORMAT, (1,))
    except Exception:  # whatever a damaged file makes of it
        return ""
    return f"{len(bits)} {'floating-point' if floating else 'whole'} numbers of {bits[0]} bits"


def _png_damage(content: memoryview) -> str:
    """What is wrong with a PNG's chunks: a missing end or a checksum that does not hold; empty for other kinds.

    Found here, since libpng prints lines of its own about such files.
    """
    # Own code although Pillow has verify(): that one misses damage in the last chunk (of a label of 168 bytes 8 of 168
    # wrong bytes and 4 of 168 places to cut it off), and takes longer (a frame's 1.5 MB 0.42 instead of 0.36 ms).
    if bytes(content[:8]) != _PNG_SIGNATURE:
        return ""
    position = 8
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length  # length, kind, content, checksum
        if end > len(content):
            break
        if zlib.crc32(content[position + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            return f"its content at byte {position} has another checksum than when it was written"
        if kind == b"IEND":
            return ""
        position = end
    return f"cut short after {len(content)} bytes"
