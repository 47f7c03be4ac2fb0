"""The ``cuda`` backend: CuPy compiles ``local_attention.cu`` at run time and launches it on PyTorch's stream."""

import functools
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("local_attention.cu")
_FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_COLS, _THREADS, _GROUP = 32, 256, 64  # kCols, kThreads and kGroup of the source
_LARGEST_GRID = 65535  # blocks along y and z

Dims = tuple[int, int, int]
Kernel = Callable[..., None]  # grid, block, arguments, stream


class ShapeClass(NamedTuple):
    """Compile-time parameters of a kernel: number format, query rows of a tile, passes over groups of 64 channels."""

    element_format: int
    rows: int
    passes: int

    def options(self) -> tuple[str, ...]:
        """Compiler options, supported since CUDA 11."""
        return (
            "--std=c++14",
            f"-DELEMENT_FORMAT={self.element_format}",
            f"-DROWS={self.rows}",
            f"-DPASSES={self.passes}",
        )


# All classes that occur, for the checks that compile them.
SHAPE_CLASSES = [ShapeClass(f, rows, passes) for f in (0, 1, 2) for rows, passes in ((4, 1), (2, 1), (4, 2), (4, 4))]


class _Stream(NamedTuple):
    """PyTorch's stream for CuPy, which reads the address alone."""

    ptr: int


def why_not_cuda(query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None) -> str | None:
    """Why the call cannot be run, as a phrase; None if it can. Compiles a kernel at the first call."""
    reason = why_not_nvidia(query)
    if reason is not None:
        return reason
    if query.dtype not in _FORMATS:
        return f"it reads float32, float16 and bfloat16, found {query.dtype}"
    (b, _, h, _), (_, d, t, _, _) = query.shape, values.shape
    if max(h // 2 + 1, b * t * _blocks(max(d, keys.shape[1]))) > _LARGEST_GRID:
        return f"its launch grid holds {_LARGEST_GRID} blocks, too few for this batch or height"
    return _device_problem(query.device.index)


def why_not_nvidia(query: Tensor) -> str | None:
    """Why a tensor is not one of an NVIDIA GPU, as a phrase; None if it is."""
    if query.device.type != "cuda":
        return f"it needs tensors on a GPU, found {query.device}"
    return "it needs an NVIDIA GPU, this PyTorch is for ROCm" if torch.version.hip else None


@torch.compiler.assume_constant_result  # on a plain function: torch.compile steps past it on top of a cache
def _device_problem(device: int) -> str | None:
    return _found_problem(device)


@functools.cache
def _found_problem(device: int) -> str | None:
    """Why CuPy cannot compile for the device, None if it can; any failure of it is a reason, not an error."""
    try:
        cupy = _cupy()
    except Exception as error:  # a CuPy of another CUDA or NumPy raises what it likes
        wheel = f"cupy-cuda{(torch.version.cuda or '12').split('.')[0]}x"
        return f"CuPy cannot be imported ({first_line(error)}), pip install {wheel}"
    try:
        with cupy.cuda.Device(device):
            _kernel(device, "attention_forward", ShapeClass(0, 4, 1))
    except Exception as error:  # CuPy's own, NVRTC's and the driver's errors share no base class
        return f"CuPy cannot compile the kernels for GPU {device} ({first_line(error)})"
    return None


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def forward(
    query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None, window: int, masked: bool
) -> tuple[Tensor, Tensor]:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w``, contiguous -> ``B D h w``, log-sum-exp ``B h w``.

    ``masked``: neighbors outside of the frame take no part.
    """
    (b, _, h, w), d = query.shape, values.shape[1]
    out = query.new_empty((b, d, h, w))
    lse = query.new_empty((b, h, w), dtype=torch.float32)
    shape = _shape_class(query, b, d)
    inputs = (query, keys, values, sink, out, lse)
    sizes = (*_sizes(query, values, window), int(masked))
    _launch("attention_forward", shape, _grid(query, b, d, shape), inputs, sizes)
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
    """Gradients of query, keys, values and sink; an empty tensor for each that is not ``wanted``."""
    b, _, h, w = query.shape
    d, t = values.shape[1:3]
    delta = torch.empty_like(lse)
    pixels = (-(-h * w // _THREADS), b, 1)
    _launch("attention_deltas", _shape_class(query, b, d), pixels, (grad, out, delta), (d, h, w))

    def gradient(name: str, like: Tensor, images: int, want: bool, most_passes: int = 4) -> Tensor:
        to = torch.empty_like(like) if want else like.new_empty(0)
        if want:
            channels = like.shape[1]
            shape = _shape_class(query, images, channels)
            shape = shape._replace(passes=min(shape.passes, most_passes))
            tensors, sizes = (query, keys, values, grad, lse, delta, to), _sizes(query, values, window)
            _launch(name, shape, _grid(query, images, channels, shape), tensors, sizes)
        return to

    return [
        gradient("attention_query_gradient", query, b, wanted[0], most_passes=2),
        gradient("attention_key_gradient", keys, b * t, wanted[1]),
        gradient("attention_value_gradient", values, b * t, wanted[2]),
        _sink_gradient(sink, lse, delta) if sink is not None and wanted[3] else lse.new_empty(0),
    ]


def _sink_gradient(sink: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """The sink's weight is exp2(sink - lse) and its value 0, so a pixel's share is -weight * delta."""
    return -(torch.exp2(sink * math.log2(math.e) - lse) * delta).sum().reshape(1)


def _blocks(channels: int, passes: int = 1) -> int:
    return -(-channels // (passes * _GROUP))


def _passes(channels: int) -> int:
    return 1 if channels <= _GROUP else 2 if channels <= 2 * _GROUP else 4


def _shape_class(query: Tensor, images: int, channels: int) -> ShapeClass:
    """The shape class, with small tiles where tiles of four rows would leave multiprocessors idle."""
    passes = _passes(channels)
    shape = ShapeClass(_FORMATS[query.dtype], 4, passes)
    if passes == 1 and math.prod(_grid(query, images, channels, shape)) < _multiprocessors(query.device):
        return shape._replace(rows=2)
    return shape


def forward_groups(channels: int) -> int:
    """How often the forward computes each score: once for each of its blocks of value channels."""
    return _blocks(channels, _passes(channels))


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _grid(query: Tensor, images: int, channels: int, shape: ShapeClass) -> Dims:
    h, w = query.shape[2:]
    return -(-w // _COLS), -(-h // shape.rows), images * _blocks(channels, shape.passes)


def _sizes(query: Tensor, values: Tensor, window: int) -> tuple[int, ...]:
    (_, c, h, w), (_, d, t, _, _) = query.shape, values.shape
    return c, d, t, h, w, window, min(window // 2, w - 1), min(window // 2, h - 1)


def _launch(
    name: str, shape: ShapeClass, grid: Dims, tensors: tuple[Tensor | None, ...], sizes: tuple[int, ...]
) -> None:
    """Launches on the tensors' device and PyTorch's current stream; the caller holds the tensors until it returns.

    PyTorch reuses memory that is freed afterwards on the same stream only, so after the kernel.
    """
    if 0 in grid:
        return  # an empty batch
    device = next(x.device for x in tensors if x is not None)
    cupy = _cupy()
    pointers = [np.uint64(0 if x is None else x.data_ptr()) for x in tensors]
    arguments = (*pointers, *(np.int32(size) for size in sizes))
    stream = _Stream(torch.cuda.current_stream(device).cuda_stream)
    with cupy.cuda.Device(device.index):
        _kernel(device.index, name, shape)(grid, (_THREADS, 1, 1), arguments, stream=stream)


def _cupy() -> ModuleType:
    return importlib.import_module("cupy")


@functools.cache
def _kernel(device: int, name: str, shape: ShapeClass) -> Kernel:
    """A kernel of the current device; CuPy caches the compiled code on disk."""
    return _module(device, shape).get_function(name)


@functools.cache
def _module(device: int, shape: ShapeClass) -> Any:  # cupy.RawModule, untyped
    return _cupy().RawModule(code=_SOURCE.read_text(), options=shape.options())
