"""Which convolutions feed one batch norm and nothing else, found by running a network whose code cannot be traced."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.cut.structure import tensors_of

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
SHAPES = ("shape", "size", "dim", "ndim", "device", "dtype", "is_cuda", "requires_grad", "layout", "__get__")


def convolutions_with_norms(part: nn.Module, run: Callable[[], object]) -> tuple[tuple[str, str], ...]:
    """Names in ``part`` of each convolution whose output goes into one batch norm alone, and of that batch norm.

    ``run`` runs the part once, in evaluation mode.
    """
    names = {module: name for name, module in part.named_modules()}
    made: dict[int, nn.Module] = {}  # by the id of its output
    read: list[tuple[nn.Module, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()
    kept: list[Tensor] = []  # an id belongs to one tensor as long as that lives
    uses = _Uses()

    def called(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, CONVOLUTIONS):
            made[id(output)] = module
            kept.append(output)
            uses.counts[id(output)] = 0  # what was counted so far was another tensor of that id
        elif arguments and id(arguments[0]) in made:
            read.append((made[id(arguments[0])], module))

    hooks = [
        module.register_forward_hook(called) for module in names if isinstance(module, (*CONVOLUTIONS, nn.BatchNorm2d))
    ]
    try:
        with torch.no_grad(), uses:
            returned = run()
        uses.counts.update({id(tensor) for tensor in tensors_of(returned)})
    finally:
        for hook in hooks:
            hook.remove()
    by_module = {module: number for number, module in made.items()}
    return tuple(
        (names[conv], names[norm])
        for conv, norm in read
        if calls[conv] == calls[norm] == 1 and uses.counts[by_module[conv]] == 1
    )


class _Uses(TorchFunctionMode):
    """Counts the functions that read a tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in SHAPES:
            self.counts.update({id(tensor) for tensor in tensors_of((args, kwargs or {}))})
        return func(*args, **(kwargs or {}))
