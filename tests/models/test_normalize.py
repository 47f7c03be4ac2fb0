"""What a network takes, for clips and for single frames: the same bits as the formula of either path."""

import numpy as np
import pytest
import torch

from models.backbone import BackboneTraits
from models.normalize import network_input
from tests.networks import BACKBONES

CPU = torch.device("cpu")
ALL_VALUES = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 1, 3, 16, 16)  # B S 3 H W


def by_numpy(frames: torch.Tensor, traits: BackboneTraits) -> np.ndarray:
    """The formula in float32, which rounds after each step."""
    x = frames.numpy().astype(np.float32) / np.float32(255)
    if traits.mean is None:
        return x
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (traits.mean, traits.std))
    return (x - mean) / std


@pytest.mark.parametrize("backbone", ["erf", "psp101"])
def test_clips_and_frames_become_the_same_bits(backbone):
    traits = BACKBONES[backbone]
    expected = by_numpy(ALL_VALUES, traits)
    clip, frame = network_input(ALL_VALUES, traits, CPU), ALL_VALUES[:, 0]
    found = network_input(frame, traits, CPU, torch.channels_last)
    assert np.array_equal(clip.numpy(), expected) and np.array_equal(found.numpy(), expected[:, 0])
    assert clip.is_contiguous() and found.is_contiguous(memory_format=torch.channels_last)
    assert clip.dtype == found.dtype == torch.float32


def test_the_given_frames_stay_as_they_are():
    for dtype in (torch.uint8, torch.float32):
        frames = ALL_VALUES.to(dtype)
        network_input(frames, BACKBONES["psp101"], CPU)
        assert torch.equal(frames, ALL_VALUES.to(dtype))
