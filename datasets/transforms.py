"""Augmentation of a training clip: the same transform for all of its frames and its label."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import OptionError
from utils.sizes import format_size


@dataclass(frozen=True)
class Augmentation:
    """Random horizontal flip (in half of the clips), shift and crop.

    ``shift``: largest shift along each axis, in whole pixels; frames are filled with 0, labels with the ignore index.
    ``crop``: height and width of a random crop, None for the whole frame.
    """

    ignored: int
    flip: bool = True
    shift: int = 2
    crop: tuple[int, int] | None = None

    def __call__(self, frames: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augments a clip: frames uint8 S 3 H W and label uint8 H W, with random draws from ``generator``.

        Raises OptionError where the frames are smaller than the crop.
        """
        if self.flip and _drawn(0, 1, generator):
            frames, label = frames.flip(-1), label.flip(-1)
        if self.shift:
            down, right = _drawn(-self.shift, self.shift, generator), _drawn(-self.shift, self.shift, generator)
            frames, label = _shifted(frames, down, right, 0), _shifted(label, down, right, self.ignored)
        if self.crop is not None:
            frames, label = _cropped(frames, label, self.crop, generator)
        return frames.contiguous(), label.contiguous()


def _cropped(frames: Tensor, label: Tensor, crop: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    (crop_height, crop_width), (height, width) = crop, label.shape
    if height < crop_height or width < crop_width:
        raise OptionError(
            f"--random-crop cuts out {format_size(crop)} pixels (height x width), but frames have "
            f"{format_size(label.shape)}: raise --work-size, for example to 1025x2049, or leave --random-crop out"
        )
    top, left = _drawn(0, height - crop_height, generator), _drawn(0, width - crop_width, generator)
    rows, columns = slice(top, top + crop_height), slice(left, left + crop_width)
    return frames[..., rows, columns], label[rows, columns]


def _drawn(lowest: int, highest: int, generator: torch.Generator) -> int:
    """A uniform random integer, both ends included."""
    return int(torch.randint(lowest, highest + 1, (1,), generator=generator))


def _shifted(pixels: Tensor, down: int, right: int, fill: int) -> Tensor:
    """The last two dimensions shifted; negative padding crops the opposite side."""
    return F.pad(pixels, (right, -right, down, -down), value=fill)
