"""How a player shows frames as their source shows them, beside their pixels and moments."""

from dataclasses import dataclass
from fractions import Fraction

UNSPECIFIED = 2  # of the codes of ITU-T H.273
BT601 = 5


@dataclass(frozen=True)
class Display:
    """Shape of a pixel, width to height, and the coding of colors: the codes of ITU-T H.273, as FFmpeg's."""

    pixel_aspect: Fraction = Fraction(1)
    matrix: int = UNSPECIFIED
    full_range: bool = False
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
