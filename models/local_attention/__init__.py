"""Windowed cross-frame attention: one public function over backends, each of which reports why it cannot run a call.

``reference`` is the definition, ``portable`` runs everywhere and can be exported, ``cpu`` and ``cuda`` are fused
kernels. ``auto`` takes the fastest that can run the call.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.local_attention.checks import (
    BackendError,
    check_inputs,
    check_window,
    promoted_under_autocast,
    without_autocast,
)
from models.local_attention.cpu import why_not_cpu
from models.local_attention.cuda import why_not_cuda
from models.local_attention.dense import global_attention
from models.local_attention.flex import flex_attention, suits_flex, why_not_flex
from models.local_attention.operator import fused, fused_in_float
from models.local_attention.portable import portable_attention
from models.local_attention.reference import reference_attention

__all__ = ["BACKENDS", "BackendError", "global_attention", "local_attention", "why_not"]

logger = logging.getLogger(__name__)

Run = Callable[[Tensor, Tensor, Tensor, int, Tensor | None, bool], Tensor]


def _always(*_: object) -> None:
    return None


def _for_any(query: Tensor, values: Tensor) -> bool:
    return True


class _Backend(NamedTuple):
    """``suits``: whether "auto" should take it where it can run a call."""

    run: Run
    why_not: Callable[[Tensor, Tensor, Tensor, int, Tensor | None], str | None]
    suits: Callable[[Tensor, Tensor], bool] = _for_any


# From the fastest to the slowest: the order in which "auto" tries. The reference is never picked before portable.
_REGISTRY: dict[str, _Backend] = {
    "flex": _Backend(flex_attention, why_not_flex, suits_flex),
    "cuda": _Backend(fused, why_not_cuda),
    "cpu": _Backend(fused_in_float, why_not_cpu),
    "portable": _Backend(portable_attention, _always),
    "reference": _Backend(reference_attention, _always),
}
BACKENDS = ("auto", *_REGISTRY)
FOR_GPUS = ("flex", "cuda")

_logged: set[tuple[str, str]] = set()


def local_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int = 21,
    sink: Tensor | None = None,
    backend: str = "auto",
    mask_border: bool = False,
) -> Tensor:
    """Attention of every query to the ``window x window`` neighborhood around it in each of the T frames.

    query ``B C h w``, keys ``B C T h w``, values ``B D T h w``, sink None or one element -> ``B D h w``, all floating
    point, of one dtype (the sink's may differ; under autocast all may differ) and on one device. Scores are unscaled
    dot products, with one softmax over all ``T n n`` of a query; neighbors outside of the frame have score 0 and value
    0, or take no part with ``mask_border``; the sink is one more score without a value. Differentiable in all four,
    first order only. Source: Paul et al. 2021, section 3.2.

    NaN in a key comes out as NaN at exactly the queries whose window holds it, NaN in a value there in its channel;
    infinity reaches no other queries either, while what these get differs between backends. In compiled and exported
    graphs ``portable`` spreads both over the tiles of 8 x 16 queries that hold such a query, as ``flex`` does on such
    tiles, and ``cuda`` on tiles of up to 4 rows, for values.

    Raises TypeError or ValueError for tensors that do not match, an even window or a sink with ``mask_border``,
    BackendError (a ValueError and an OptionError) for a backend that does not exist or cannot run this call.
    """
    check_window(window)
    if isinstance(query, Tensor) and isinstance(keys, Tensor) and isinstance(values, Tensor):
        query, keys, values = promoted_under_autocast(query, keys, values)
    check_inputs(query, keys, values, sink)
    if mask_border and sink is not None:
        raise ValueError("a sink does not go with mask_border, which leaves the plain softmax: leave one of them out")
    name = _picked(backend, query, keys, values, window, sink)
    with without_autocast(query):
        return _REGISTRY[name].run(query, keys, values, window, sink, mask_border)


def why_not(
    backend: str, query: Tensor, keys: Tensor, values: Tensor, window: int = 21, sink: Tensor | None = None
) -> str | None:
    """Why a backend cannot run a call, as a phrase; None if it can. Raises BackendError for an unknown name."""
    if backend == "auto":
        return None
    if backend not in _REGISTRY:
        raise BackendError(f"attention backend {backend!r} is unknown, expected one of {', '.join(BACKENDS)}")
    return _REGISTRY[backend].why_not(query, keys, values, window, sink)


def _picked(backend: str, query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None) -> str:
    call = (query, keys, values, window, sink)
    if backend != "auto":
        reason = why_not(backend, *call)
        if reason is not None:
            able = ", ".join(name for name in _REGISTRY if why_not(name, *call) is None)
            raise BackendError(f"attention backend {backend!r} cannot serve this call: {reason}; these can: {able}")
        return backend
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return "portable"  # the only one whose graph holds PyTorch's own operators alone
    reasons: dict[str, str] = {}
    for name, each in _REGISTRY.items():
        if not each.suits(query, values):
            continue
        reason = why_not(name, *call)
        if reason is None:
            break
        reasons[name] = reason
    if not torch.compiler.is_compiling():
        _log_once(name, query.device.type, reasons)
    return name


def _log_once(name: str, device: str, reasons: dict[str, str]) -> None:
    if (name, device) in _logged:
        return
    _logged.add((name, device))
    if device == "cuda" and name == "portable":  # many times slower, and nobody asked for it
        why = "; ".join(f"{other}: {reasons[other]}" for other in FOR_GPUS if other in reasons)
        logger.warning("local attention on %s: backend %s, as the faster ones cannot run (%s)", device, name, why)
    else:
        logger.info("local attention on %s: backend %s", device, name)
