import math

import pytest
import torch

from models.losses import WeightedCrossEntropy


def test_worked_out_by_hand():
    # Two pixels count: probabilities 3/4 of class 0 (weight 1) and 1/2 of class 1 (weight 3); class 2 is ignored.
    logits = torch.tensor([[math.log(3), 0.0, -50.0], [0.0, 0.0, -50.0], [5.0, 0.0, 0.0]]).T.view(1, 1, 3, 1, 3)
    label = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    loss = WeightedCrossEntropy([1, 3, 0], ignored=2)(logits, label)
    assert loss.item() == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4)


def test_only_the_last_frame_counts_and_a_pair_is_averaged():
    loss = WeightedCrossEntropy([1, 1, 0], ignored=2)
    good, bad = torch.tensor([9.0, 0, 0]).view(1, 1, 3, 1, 1), torch.tensor([0.0, 9, 0]).view(1, 1, 3, 1, 1)
    label = torch.zeros(1, 1, 1, dtype=torch.uint8)
    assert loss(torch.cat([bad, good], 1), label) == loss(good, label)
    assert loss((good, bad), label).item() == pytest.approx((loss(good, label) + loss(bad, label)).item() / 2)


def test_nothing_labelled_gives_no_loss_and_no_gradient():
    logits = torch.randn(1, 1, 3, 2, 2, requires_grad=True)
    loss = WeightedCrossEntropy([1, 1, 0], ignored=2)(logits, torch.full((1, 2, 2), 2, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0
