"""Preprocessing: from pixels to the input of a network."""

import functools

import torch
from torch import Tensor

from models.backbone import BackboneTraits
from utils.transfer import sent


def network_input(
    frames: Tensor,
    traits: BackboneTraits,
    device: torch.device,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """RGB frames ``... 3 H W`` uint8 as float32 on the device: in [0, 1], or by the backbone's mean and std."""
    frames = sent(frames, device).to(torch.float32, memory_format=memory_format, copy=True).div_(255)
    if traits.mean is None or traits.std is None:
        return frames
    return frames.sub_(_per_channel(tuple(traits.mean), device)).div_(_per_channel(tuple(traits.std), device))


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant ``3 1 1``, kept on the device: the next copy of it would wait for all that runs there."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1)
