"""Checkpoints whose numbers no training has: refused with the number, before they overflow or train nonsense."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from engine.training.checkpoint import _resume_optimizer, _resume_schedule
from engine.training.schedule import make_schedule


def stepped(strategy: str = "plateau_08") -> SimpleNamespace:
    """An optimizer of two numbers and its schedule, after one step and one epoch."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=1e-3, weight_decay=1e-4)
    schedule = make_schedule(strategy, optimizer, 10)
    parameter.grad = torch.ones(2)
    optimizer.step()
    schedule.step(*([1.0] if strategy.startswith("plateau") else []))
    return SimpleNamespace(optimizer=optimizer, schedule=schedule)


def changed(state: dict, path: tuple, value: object) -> dict:
    state = copy.deepcopy(state)
    place = state
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return state


@pytest.mark.parametrize("value", [-1e9, -1.0, math.nan, math.inf, 1e30])
def test_absurd_steps_are_refused(value):
    state = changed(stepped().optimizer.state_dict(), ("state", 0, "step"), torch.tensor(value))
    with pytest.raises(ValueError, match=r"the optimizer's step is .*, expected 0 to 1e\+12"):
        _resume_optimizer(stepped().optimizer, state, "c")


@pytest.mark.parametrize(
    ("name", "value"),
    [("exp_avg", math.nan), ("exp_avg", math.inf), ("exp_avg_sq", -1.0), ("exp_avg_sq", math.nan)],
)
def test_absurd_moments_are_refused(name, value):
    state = changed(stepped().optimizer.state_dict(), ("state", 0, name), torch.full((2,), value))
    with pytest.raises(ValueError, match="moments"):
        _resume_optimizer(stepped().optimizer, state, "c")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", 1e30),
        ("betas", (1.0, 0.999)),
        ("betas", (-0.1, 0.9)),
        ("eps", -1e-8),
        ("weight_decay", math.inf),
    ],
)
def test_absurd_settings_of_the_optimizer_are_refused(name, value):
    state = changed(stepped().optimizer.state_dict(), ("param_groups", 0, name), value)
    with pytest.raises(ValueError, match=f"the optimizer's settings: {name} is .*, expected "):
        _resume_optimizer(stepped().optimizer, state, "c")


@pytest.mark.parametrize("name", ["capturable", "differentiable", "amsgrad", "fused", "foreach"])
def test_how_the_optimizer_computes_is_its_own(name):
    training, state = stepped(), changed(stepped().optimizer.state_dict(), ("param_groups", 0, name), True)
    own = training.optimizer.param_groups[0][name]
    _resume_optimizer(training.optimizer, state, "c")
    assert training.optimizer.param_groups[0][name] is own
    training.optimizer.step()


@pytest.mark.parametrize(
    ("strategy", "name", "value"),
    [
        ("plateau_08", "factor", 1e300),
        ("plateau_08", "factor", -0.5),
        ("plateau_08", "best", math.nan),
        ("plateau_08", "num_bad_epochs", 10**30),
        ("plateau_08", "num_bad_epochs", -5),
        ("plateau_08", "_last_lr", [math.inf]),
        ("plateau_08", "min_lrs", [1e30]),
        ("pow_09", "last_epoch", -(10**30)),
        ("pow_09", "last_epoch", 10**400),
        ("pow_09", "base_lrs", [-1.0]),
        ("pow_09", "_last_lr", [1e300]),
        ("pow_09", "_step_count", 10**30),
    ],
)
def test_absurd_numbers_of_a_schedule_are_refused(strategy, name, value):
    training = stepped(strategy)
    state = changed(training.schedule.state_dict(), (name,), value)
    with pytest.raises((ValueError, OverflowError)):
        _resume_schedule(training, state, 1, "c")


@pytest.mark.parametrize("strategy", ["plateau_03", "plateau_09", "pow_07", "pow_09", "pow_09_b"])
def test_what_a_training_wrote_is_taken(strategy):
    before, after = stepped(strategy), stepped(strategy)
    _resume_optimizer(after.optimizer, copy.deepcopy(before.optimizer.state_dict()), "c")
    _resume_schedule(after, copy.deepcopy(before.schedule.state_dict()), 1, "c")
    assert after.schedule.state_dict() == before.schedule.state_dict()
    assert after.optimizer.param_groups[0] | {"params": 0} == before.optimizer.param_groups[0] | {"params": 0}
