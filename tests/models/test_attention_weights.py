"""Weights of one pixel: applied to the values they must give what the operator itself gives there."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.attention_weights import global_weights, local_weights
from models.local_attention import global_attention, local_attention

H, W, WINDOW = 6, 7, 5
PIXELS = [(0, 0), (5, 6), (0, 3), (3, 3), (2, 1)]
SINKS = [None, torch.tensor(0.7, dtype=torch.float64)]


@pytest.fixture
def tensors():
    make = torch.Generator().manual_seed(3)
    shapes = (1, 4, H, W), (1, 4, 3, H, W), (1, 5, 3, H, W)
    return tuple(torch.randn(shape, generator=make, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize(("row", "column"), PIXELS)
def test_local_weights_are_those_of_the_reference(tensors, row, column, sink):
    query, keys, values = tensors
    expected = local_attention(query, keys, values, WINDOW, sink, "reference")[0, :, row, column]
    seen = local_weights(query[0], keys[0], row, column, WINDOW, sink)
    padded = F.pad(values[0], (2, 2, 2, 2))[:, :, row : row + WINDOW, column : column + WINDOW]  # D T n n
    torch.testing.assert_close(torch.einsum("tyx,dtyx->d", seen.weights, padded), expected)
    assert seen.weights.sum().item() + seen.outside + seen.sink == pytest.approx(1)
    assert (seen.sink > 0) == (sink is not None)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize(("row", "column"), PIXELS)
def test_global_weights_are_those_of_the_operator(tensors, row, column, sink):
    query, keys, values = tensors
    expected = global_attention(query, keys, values, sink)[0, :, row, column]
    seen = global_weights(query[0], keys[0], row, column, sink)
    torch.testing.assert_close(torch.einsum("tyx,dtyx->d", seen.weights, values[0]), expected)
    assert seen.weights.sum().item() + seen.sink == pytest.approx(1)


def test_a_corner_by_hand():
    # One frame of 2 x 2, window 3: four neighbors inside with score log 2, five outside with score 0.
    seen = local_weights(torch.full((1, 2, 2), math.log(2)), torch.ones(1, 1, 2, 2), 0, 0, 3)
    assert seen.weights[0, 1:, 1:].flatten().tolist() == pytest.approx([2 / 13] * 4)
    assert seen.weights.sum().item() == pytest.approx(8 / 13)
    assert seen.outside == pytest.approx(5 / 13)


def test_a_masked_border_leaves_all_weight_inside():
    # The same without the five outside: four equal scores share all.
    query, keys = torch.full((1, 2, 2), math.log(2)), torch.ones(1, 1, 2, 2)
    seen = local_weights(query, keys, 0, 0, 3, mask_border=True)
    assert seen.outside == 0
    assert torch.allclose(seen.weights[0, 1:, 1:], torch.full((2, 2), 0.25))
    assert seen.weights.sum().item() == pytest.approx(1)
