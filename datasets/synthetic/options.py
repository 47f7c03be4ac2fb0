"""Options of the synthetic street clips, and their defaults."""

from dataclasses import dataclass

from utils.errors import DataError

DEFAULT_ROOT = "data/synthetic"  # of --dataset Synthetic
DEFAULT_SIZE = (128, 256)
TRAIN_CLIPS, VAL_CLIPS = 100, 30


@dataclass(frozen=True)
class StreetOptions:
    """Size, length and character of the clips.

    height, width: of a frame, in pixels; length: frames per clip; difficulty: 0 (every frame is clean), 1 (noise, blur,
    glare, rain and low contrast, drawn anew for each frame) to 3 (most frames are hardly recognizable); seed: of the
    whole set; speed: multiplies the motion of the camera and of everything on the street (1: about half a meter per
    frame, 0: nothing moves); persistence: frames that damage lasts for, of other kinds than that of 0, which is drawn
    anew for each frame.
    """

    height: int = DEFAULT_SIZE[0]
    width: int = DEFAULT_SIZE[1]
    length: int = 8
    difficulty: float = 1.5
    seed: int = 1
    speed: float = 1.0
    persistence: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("height", 32, 2048), ("width", 32, 4096), ("length", 1, 1000), ("seed", 0, 2**31 - 1),
                                ("persistence", 0, 100)):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise DataError(f"{name} {value} of the street clips: expected a whole number from {low} to {high}")
        for name, most in (("difficulty", 3.0), ("speed", 10.0)):
            value = getattr(self, name)
            if not 0.0 <= value <= most:
                raise DataError(f"{name} {value} of the street clips: expected a number from 0 to {most:g}, such as 1")
