"""The attention in plain PyTorch: tiles of queries against their halo windows. Any device, any size, exportable.

Tiles go through ``scaled_dot_product_attention`` in groups of a size that suits the device: what a CPU's cache holds,
or on a GPU as many as a share of its memory. Only a group and its neighborhood are in memory at a time, in the backward
too, which recomputes the weights.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.local_attention.border import inside_the_frame

_CACHE_BYTES, _OTHER_BYTES = 8 << 20, 256 << 20  # of a group on a CPU, and on devices that are neither CPU nor CUDA
SHARE_OF_GPU = 16  # a group takes one part in so many of a GPU's memory
_TILE = (8, 16)


class _Tiling(NamedTuple):
    """The tiles of one call: size ``th tw``, halo ``ry rx``, number ``rows cols``, and how many a group has."""

    h: int
    w: int
    th: int
    tw: int
    ry: int
    rx: int
    rows: int
    cols: int
    group_rows: int
    group_cols: int

    @property
    def windows(self) -> tuple[int, int]:
        return self.th + 2 * self.ry, self.tw + 2 * self.rx

    def groups(self) -> Iterator[tuple[slice, slice]]:
        """Tile rows and tile columns of every group: whole rows, or a part of one."""
        for row in range(0, self.rows, self.group_rows):
            for col in range(0, self.cols, self.group_cols):
                yield (
                    slice(row, min(row + self.group_rows, self.rows)),
                    slice(col, min(col + self.group_cols, self.cols)),
                )


def portable_attention(
    query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None, masked: bool = False
) -> Tensor:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w`` -> ``B D h w``; differentiable, first order."""
    if masked:
        return inside_the_frame(lambda wider: portable_attention(query, keys, wider, window, sink), values)
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _all_finite(keys, values)):
        marks = _marks(keys, values, window)
        keys, values = (torch.where(each.isfinite(), each, 0) for each in (keys, values))
        return portable_attention(query, keys, values, window, sink) + marks
    tiling = _tiling(query, keys, values, window)
    extra = _extra_score(query, keys, tiling, window, sink)
    needs_grad = any(x is not None and x.requires_grad for x in (query, keys, values, extra))
    if needs_grad and torch.is_grad_enabled() and not torch.compiler.is_exporting():
        return _Tiled.apply(query, keys, values, extra, tiling)
    return _forward(query, keys, values, extra, tiling)


def _all_finite(*tensors: Tensor) -> bool:
    return all(bool(torch.stack(torch.aminmax(each.detach())).isfinite().all()) for each in tensors if each.numel())


def _marks(keys: Tensor, values: Tensor, window: int) -> Tensor:
    """NaN at the queries whose window holds a key, and in the channels whose value there, is not finite; else 0.

    ``B D h w``. A tile's queries share their keys: without this, one NaN would be in the results of a whole tile.
    """
    bad_keys, bad_values = (~each.detach().isfinite() for each in (keys, values))
    bad = (bad_keys.any(1).any(1)[:, None] | bad_values.any(2)).float()  # B D h w
    reached = F.max_pool2d(bad, window, stride=1, padding=window // 2) > 0
    return torch.zeros_like(bad, dtype=values.dtype).masked_fill(reached, math.nan)


def portable_attention_of(
    present: Tensor, query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None
) -> Tensor:
    """The same over the ``present`` ones of T frames (bool ``T``, at least one); forward only, exportable."""
    tiling = _tiling(query, keys, values, window)
    extra = _extra_score(query, keys[:, :, :1], tiling, window, None)  # of one frame
    if extra is not None:
        extra = extra + present.sum().to(extra.dtype).log()
    if sink is not None:
        sink = sink.reshape(1).to(_compute_dtype(query))
        extra = sink if extra is None else torch.logaddexp(extra, sink)
    return _forward(query, keys, values, extra, tiling, present)


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, keys: Tensor, values: Tensor, extra: Tensor | None, tiling: _Tiling
    ) -> Tensor:  # ctx holds what is assigned to it
        ctx.save_for_backward(query, keys, values, extra)
        ctx.tiling = tiling
        return _forward(query, keys, values, extra, tiling)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, values, extra = ctx.saved_tensors
        return *_backward(grad, query, keys, values, extra, ctx.tiling, ctx.needs_input_grad[:4]), None


def _tiling(query: Tensor, keys: Tensor, values: Tensor, window: int) -> _Tiling:
    return tiling_of(query, keys, values, window, _group_bytes(query.device))


def tiling_of(query: Tensor, keys: Tensor, values: Tensor, window: int, group_bytes: int) -> _Tiling:
    """The tiles of a call, in groups that take so many bytes."""
    b, c, h, w = query.shape
    t, d = values.shape[2], values.shape[1]
    th, tw = min(_TILE[0], h), min(_TILE[1], w)
    ry, rx = min(window // 2, h - 1), min(window // 2, w - 1)
    neighbors = t * (th + 2 * ry) * (tw + 2 * rx)
    tile_bytes = 4 * max(b, 1) * neighbors * (c + d + th * tw)
    rows, cols = -(-h // th), -(-w // tw)
    group = max(1, group_bytes // tile_bytes)
    return _Tiling(h, w, th, tw, ry, rx, rows, cols, min(rows, max(1, group // cols)), min(cols, group))


def _group_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return _gpu_bytes(device.index) // SHARE_OF_GPU
    return _CACHE_BYTES if device.type == "cpu" else _OTHER_BYTES


@torch.compiler.assume_constant_result
def _gpu_bytes(device: int) -> int:
    return torch.cuda.get_device_properties(device).total_memory


def _extra_score(query: Tensor, keys: Tensor, tiling: _Tiling, window: int, sink: Tensor | None) -> Tensor | None:
    """One more score without a value: the sink, and the neighbors outside of the frame that every query has."""
    outside = keys.shape[2] * (window * window - (2 * tiling.ry + 1) * (2 * tiling.rx + 1))
    dtype = _compute_dtype(query)
    sink = None if sink is None else sink.reshape(1).to(dtype)
    if not outside:
        return sink
    score = torch.full((1,), math.log(outside), dtype=dtype, device=query.device)
    return score if sink is None else torch.logaddexp(score, sink)


def _compute_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _forward(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    extra: Tensor | None,
    tiling: _Tiling,
    present: Tensor | None = None,
) -> Tensor:
    bands = _QueryBands(query, tiling)
    key_windows, value_windows = _windows(keys, tiling), _windows(values, tiling)
    mask = _mask(query, keys.shape[2], extra, tiling, present)
    pad = extra is not None
    bands_of_rows: dict[int, list[Tensor]] = {}
    for rows, cols in tiling.groups():
        out = F.scaled_dot_product_attention(
            bands.tiles(rows, cols),
            _gathered(key_windows, rows, cols, pad),
            _gathered(value_windows, rows, cols, pad),
            attn_mask=mask,
            scale=1.0,
        )  # B g thtw D
        bands_of_rows.setdefault(rows.start, []).append(bands.band(out.to(query.dtype), rows))
    whole = torch.cat([torch.cat(band, 3) for band in bands_of_rows.values()], 2)
    return whole[..., : tiling.h, : tiling.w].contiguous()


def _backward(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    extra: Tensor | None,
    tiling: _Tiling,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of query, keys, values and ``extra``; None for each that is not ``wanted``."""
    of_query, of_keys, of_values, of_extra = wanted
    queries, grads = _QueryBands(query, tiling), _QueryBands(grad, tiling)
    key_windows, value_windows = _windows(keys, tiling), _windows(values, tiling)
    mask = _mask(query, keys.shape[2], extra, tiling)
    pad = extra is not None
    grad_query = torch.zeros_like(queries.padded, dtype=mask.dtype) if of_query else None
    grad_keys = _padded(torch.zeros_like(keys, dtype=mask.dtype), tiling) if of_keys else None
    grad_values = _padded(torch.zeros_like(values, dtype=mask.dtype), tiling) if of_values else None
    grad_extra = torch.zeros_like(extra) if extra is not None and of_extra else None
    for rows, cols in tiling.groups():
        q, g = queries.tiles(rows, cols), grads.tiles(rows, cols)
        k = _gathered(key_windows, rows, cols, pad)
        p = (q @ k.transpose(-1, -2) + mask).softmax(-1)
        if grad_values is not None:
            _add_windows(grad_values, p.transpose(-1, -2) @ g, rows, cols, tiling)
        if not (of_query or of_keys or of_extra):
            continue
        dp = g @ _gathered(value_windows, rows, cols, pad).transpose(-1, -2)
        ds = p * (dp - (p * dp).sum(-1, keepdim=True))
        if grad_query is not None:
            queries.add(grad_query, ds @ k, rows, cols)
        if grad_keys is not None:
            _add_windows(grad_keys, ds.transpose(-1, -2) @ q, rows, cols, tiling)
        if grad_extra is not None:
            grad_extra += ds[..., -1].sum()
    return (
        None if grad_query is None else grad_query[..., : tiling.h, : tiling.w].to(query.dtype),
        None if grad_keys is None else _unpadded(grad_keys, tiling).to(keys.dtype),
        None if grad_values is None else _unpadded(grad_values, tiling).to(values.dtype),
        grad_extra,
    )


class _QueryBands:
    """A tensor ``B C h w``, zero-padded to whole tiles, read and accumulated a group of tiles at a time."""

    def __init__(self, x: Tensor, tiling: _Tiling) -> None:
        missing = tiling.cols * tiling.tw - tiling.w, tiling.rows * tiling.th - tiling.h
        self.padded = F.pad(x, (0, missing[0], 0, missing[1]))
        self.tiling = tiling
        self.dtype = _compute_dtype(x)

    def tiles(self, rows: slice, cols: slice) -> Tensor:
        """``B g thtw C`` of the tiles of a group, row by row."""
        tiling, (b, c) = self.tiling, self.padded.shape[:2]
        counts = rows.stop - rows.start, cols.stop - cols.start
        band = self.padded[self._pixels(rows, cols)].reshape(b, c, counts[0], tiling.th, counts[1], tiling.tw)
        tiles = band.permute(0, 2, 4, 3, 5, 1)
        return tiles.reshape(b, counts[0] * counts[1], tiling.th * tiling.tw, c).to(self.dtype)

    def band(self, tiles: Tensor, rows: slice) -> Tensor:
        """``B g thtw C`` of the tiles of a group -> ``B C H W``, the pixels that they are of."""
        tiling, (b, g, _, c), count = self.tiling, tiles.shape, rows.stop - rows.start
        band = tiles.reshape(b, count, g // count, tiling.th, tiling.tw, c).permute(0, 5, 1, 3, 2, 4)
        return band.reshape(b, c, count * tiling.th, g // count * tiling.tw)

    def add(self, target: Tensor, tiles: Tensor, rows: slice, cols: slice) -> None:
        target[self._pixels(rows, cols)] += self.band(tiles, rows)

    def _pixels(self, rows: slice, cols: slice) -> tuple:
        tiling = self.tiling
        height = slice(rows.start * tiling.th, rows.stop * tiling.th)
        return ..., height, slice(cols.start * tiling.tw, cols.stop * tiling.tw)


def _padded(x: Tensor, tiling: _Tiling) -> Tensor:
    right = tiling.rx + tiling.cols * tiling.tw - tiling.w
    bottom = tiling.ry + tiling.rows * tiling.th - tiling.h
    return F.pad(x, (tiling.rx, right, tiling.ry, bottom))


def _unpadded(x: Tensor, tiling: _Tiling) -> Tensor:
    return x[..., tiling.ry : tiling.ry + tiling.h, tiling.rx : tiling.rx + tiling.w]


def _windows(x: Tensor, tiling: _Tiling) -> Tensor:
    """A view ``B C T rows cols wh ww`` of the windows of all tiles, without a copy."""
    wh, ww = tiling.windows
    return _padded(x, tiling).unfold(3, wh, tiling.th).unfold(4, ww, tiling.tw)


def _gathered(windows: Tensor, rows: slice, cols: slice, pad: bool) -> Tensor:
    """``B g Twhww C`` of one group, followed by a row of zeros if the mask holds an extra score."""
    group = windows[:, :, :, rows, cols].permute(0, 3, 4, 2, 5, 6, 1)  # B rows cols T wh ww C
    b, r, g, t, wh, ww, c = group.shape
    group = group.reshape(b, r * g, t * wh * ww, c).to(_compute_dtype(windows))
    return F.pad(group, (0, 0, 0, 1)) if pad else group


def _add_windows(target: Tensor, group: Tensor, rows: slice, cols: slice, tiling: _Tiling) -> None:
    """Adds ``B g Twhww(+1) C`` to the windows of ``target``, ``B C T H W``; neighboring windows overlap."""
    (wh, ww), (b, g, _, c), t = tiling.windows, group.shape, target.shape[2]
    count = rows.stop - rows.start
    windows = group[:, :, : t * wh * ww].reshape(b, g, t, wh, ww, c)
    y, x = rows.start * tiling.th, cols.start * tiling.tw
    size = (count - 1) * tiling.th + wh, (g // count - 1) * tiling.tw + ww
    if b == 0:
        return
    columns = windows.permute(0, 5, 2, 3, 4, 1).reshape(b * c * t, wh * ww, g)  # one picture a channel and frame
    summed = F.fold(columns, size, (wh, ww), stride=(tiling.th, tiling.tw)).view(b, c, t, *size)
    target[..., y : y + size[0], x : x + size[1]] += summed


def _mask(query: Tensor, t: int, extra: Tensor | None, tiling: _Tiling, present: Tensor | None = None) -> Tensor:
    """Attention mask of a tile ``thtw Twhww``: 0 inside of a query's window, -inf outside, ``extra`` as last column.

    Frames that are not ``present`` (bool ``T``; None: all are) are outside.
    """
    wh, ww = tiling.windows
    device = query.device

    def near(queries: int, positions: int, radius: int) -> Tensor:
        shift = torch.arange(positions, device=device) - torch.arange(queries, device=device)[:, None]
        return (shift >= 0) & (shift <= 2 * radius)

    rows, cols = near(tiling.th, wh, tiling.ry), near(tiling.tw, ww, tiling.rx)
    inside = rows[:, None, None, :, None] & cols[None, :, None, None, :]  # th tw 1 wh ww
    inside = inside.expand(-1, -1, t, -1, -1)
    if present is not None:
        inside = inside & present[:, None, None]
    inside = inside.reshape(tiling.th * tiling.tw, t * wh * ww)
    mask = torch.zeros(inside.shape, dtype=_compute_dtype(query), device=device).masked_fill(~inside, -math.inf)
    return mask if extra is None else torch.cat([mask, extra.expand(mask.shape[0], 1)], 1)
