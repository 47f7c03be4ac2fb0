"""Frames and labels at another size: by hand, and against what PyTorch and Pillow compute."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from utils.resize import resize_frames, resize_label_as_pillow, resize_labels

SIDES = (1, 2, 7, 20, 32, 33, 64, 97)


def both_kinds(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What is found for an array, after seeing that it is found for a tensor too."""
    found = resize_labels(labels, size)
    assert np.array_equal(found, resize_labels(torch.from_numpy(labels), size))
    return found


def test_labels_are_enlarged_pixel_for_pixel():
    labels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(both_kinds(labels, (4, 9)), labels.repeat(2, 1).repeat(3, 2))


def test_labels_are_taken_where_centers_fall():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    # Centers at 1/3 1 5/3 of two rows, and at 0.3 0.9 1.5 2.1 2.7 of three columns; on a border the later one is taken.
    assert both_kinds(labels, (3, 5)).tolist() == [[0, 0, 1, 2, 2], [3, 3, 4, 5, 5], [3, 3, 4, 5, 5]]
    assert both_kinds(labels, (1, 1)).tolist() == [[4]]


def test_labels_of_the_size_are_returned_as_they_are():
    labels = np.zeros((2, 3), np.uint8)
    assert resize_labels(labels, (2, 3)) is labels


@pytest.mark.parametrize(("given", "wanted"), list(itertools.product(SIDES, SIDES)))
def test_any_size_is_computed_as_in_double_precision(given, wanted):
    line = np.arange(given, dtype=np.uint8)[None]
    expected = F.interpolate(torch.arange(given).double()[None, None], size=wanted, mode="nearest-exact")[0, 0]
    assert both_kinds(line, (1, wanted))[0].tolist() == expected.tolist()


@pytest.mark.parametrize("given", [(512, 1024), (1024, 2048), (1025, 2049), (496, 992), (32, 64)])
@pytest.mark.parametrize("wanted", [(1024, 2048), (128, 256), (64, 128)])
def test_sizes_of_published_figures_are_computed_as_pytorch_does(given, wanted):
    labels = torch.randint(20, given, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(labels[None, None], size=wanted, mode="nearest-exact")[0, 0]
    assert torch.equal(resize_labels(labels, wanted), expected)


@pytest.mark.parametrize("size", [(8, 16), (4, 4), (11, 33), (33, 11), (32, 64), (16, 32), (1, 1)])
def test_labels_are_resized_as_pillow_does(size):
    label = np.random.default_rng(1).integers(0, 20, (16, 32), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
    assert np.array_equal(resize_label_as_pillow(torch.from_numpy(label), size), expected)


def test_pillow_takes_another_pixel_on_some_borders():
    """The reason for two functions: were they the same, one would do."""
    line = torch.arange(2048).to(torch.uint8)[None]
    exact, pillow = (resize(line, (1, 2049))[0] for resize in (resize_labels, resize_label_as_pillow))
    assert (exact != pillow).nonzero().tolist() == [[1024]]


def test_frames_are_halved_by_hand():
    # A triangle of two pixels' half width around the middle of columns 2 and 3: weights 1 3 3 1 of 8.
    row = torch.tensor([0, 0, 80, 160, 240, 0, 0, 0], dtype=torch.uint8)
    assert resize_frames(row.expand(1, 3, 2, 8), (2, 4))[0, 0, 0, 1] == (1 * 0 + 3 * 80 + 3 * 160 + 1 * 240) // 8


def test_frames_of_the_size_are_returned_as_they_are():
    frames = torch.zeros(1, 3, 2, 4, dtype=torch.uint8)
    assert resize_frames(frames, (2, 4)) is frames
