"""The learning rate's schedules: one function each. Reading their names needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from utils.errors import OptionError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

PLATEAU_FLOOR = 1e-9
POW_B_EPOCHS = 50

# Called with the optimizer and the number of epochs; what it returns is stepped once an epoch, with the mean training
# loss where it is a ReduceLROnPlateau.
Schedule = Callable[["Optimizer", int], "LRScheduler"]

_SCHEDULES: dict[str, Schedule] = {}


def register_schedule(name: str, schedule: Schedule) -> None:
    """Makes a schedule known as ``--lr-strategy NAME``. Raises ``OptionError`` for a name that is taken."""
    if name in _SCHEDULES:
        raise OptionError(f"a schedule named {name!r} is registered already: expected another name")
    _SCHEDULES[name] = schedule


def schedule_names() -> tuple[str, ...]:
    return tuple(_SCHEDULES)


def make_schedule(name: str, optimizer: Optimizer, num_epochs: int) -> LRScheduler:
    """The schedule of that name."""
    return _SCHEDULES[name](optimizer, num_epochs)


def plateau(factor: float) -> Schedule:
    """Times ``factor`` when the mean training loss stalls (PyTorch's patience of 10 epochs), not below 1e-9."""

    def schedule(optimizer: Optimizer, num_epochs: int) -> LRScheduler:
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        return ReduceLROnPlateau(optimizer, factor=factor, min_lr=PLATEAU_FLOOR, eps=0)

    return schedule


def polynomial(power: float, length: int | None = None) -> Schedule:
    """``(1 - epoch / length) ** power`` from epoch 0 on, over all epochs or ``length``, whose last rate stays."""

    def schedule(optimizer: Optimizer, num_epochs: int) -> LRScheduler:
        from torch.optim.lr_scheduler import LambdaLR

        epochs = length or num_epochs
        return LambdaLR(optimizer, lambda epoch: (1 - min(epoch, epochs - 1) / epochs) ** power)

    return schedule


for _factor in (3, 5, 7, 8, 9):
    register_schedule(f"plateau_0{_factor}", plateau(_factor / 10))
register_schedule("pow_07", polynomial(0.7))
register_schedule("pow_09", polynomial(0.9))
register_schedule("pow_09_b", polynomial(0.9, POW_B_EPOCHS))
