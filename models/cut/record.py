"""Runs of a whole network that note which modules are called, and what those before the cut return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.cut.frames import stride_of
from models.cut.structure import logits_of, tensors_of
from utils.errors import OptionError


@dataclass
class Record:
    """A run of the whole network: its logits, calls of modules in order, and the outputs of modules before the cut."""

    cut: str
    logits: Tensor
    calls: list[tuple[str, str]]  # ("start" or "end", name)
    arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)  # as they were returned
    copies: dict[str, list[Tensor]] = field(default_factory=dict)  # their tensors, before anything changed them


def recorded(network: nn.Module, frame: Tensor, wanted: set[str], cut: str) -> Record:
    """A run of the network on a frame, with the outputs of modules that are ``wanted``."""
    record = Record(cut, torch.empty(0), [])
    with _hooked(network, record, wanted, cut):
        record.logits = logits_of(network(frame))
    return record


@contextmanager
def _hooked(network: nn.Module, record: Record, wanted: set[str], cut: str) -> Iterator[None]:
    """Notes the order of calls, and the outputs of modules that are ``wanted``."""
    hooks = []

    def start(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        record.calls.append(("start", name))
        if name == cut:
            record.arguments = arguments, named

    def end(name: str, output: Any) -> None:
        record.calls.append(("end", name))
        if name in wanted:
            record.outputs[name] = output
            record.copies[name] = [tensor.detach().clone() for tensor in tensors_of(output)]

    for name, module in network.named_modules():
        pre = lambda _, arguments, named, name=name: start(name, arguments, named)  # noqa: E731
        post = lambda _, arguments, output, name=name: end(name, output)  # noqa: E731
        hooks += [module.register_forward_pre_hook(pre, with_kwargs=True), module.register_forward_hook(post)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def sources_of(network: nn.Module, record: Record, cut: str) -> list[str]:
    """Modules with tensors that are called before the cut, the largest first called, and the cut; each is called once.

    Raises ``OptionError`` where one of them is called behind the cut too.
    """
    name = type(network).__name__
    count = record.calls.count(("start", cut))
    if count != 1:
        how = "not called" if count == 0 else f"called {count} times"
        raise OptionError(f"{cut} of {name} is {how} for a frame: expected a cut that is called once, as encoders are")
    at = record.calls.index(("start", cut))
    called = [each for _, each in record.calls]
    outside = around(cut)
    found: dict[str, None] = {}
    for kind, each in record.calls[:at]:
        if kind == "start" and each not in outside:
            parts = each.split(".")
            prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
            unit = next(prefix for prefix in prefixes if prefix not in outside and prefix in called)
            if next(iter(network.get_submodule(unit).state_dict()), None) is not None:
                found[unit] = None
    for unit in found:
        behind = sum(1 for kind, each in record.calls[at:] if kind == "start" and each == unit)
        if behind or record.calls.count(("start", unit)) > 1:
            where = "before and behind the cut" if behind else "more than once before the cut"
            raise OptionError(f"{unit} of {name} is called {where} at {cut}: expected another cut, such as {unit}")
    return [*found, cut]


def around(cut: str) -> list[str]:
    """Names of the modules that the module of the cut lies in; the network itself is ``""``."""
    parts = cut.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))]


def maps_of(network: nn.Module, frame: Tensor, cut: str, shown: int = 3) -> list[str]:
    """Names of modules that are called once and return maps of features: those around the cut, and the last ones."""
    run = recorded(network, frame, {name for name, _ in network.named_modules() if name}, cut)

    def has_map(name: str) -> bool:
        return any(
            (stride_of(each, frame) or 1) > 1 and each.shape[1] != run.logits.shape[1] for each in run.copies[name]
        )

    found = [name for name in run.outputs if run.calls.count(("start", name)) == 1 and has_map(name)]
    outside = [name for name in found if name in around(cut)]
    return (outside or found)[-shown:]
