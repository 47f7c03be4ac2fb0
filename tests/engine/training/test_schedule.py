"""Learning rates of every schedule, epoch by epoch."""

import pytest
import torch

from engine.training.loop import advance_schedule
from engine.training.schedule import make_schedule


def rates(strategy: str, num_epochs: int, epochs: int, losses=None) -> list[float]:
    """Learning rates of the first epochs, from a start of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(strategy, optimizer, num_epochs)
    found = []
    for epoch in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        advance_schedule(schedule, losses[epoch] if losses else 1.0)
    return found


def test_polynomial_decay_steps_once_an_epoch():
    assert rates("pow_09", 4, 4) == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9])
    assert rates("pow_07", 4, 2) == pytest.approx([1, 0.75**0.7])


def test_pow_09_b_decays_over_fifty_epochs_and_stays():
    found = rates("pow_09_b", 150, 60)
    assert found[:2] == pytest.approx([1, 0.98**0.9])
    assert found[49:] == pytest.approx([0.02**0.9] * 11)


@pytest.mark.parametrize(("strategy", "factor"), [("plateau_03", 0.3), ("plateau_08", 0.8), ("plateau_09", 0.9)])
def test_plateau_multiplies_when_the_training_loss_stalls(strategy, factor):
    # The first epoch sets the best loss; the eleventh without a better one is more than the patience of ten.
    found = rates(strategy, 150, 14)
    assert found[:12] == [1.0] * 12
    assert found[12:] == pytest.approx([factor] * 2)


def test_plateau_leaves_a_falling_loss_alone():
    assert rates("plateau_05", 150, 20, losses=[1 / (n + 1) for n in range(20)]) == [1.0] * 20


def test_plateau_never_goes_below_its_floor():
    # 0.3 ** 18 is below 1e-9 already; a schedule without a floor would be at 1e-26 by then.
    assert rates("plateau_03", 150, 600)[-1] == pytest.approx(1e-9, rel=0.05)
