"""Color on a terminal, and plain text everywhere else."""

import os
from typing import IO, Any

# Orange to blue in the 256-color palette: the color-blind tell them apart, and both read on black and on white.
_SHADES = (166, 172, 178, 245, 74, 33)
_STEPS = (0.3, 0.45, 0.6, 0.7, 0.8)


def supports_color(stream: IO[Any]) -> bool:
    """Whether text to a stream may be colored: it is a terminal that can, and ``NO_COLOR`` is not set."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def shaded(text: str, share: float) -> str:
    """The text, colored by a share in [0, 1], from orange for low to blue for high."""
    shade = _SHADES[sum(share >= step for step in _STEPS)]
    return f"\x1b[38;5;{shade}m{text}\x1b[0m"
