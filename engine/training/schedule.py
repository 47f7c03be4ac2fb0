"""Learning-rate schedules, one function each. Their names can be read without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from utils.errors import OptionError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

PLATEAU_FLOOR = 1e-9
POW_B_EPOCHS = 50

# Called with the optimizer and the number of epochs. The scheduler that it returns is stepped after each epoch, a
# ReduceLROnPlateau with the mean training loss.
Schedule = Callable[["Optimizer", int], "LRScheduler"]

_SCHEDULES: dict[str, Schedule] = {}


def register_schedule(name: str, schedule: Schedule) -> None:
    """Registers a schedule as ``--lr-strategy NAME``. Raises ``OptionError`` for a name that is taken."""
    if name in _SCHEDULES:
        raise OptionError(f"a schedule named {name!r} is registered already: expected another name")
    _SCHEDULES[name] = schedule


def schedule_names() -> tuple[str, ...]:
    """Names of all schedules, the shipped ones first."""
    return tuple(_SCHEDULES)


def make_schedule(name: str, optimizer: Optimizer, num_epochs: int) -> LRScheduler:
    """The scheduler of that name for an optimizer.

    Raises ``OptionError`` for a name that is not registered and for less than one epoch.
    """
    if name not in _SCHEDULES:
        raise OptionError(f"--lr-strategy {name} is not known: expected one of {', '.join(_SCHEDULES)}")
    if type(num_epochs) is not int or num_epochs < 1:
        raise OptionError(f"--num-epochs is {num_epochs!r}: expected 1 or more")
    return _SCHEDULES[name](optimizer, num_epochs)


def plateau(factor: float) -> Schedule:
    """Multiplies the rate by ``factor`` where the mean training loss stalls for 10 epochs, down to 1e-9."""

    def schedule(optimizer: Optimizer, num_epochs: int) -> LRScheduler:
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        return ReduceLROnPlateau(optimizer, factor=factor, min_lr=PLATEAU_FLOOR, eps=0)

    return schedule


def polynomial(power: float, length: int | None = None) -> Schedule:
    """Polynomial decay: ``(1 - epoch / length) ** power`` of the first rate, with epochs from 0.

    ``length`` defaults to the number of epochs; after it the rate stays constant.
    """

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
