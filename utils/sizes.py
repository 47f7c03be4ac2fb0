"""Heights and widths, height first: from text such as ``512x1024``, to text, and from a tensor's shape."""

from collections.abc import Iterable, Sequence

FLOW_SIDE = 12  # pixels: the least longer side of frames for OpenCV's DIS optical flow


def parse_size(text: str) -> tuple[int, int]:
    """Height and width, 1 or more, of a text such as ``512x1024``. Raises ``ValueError`` for another text."""
    height, by, width = text.lower().partition("x")
    if not (by and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"{text!r} is no size: expected HxW, for example 512x1024")
    return int(height), int(width)


def height_width(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of a tensor's shape ``... H W``."""
    return shape[-2], shape[-1]


def format_size(size: Iterable[int], by: str = "x") -> str:
    """The text of a height and a width, such as ``512x1024``."""
    height, width = size
    return f"{height}{by}{width}"
