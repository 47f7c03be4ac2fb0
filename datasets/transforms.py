"""Augmentation of a training clip: the same change for all of its frames and its label."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.classes import IGNORED
from utils.errors import OptionError


@dataclass(frozen=True)
class Augmentation:
    """Random horizontal flip (in half of the clips), shift and crop.

    ``shift``: up to so many pixels each way, in whole pixels; what comes in is 0 in frames and ignored in labels.
    ``crop``: height and width of a random cut-out, None for the whole frame.
    """

    flip: bool = True
    shift: int = 2
    crop: tuple[int, int] | None = None

    def __call__(self, frames: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change a clip: frames uint8 S 3 H W and label uint8 H W, drawn from ``generator``.

        Raises OptionError where the frames are smaller than the crop.
        """
        if self.flip and _drawn(0, 1, generator):
            frames, label = frames.flip(-1), label.flip(-1)
        if self.shift:
            down, right = _drawn(-self.shift, self.shift, generator), _drawn(-self.shift, self.shift, generator)
            frames, label = _shifted(frames, down, right, 0), _shifted(label, down, right, IGNORED)
        if self.crop is not None:
            frames, label = self._cropped(frames, label, generator)
        return frames.contiguous(), label.contiguous()

    def _cropped(self, frames: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        (crop_height, crop_width), (height, width) = self.crop, label.shape
        if height < crop_height or width < crop_width:
            raise OptionError(
                f"--random-crop cuts out {crop_height}x{crop_width} pixels (height x width), but frames have "
                f"{height}x{width}: raise --work-size, for example to 1025x2049, or leave --random-crop out"
            )
        top, left = _drawn(0, height - crop_height, generator), _drawn(0, width - crop_width, generator)
        rows, columns = slice(top, top + crop_height), slice(left, left + crop_width)
        return frames[..., rows, columns], label[rows, columns]


def _drawn(lowest: int, highest: int, generator: torch.Generator) -> int:
    """One whole number, both ends included."""
    return int(torch.randint(lowest, highest + 1, (1,), generator=generator))


def _shifted(pixels: Tensor, down: int, right: int, fill: int) -> Tensor:
    """The last two dimensions moved; negative padding cuts off what leaves on the other side."""
    return F.pad(pixels, (right, -right, down, -down), value=fill)
