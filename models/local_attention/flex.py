"""The ``flex`` backend: PyTorch's FlexAttention, for wide values in half precision on the tensor cores of a GPU.

Tiles of 8 x 16 queries and keys are FlexAttention's blocks; a block mask lists the tiles of keys that a tile's windows
reach. Neighbors outside of the frame are no keys: ``m`` scores of 0 without a value multiply a query's result by
``sigmoid(log-sum-exp - log m)``, and the sink is one more of them. Values are split into heads of 256 channels, each of
which computes the scores again.
"""

import functools
import importlib.util
import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.local_attention.cuda import first_line, why_not_nvidia

_TILE = (8, 16)
BLOCK = _TILE[0] * _TILE[1]
_HEAD = 256  # value channels of a head: what its kernels hold in shared memory
_STEP = 16  # tensor cores multiply matrices of this side
_FORMATS = (torch.float32, torch.float16, torch.bfloat16)
_CAPABILITY = (8, 0)
_MOST_SCORES = 1 << 26  # kept at once on a CPU, where FlexAttention is not compiled: for comparisons
_MOST_SHAPES = 64  # that are compiled, each with its own kernel


class Grid(NamedTuple):
    """The sizes of a call that its block mask depends on: the frame ``h w``, T frames, and the window's side n."""

    h: int
    w: int
    t: int
    n: int

    @property
    def tiles(self) -> tuple[int, int]:
        return -(-self.h // _TILE[0]), -(-self.w // _TILE[1])

    @property
    def pixels(self) -> int:
        """Pixels of a frame in whole tiles."""
        rows, cols = self.tiles
        return rows * cols * BLOCK


def why_not_flex(query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None) -> str | None:
    """Why the call cannot be run, as a phrase; None if it can. Compiles a small kernel at the first call on a GPU."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return "it is compiled for itself, not as part of a graph"
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
        return f"PyTorch {torch.__version__} has no FlexAttention"
    if query.device.type == "cpu":
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (query, keys, values, sink)):
            return "FlexAttention has no gradients on a CPU"
        grid = Grid(query.shape[2], query.shape[3], keys.shape[2], window)
        scores = query.shape[0] * heads_of(values.shape[1])[0] * grid.pixels**2 * grid.t
        return None if scores <= _MOST_SCORES else "on a CPU it would keep the scores of all pixels"
    reason = why_not_nvidia(query)
    if reason is not None:
        return reason
    if query.dtype not in _FORMATS:
        return f"it reads float32, float16 and bfloat16, found {query.dtype}"
    return _device_problem(query.device.index)


def suits_flex(query: Tensor, values: Tensor) -> bool:
    """Whether it is the faster one on a GPU: wide values in half precision, for which tensor cores are made."""
    return query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16) and values.shape[1] >= _HEAD


@functools.cache
def _device_problem(device: int) -> str | None:
    """Why FlexAttention cannot be compiled for the device, None if it can; any failure is a reason, not an error."""
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        return "it needs a GPU of compute capability {}.{} or newer, found {}.{}".format(*_CAPABILITY, *capability)
    if importlib.util.find_spec("triton") is None:
        return "it needs Triton, which this PyTorch came without"
    x = torch.zeros(1, _STEP, 1, *_TILE, device=f"cuda:{device}", dtype=torch.float16)
    try:
        with torch.inference_mode():
            flex_attention(x[:, :, 0], x, x, 3, None)
    except Exception as error:  # Triton's, the C compiler's and the driver's errors share no base class
        return f"FlexAttention cannot be compiled for GPU {device} ({first_line(error)})"
    return None


def flex_attention(
    query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None, masked: bool = False
) -> Tensor:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w`` -> ``B D h w``; differentiable, first order.

    Sums are of float32, also for half precision.
    """
    (b, _, h, w), (_, d, t, _, _) = query.shape, values.shape
    grid, (heads, width) = Grid(h, w, t, window), heads_of(d)
    if b == 0:
        return query.new_zeros(0, d, h, w)
    values = F.pad(values, (0, 0, 0, 0, 0, 0, 0, heads * width - d))
    q = _in_tiles(_in_steps(query), grid)[:, None].expand(-1, heads, -1, -1)  # B heads pixels C
    k = _frames_in_tiles(_in_steps(keys), grid)[:, None].expand(-1, heads, -1, -1)  # B heads Tpixels C
    v = _frames_in_tiles(values, grid).unflatten(2, (heads, width)).transpose(1, 2)  # B heads Tpixels width
    out, lse = _attend(q.contiguous(), k.contiguous(), v.contiguous(), _block_mask(grid, query.device))
    out = _in_planes(out.transpose(1, 2).flatten(2), grid)[:, :d]  # B D h w
    without_value = _scores_without_value(grid, query.device, sink, masked)
    if without_value is not None:
        lse = _in_planes(lse[:, 0, :, None], grid)  # B 1 h w
        out = out * (lse - without_value.to(lse.dtype)).sigmoid()
    return out.to(query.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    """Output ``B heads pixels width`` and log-sum-exp ``B heads pixels``."""
    if q.device.type != "cuda":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*flex_attention called without torch.compile")
            return _with_log_sum_exp(q, k, v, mask)
    with torch._dynamo.config.patch(cache_size_limit=_MOST_SHAPES):
        return _compiled()(q, k, v, mask)


@functools.cache
def _compiled() -> Any:
    return torch.compile(_with_log_sum_exp, dynamic=False)


def _with_log_sum_exp(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    from torch.nn.attention import flex_attention as library  # here, as importing it takes half a second

    if hasattr(library, "AuxRequest"):  # since PyTorch 2.9, which deprecates return_lse
        out, aux = library.flex_attention(q, k, v, block_mask=mask, scale=1.0, return_aux=library.AuxRequest(lse=True))
        assert aux.lse is not None
        return out, aux.lse
    return library.flex_attention(q, k, v, block_mask=mask, scale=1.0, return_lse=True)


def heads_of(channels: int) -> tuple[int, int]:
    """Number of heads for values of so many channels, and the width of each."""
    heads = -(-channels // _HEAD)
    return heads, _up(-(-channels // heads), _STEP)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def padded_channels(channels: int) -> int:
    """Channels of queries and keys with zeros after them, up to what tensor cores take."""
    return _up(channels, _STEP)


def tile_pairs(grid: Grid) -> int:
    """Number of pairs of a tile of queries and one of keys that a window connects."""
    (rows, cols), reach = grid.tiles, grid.n // 2
    near = [
        sum(abs(a - b) * side - side < reach for a in range(count) for b in range(count))
        for count, side in zip((rows, cols), _TILE, strict=True)
    ]
    return near[0] * near[1] * grid.t


def _in_steps(x: Tensor) -> Tensor:
    """``B C ...`` with zeros after the channels, up to a multiple of ``_STEP``."""
    missing = padded_channels(x.shape[1]) - x.shape[1]
    return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, missing))


def _in_tiles(x: Tensor, grid: Grid) -> Tensor:
    """``B C h w`` -> ``B pixels C``, tile by tile."""
    (rows, cols), (th, tw) = grid.tiles, _TILE
    x = F.pad(x, (0, cols * tw - grid.w, 0, rows * th - grid.h)).reshape(*x.shape[:2], rows, th, cols, tw)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


def _frames_in_tiles(x: Tensor, grid: Grid) -> Tensor:
    """``B C T h w`` -> ``B Tpixels C``, frame by frame and tile by tile."""
    b, t = x.shape[0], x.shape[2]
    return _in_tiles(x.transpose(1, 2).flatten(0, 1), grid).unflatten(0, (b, t)).flatten(1, 2)


def _in_planes(x: Tensor, grid: Grid) -> Tensor:
    """``B pixels C``, tile by tile -> ``B C h w``."""
    (rows, cols), (th, tw) = grid.tiles, _TILE
    x = x.unflatten(1, (rows, cols, th, tw)).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(*x.shape[:2], rows * th, cols * tw)[..., : grid.h, : grid.w]


@functools.lru_cache(maxsize=_MOST_SHAPES)
def _block_mask(grid: Grid, device: torch.device) -> Any:  # a BlockMask, whose module is imported late
    """The tiles of keys that each tile of queries reaches, and which of their pixels lie in a query's window."""
    from torch.nn.attention.flex_attention import BlockMask

    (rows, cols), (th, tw), reach = grid.tiles, _TILE, grid.n // 2
    pixels, h, w = grid.pixels, grid.h, grid.w

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        key = key % pixels
        row, col = query // BLOCK // cols * th + query % BLOCK // tw, query // BLOCK % cols * tw + query % tw
        key_row, key_col = key // BLOCK // cols * th + key % BLOCK // tw, key // BLOCK % cols * tw + key % tw
        near = ((row - key_row).abs() <= reach) & ((col - key_col).abs() <= reach)
        # Pixels that fill up a tile read themselves, so that none of their sums is over nothing.
        return (near & (key_row < h) & (key_col < w)) | ((row >= h) | (col >= w)) & (query == key)

    with torch.inference_mode(False):
        tile = torch.arange(rows * cols, device=device)
        near_rows = (tile[:, None] // cols - tile // cols).abs() * th - th < reach
        near_cols = (tile[:, None] % cols - tile % cols).abs() * tw - tw < reach
        reached = (near_rows & near_cols).repeat(1, grid.t).int()  # tiles of queries x tiles of keys
        counts = reached.sum(1, dtype=torch.int32)
        indices = reached.argsort(dim=1, descending=True, stable=True).int()
        return BlockMask.from_kv_blocks(counts[None, None], indices[None, None], BLOCK_SIZE=BLOCK, mask_mod=in_window)


def _scores_without_value(grid: Grid, device: torch.device, sink: Tensor | None, masked: bool) -> Tensor | None:
    """Log-sum-exp ``h w``, or of one element, of the scores that have no value; None where there are none.

    These are the neighbors outside of the frame, of score 0, unless they are masked, and the sink.
    """
    border = None if masked or grid.n == 1 else _log_outside(grid, device)
    if sink is None:
        return border
    sink = sink.reshape(1, 1).to(torch.promote_types(sink.dtype, torch.float32))
    return sink if border is None else torch.logaddexp(border.to(sink.dtype), sink)


@functools.lru_cache(maxsize=_MOST_SHAPES)
def _log_outside(grid: Grid, device: torch.device) -> Tensor:
    """Logarithm ``h w`` of the number of neighbors outside of the frame; minus infinity where there are none."""

    def inside(size: int) -> Tensor:
        at = torch.arange(size, device=device)
        reach = grid.n // 2
        return (at + reach).clamp(max=size - 1) - (at - reach).clamp(min=0) + 1

    with torch.inference_mode(False):
        outside = grid.t * (grid.n**2 - inside(grid.h)[:, None] * inside(grid.w))
        return outside.double().log()
