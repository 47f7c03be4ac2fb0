"""Heights and widths as text: height first, ``512x1024``."""

from collections.abc import Iterable


def parse_size(text: str) -> tuple[int, int]:
    """Height and width, 1 or more, of a text such as ``512x1024``. Raises ``ValueError`` for another text."""
    height, by, width = text.lower().partition("x")
    if not (by and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"{text!r} is no size: expected HxW, for example 512x1024")
    return int(height), int(width)


def format_size(size: Iterable[int], by: str = "x") -> str:
    """The text of a height and a width, such as ``512x1024``."""
    height, width = size
    return f"{height}{by}{width}"
