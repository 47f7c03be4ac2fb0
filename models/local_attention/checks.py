"""Checks of the attention's arguments, with one-line errors."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from utils.errors import OptionError


class BackendError(OptionError, ValueError):
    """A backend that was named does not exist or cannot run the call."""


def check_inputs(query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None) -> None:
    """Raises TypeError or ValueError unless ``B C h w``, ``B C T h w``, ``B D T h w`` (and a sink) match."""
    named = {"query": query, "keys": keys, "values": values}
    for name, tensor in named.items():
        _check_tensor(name, tensor)
    _check_rank("query", query, "B C h w", "1 16 64 128")
    _check_rank("keys", keys, "B C T h w", "1 16 4 64 128")
    _check_rank("values", values, "B D T h w", "1 64 4 64 128")
    _check_same_kind(named)
    _check_sizes(query, keys, values)
    if sink is not None:
        _check_sink(sink, query)


def check_window(window: int) -> None:
    """Raises TypeError unless the window is an int, and ValueError unless it is odd and positive."""
    if isinstance(window, bool) or not isinstance(window, int):
        raise TypeError(f"window is {window!r}, expected an odd positive int such as 21")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}, expected an odd positive int such as {max(window, 0) // 2 * 2 + 1}")


def shape_text(tensor: Tensor) -> str:
    """The sizes of a tensor as text: ``1 16 64 128``."""
    return " ".join(str(size) for size in tensor.shape)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, expected a floating-point tensor")
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{name} is {tensor.dtype}, expected a floating-point tensor such as torch.float32")


def _check_rank(name: str, tensor: Tensor, letters: str, example: str) -> None:
    rank = len(letters.split())
    if tensor.dim() != rank:
        raise ValueError(
            f"{name} has {tensor.dim()} dimensions ({shape_text(tensor)}), "
            f"expected {rank}: {letters}, such as {example}"
        )


def _check_same_kind(named: dict[str, Tensor]) -> None:
    for what in ("device", "dtype"):
        kinds = {name: getattr(tensor, what) for name, tensor in named.items()}
        if len(set(kinds.values())) > 1:
            found = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
            raise ValueError(f"mixed {what}s: {found}; expected one for all, such as {kinds['query']}")


def _check_sizes(query: Tensor, keys: Tensor, values: Tensor) -> None:
    b, c, h, w = query.shape
    t = keys.shape[2]
    if tuple(keys.shape) != (b, c, t, h, w):
        raise ValueError(
            f"keys are {shape_text(keys)}, expected {b} {c} T {h} {w} to go with query {shape_text(query)}"
        )
    d = values.shape[1]
    if tuple(values.shape) != (b, d, t, h, w):
        raise ValueError(
            f"values are {shape_text(values)}, expected {b} D {t} {h} {w} to go with keys {shape_text(keys)}"
        )
    for name, size in {"C": c, "D": d, "T": t, "h": h, "w": w}.items():
        if size < 1:
            raise ValueError(f"{name} is 0, expected at least 1 (only the batch may be empty)")


def _check_sink(sink: Tensor, query: Tensor) -> None:
    _check_tensor("sink", sink)
    if sink.numel() != 1:
        raise ValueError(f"sink has {sink.numel()} elements, expected 1, such as torch.zeros(1)")
    if sink.device != query.device:
        raise ValueError(f"mixed devices: sink {sink.device}, query {query.device}; expected one for all")


def promoted_under_autocast(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under autocast, casts tensors of different floating types to the widest of them, as autocast does for ``cat``."""
    tensors = (query, keys, values)
    if not torch.is_autocast_enabled(query.device.type) or len({tensor.dtype for tensor in tensors}) == 1:
        return tensors
    widest = torch.promote_types(torch.promote_types(query.dtype, keys.dtype), values.dtype)
    return query.to(widest), keys.to(widest), values.to(widest)


def without_autocast(query: Tensor) -> AbstractContextManager:
    """Context without autocast; a null context where it is off, so that an exported graph has no trace of it."""
    device = query.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
