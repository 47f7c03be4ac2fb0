"""Augmentation of a training clip: the same transform for all of its frames and its label."""

import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.sampling import seeded_generator
from utils.errors import OptionError
from utils.sizes import format_size


@dataclass(frozen=True)
class Transform:
    """What all frames of a clip, and its label, go through: flip, shift in whole pixels, crop (top, left, height,
    width)."""

    flip: bool = False
    down: int = 0
    right: int = 0
    crop: tuple[int, int, int, int] | None = None

    def __call__(self, pixels: Tensor, fill: int) -> Tensor:
        """Transforms the last two dimensions; what is shifted in from outside is ``fill``."""
        if self.flip:
            pixels = pixels.flip(-1)
        if self.down or self.right:
            # Negative padding crops the opposite side.
            pixels = F.pad(pixels, (self.right, -self.right, self.down, -self.down), value=fill)
        if self.crop is not None:
            top, left, height, width = self.crop
            pixels = pixels[..., top : top + height, left : left + width]
        return pixels.contiguous()


@dataclass(frozen=True)
class Augmentation:
    """Random horizontal flip (in half of the clips), shift and crop.

    ``shift``: largest shift along each axis, in whole pixels; frames are filled with 0, labels with the ignore index.
    ``crop``: height and width of a random crop, None for the whole frame. With ``variants`` a video's flips and shifts
    are among that many: flipped and not, by as many shifts as make that number, drawn once for the video; 1: none.
    """

    ignored: int
    flip: bool = True
    shift: int = 2
    crop: tuple[int, int] | None = None
    variants: int | None = None

    def __call__(self, frames: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augments a clip: frames uint8 S 3 H W and label uint8 H W, with random draws from ``generator``.

        Raises OptionError where the frames are smaller than the crop.
        """
        transform = self.drawn(generator, (label.shape[-2], label.shape[-1]))
        return transform(frames, 0), transform(label, self.ignored)

    def drawn(self, generator: torch.Generator, size: tuple[int, int], video: str = "") -> Transform:
        """A random transform of the frames, of height and width ``size``, of a clip; ``video`` names its video.

        Raises OptionError where the frames are smaller than the crop.
        """
        flip, down, right = False, 0, 0
        if self.flip:
            flip = bool(_drawn(0, 1, generator))
        if self.shift:
            down, right = _drawn(-self.shift, self.shift, generator), _drawn(-self.shift, self.shift, generator)
        if self.variants is not None:
            flip, down, right = self._nearest_variant(flip, down, right, video)
        return Transform(flip, down, right, self._crop_drawn(generator, size))

    def _nearest_variant(self, flip: bool, down: int, right: int, video: str) -> tuple[bool, int, int]:
        """The variant that stands for a flip and shift; of all variants, that is these themselves."""
        assert self.variants is not None
        side = 2 * self.shift + 1
        kept = max(1, self.variants // 2 if self.flip else self.variants)
        number = (down + self.shift) * side + right + self.shift
        still = self.shift * side + self.shift
        others = [each for each in range(side**2) if each != still]
        # By the video alone: its clips, and trainings with other seeds, share the frames that are made of it.
        order = torch.randperm(len(others), generator=seeded_generator(zlib.crc32(video.encode()))).tolist()
        shifts = sorted([still, *(others[place] for place in order[: kept - 1])])
        down, right = divmod(shifts[number % kept], side)
        return flip and self.variants > 1, down - self.shift, right - self.shift

    def _crop_drawn(self, generator: torch.Generator, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        if self.crop is None:
            return None
        (crop_height, crop_width), (height, width) = self.crop, size
        if height < crop_height or width < crop_width:
            raise OptionError(
                f"--random-crop cuts out {format_size(self.crop)} pixels (height x width), but frames have "
                f"{format_size(size)}: raise --work-size, for example to 1025x2049, or leave --random-crop out"
            )
        return _drawn(0, height - crop_height, generator), _drawn(0, width - crop_width, generator), *self.crop


def _drawn(lowest: int, highest: int, generator: torch.Generator) -> int:
    """A uniform random integer, both ends included."""
    return int(torch.randint(lowest, highest + 1, (1,), generator=generator))
