"""Augmentation: the same change for frames and label, drawn from the generator alone."""

import pytest
import torch

from tests.cityscapes import CityscapesAugmentation as Augmentation
from utils.errors import OptionError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(height: int, width: int, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames whose channels are 1 + row, 1 + column, 1 + time; a label that is one of 0..18 by row and column."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width)[None].expand(height, width)
    clip = torch.stack([torch.stack([rows + 1, columns + 1, torch.full_like(rows, t + 1)]) for t in range(frames)])
    return clip.to(torch.uint8), ((rows * 5 + columns) % 19).to(torch.uint8)


def expected_label(frames: torch.Tensor) -> torch.Tensor:
    """What the label must be, from the coordinates that the last frame shows."""
    rows, columns = frames[-1, 0].int() - 1, frames[-1, 1].int() - 1
    return torch.where(rows < 0, 19, (rows * 5 + columns) % 19).to(torch.uint8)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(True, 0), Augmentation(False, 2), Augmentation(True, 2), Augmentation(True, 2, (9, 7))],
)
def test_frames_and_label_change_alike(augmentation, seed):
    frames, label = augmentation(*coordinates(12, 20), generator(seed))
    assert (frames.dtype, label.dtype) == (torch.uint8, torch.uint8)
    assert frames.is_contiguous() and label.is_contiguous()
    assert torch.equal(label, expected_label(frames))
    for other in frames:
        assert torch.equal(other[:2], frames[0][:2])
    assert set(frames[:, 2].flatten(1).amax(1).tolist()) == {1, 2, 3}


def test_flip_by_hand_in_half_of_the_clips():
    frames, label = coordinates(2, 3, frames=1)
    results = [Augmentation(flip=True, shift=0)(frames, label, generator(seed))[0] for seed in range(400)]
    rows = [result[0, 1, 0].tolist() for result in results]
    assert all(row in ([1, 2, 3], [3, 2, 1]) for row in rows)
    assert 160 <= rows.count([3, 2, 1]) <= 240  # four standard deviations around 200


def test_shift_reaches_two_pixels_each_way_and_fills():
    frames, label = coordinates(6, 8, frames=1)
    seen = set()
    for seed in range(300):
        shifted, shifted_label = Augmentation(flip=False, shift=2)(frames, label, generator(seed))
        # The pixel (3, 4) holds row 3 - down and column 4 - right.
        down, right = 3 - (int(shifted[0, 0, 3, 4]) - 1), 4 - (int(shifted[0, 1, 3, 4]) - 1)
        seen.add((down, right))
        outside = torch.zeros(6, 8, dtype=torch.bool)
        outside[: max(down, 0)] = True
        outside[6 + min(down, 0) :] = True
        outside[:, : max(right, 0)] = True
        outside[:, 8 + min(right, 0) :] = True
        assert torch.equal(shifted[0].sum(0) == 0, outside)
        assert torch.equal(shifted_label == 19, outside)
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_crop_lies_anywhere_inside():
    frames, label = coordinates(5, 6, frames=1)
    corners = set()
    for seed in range(200):
        cropped, _ = Augmentation(flip=False, shift=0, crop=(4, 4))(frames, label, generator(seed))
        assert tuple(cropped.shape) == (1, 3, 4, 4)
        corners.add((int(cropped[0, 0, 0, 0]) - 1, int(cropped[0, 1, 0, 0]) - 1))
    assert corners == {(top, left) for top in range(2) for left in range(3)}


def test_crop_of_the_whole_frame():
    frames, label = coordinates(4, 4)
    cropped, cropped_label = Augmentation(flip=False, shift=0, crop=(4, 4))(frames, label, generator(0))
    assert torch.equal(cropped, frames) and torch.equal(cropped_label, label)


@pytest.mark.parametrize("crop", [(13, 4), (4, 21)])
def test_frame_smaller_than_the_crop(crop):
    with pytest.raises(OptionError, match=rf"--random-crop cuts out {crop[0]}x{crop[1]} .* frames have 12x20: raise"):
        Augmentation(crop=crop)(*coordinates(12, 20), generator(0))


def test_input_is_left_alone():
    frames, label = coordinates(6, 6)
    before = frames.clone(), label.clone()
    for seed in range(4):
        Augmentation()(frames, label, generator(seed))
    assert torch.equal(frames, before[0]) and torch.equal(label, before[1])
