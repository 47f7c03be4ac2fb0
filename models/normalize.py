"""Preprocessing: from pixels to the input of a network."""

import torch
from torch import Tensor

from models.backbone import BackboneTraits


def network_input(
    frames: Tensor,
    traits: BackboneTraits,
    device: torch.device,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """RGB frames ``... 3 H W`` uint8 as float32 on the device: in [0, 1], or by the backbone's mean and std."""
    frames = frames.to(device, non_blocking=True).to(torch.float32, memory_format=memory_format, copy=True).div_(255)
    if traits.mean is None or traits.std is None:
        return frames
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (traits.mean, traits.std))
    return frames.sub_(mean).div_(std)
