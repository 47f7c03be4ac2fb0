"""The ``cpu`` backend: calls of the fused C++, float32. The same bits for any number of threads."""

import ctypes
import os

import torch
from torch import Tensor

from models.local_attention.cpu_build import built

_OWNER = os.getpid()  # a forked process must not touch the thread pool that it inherited


def why_not_cpu(query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None) -> str | None:
    """Why the call cannot be served, as a phrase; None if it can. Compiles the library when first asked."""
    if query.device.type != "cpu":
        return f"it needs tensors on the CPU, found {query.device}"
    if query.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, found {query.dtype}"
    return _build_problem()


@torch.compiler.assume_constant_result
def _build_problem() -> str | None:
    return built().problem


def forward(query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None, window: int) -> tuple[Tensor, Tensor]:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w``, contiguous -> ``B D h w``, log-sum-exp ``B h w``."""
    (b, _, h, w), d = query.shape, values.shape[1]
    out, lse = query.new_empty((b, d, h, w)), query.new_empty((b, h, w))
    _call("local_attention_forward", _sizes(query, values, window), query, keys, values, sink, out, lse)
    return out, lse


def backward(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sink: Tensor | None,
    out: Tensor,
    lse: Tensor,
    window: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients of query, keys, values and sink; an empty tensor for each that is not wanted."""
    shapes = query.shape, keys.shape, values.shape, (1,)
    gradients = [query.new_empty(shape if want else (0,)) for shape, want in zip(shapes, wanted, strict=True)]
    outputs = [x if want else None for x, want in zip(gradients, wanted, strict=True)]
    inputs = (grad, query, keys, values, sink, out, lse)
    _call("local_attention_backward", _sizes(query, values, window), *inputs, *outputs)
    return gradients


def _sizes(query: Tensor, values: Tensor, window: int) -> ctypes.Array:
    (b, c, h, w), (_, d, t, _, _) = query.shape, values.shape
    return (ctypes.c_long * 8)(b, c, d, t, h, w, window, torch.get_num_threads())


def _call(name: str, sizes: ctypes.Array, *tensors: Tensor | None) -> None:
    """Calls the library; ctypes lets go of the interpreter's lock meanwhile."""
    pointers = [None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors]
    if getattr(built().library, name)(sizes, _gomp_parallel(), *pointers):
        raise MemoryError("the attention's working memory could not be allocated")


def _gomp_parallel() -> ctypes.c_void_p | None:
    """The entry of the OpenMP runtime that PyTorch loaded, so that both share one pool of threads."""
    if os.getpid() != _OWNER:
        return None
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except AttributeError:
        return None
