"""What can be chosen about the synthetic street clips."""

from dataclasses import dataclass

from utils.errors import DataError


@dataclass(frozen=True)
class StreetOptions:
    """Size, length and character of the clips.

    height, width: of a frame, in pixels; length: frames a clip; difficulty: 0 (every frame is clean), 1 (noise, blur,
    glare, rain and low contrast spoil each frame in its own way) to 3 (hardly anything is left of most frames);
    seed: of the whole set; speed: multiplies the motion of the camera and of everything on the street (1: about half a
    meter a frame, 0: nothing moves).
    """

    height: int = 256
    width: int = 512
    length: int = 8
    difficulty: float = 1.5
    seed: int = 1
    speed: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (("height", 32, 2048), ("width", 32, 4096), ("length", 1, 1000), ("seed", 0, 2**31 - 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise DataError(f"{name} {value} of the street clips: expected a whole number from {low} to {high}")
        for name, high in (("difficulty", 3.0), ("speed", 10.0)):
            value = getattr(self, name)
            if not 0.0 <= value <= high:
                raise DataError(f"{name} {value} of the street clips: expected a number from 0 to {high:g}, such as 1")
