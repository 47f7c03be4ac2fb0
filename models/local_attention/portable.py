"""The attention in plain PyTorch: tiles of queries against their halo windows. Any device, any size, exportable.

Tiles of one row go through ``scaled_dot_product_attention`` in groups; only a group and its neighborhood are in memory
at a time, in the backward too, which recomputes the weights.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.local_attention.border import inside_the_frame

_GROUP_BYTES = 8 << 20
_TILE = (8, 16)


class _Tiling(NamedTuple):
    """The tiles of one call: size ``th tw``, halo ``ry rx``, number ``rows cols``, and ``group`` of them at once."""

    h: int
    w: int
    th: int
    tw: int
    ry: int
    rx: int
    rows: int
    cols: int
    group: int

    @property
    def windows(self) -> tuple[int, int]:
        return self.th + 2 * self.ry, self.tw + 2 * self.rx

    def groups(self) -> Iterator[tuple[int, int, int]]:
        """Tile row, first tile column, last tile column + 1 of every group."""
        for row in range(self.rows):
            for first in range(0, self.cols, self.group):
                yield row, first, min(first + self.group, self.cols)


def portable_attention(
    query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None, masked: bool = False
) -> Tensor:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w`` -> ``B D h w``; differentiable, first order."""
    if masked:
        return inside_the_frame(lambda wider: portable_attention(query, keys, wider, window, sink), values)
    tiling = _tiling(query, keys, values, window)
    extra = _extra_score(query, keys, tiling, window, sink)
    needs_grad = any(x is not None and x.requires_grad for x in (query, keys, values, extra))
    if needs_grad and torch.is_grad_enabled() and not torch.compiler.is_exporting():
        return _Tiled.apply(query, keys, values, extra, tiling)
    return _forward(query, keys, values, extra, tiling)


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
        return *_backward(grad, query, keys, values, extra, ctx.tiling), None


def _tiling(query: Tensor, keys: Tensor, values: Tensor, window: int) -> _Tiling:
    b, c, h, w = query.shape
    t, d = values.shape[2], values.shape[1]
    th, tw = min(_TILE[0], h), min(_TILE[1], w)
    ry, rx = min(window // 2, h - 1), min(window // 2, w - 1)
    neighbors = t * (th + 2 * ry) * (tw + 2 * rx)
    tile_bytes = 4 * max(b, 1) * neighbors * (c + d + th * tw)
    rows, cols = -(-h // th), -(-w // tw)
    return _Tiling(h, w, th, tw, ry, rx, rows, cols, min(cols, max(1, _GROUP_BYTES // tile_bytes)))


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
    rows: list[list[Tensor]] = [[] for _ in range(tiling.rows)]
    for row, first, last in tiling.groups():
        out = F.scaled_dot_product_attention(
            bands.tiles(row, first, last),
            _gathered(key_windows, row, first, last, pad),
            _gathered(value_windows, row, first, last, pad),
            attn_mask=mask,
            scale=1.0,
        )  # B g thtw D
        b, g, _, d = out.shape
        out = out.to(query.dtype).reshape(b, g, tiling.th, tiling.tw, d).permute(0, 4, 2, 1, 3)
        rows[row].append(out.reshape(b, d, tiling.th, g * tiling.tw))
    return torch.cat([torch.cat(row, 3) for row in rows], 2)[..., : tiling.h, : tiling.w].contiguous()


def _backward(
    grad: Tensor, query: Tensor, keys: Tensor, values: Tensor, extra: Tensor | None, tiling: _Tiling
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    queries, grads = _QueryBands(query, tiling), _QueryBands(grad, tiling)
    key_windows, value_windows = _windows(keys, tiling), _windows(values, tiling)
    mask = _mask(query, keys.shape[2], extra, tiling)
    pad = extra is not None
    grad_query = torch.zeros_like(queries.padded, dtype=mask.dtype)
    grad_keys = _padded(torch.zeros_like(keys, dtype=mask.dtype), tiling)
    grad_values = _padded(torch.zeros_like(values, dtype=mask.dtype), tiling)
    grad_extra = None if extra is None else torch.zeros_like(extra)
    for row, first, last in tiling.groups():
        q, g = queries.tiles(row, first, last), grads.tiles(row, first, last)
        k = _gathered(key_windows, row, first, last, pad)
        v = _gathered(value_windows, row, first, last, pad)
        p = (q @ k.transpose(-1, -2) + mask).softmax(-1)
        dp = g @ v.transpose(-1, -2)
        ds = p * (dp - (p * dp).sum(-1, keepdim=True))
        queries.add(grad_query, ds @ k, row, first)
        _add_windows(grad_keys, ds.transpose(-1, -2) @ q, row, first, tiling)
        _add_windows(grad_values, p.transpose(-1, -2) @ g, row, first, tiling)
        if grad_extra is not None:
            grad_extra += ds[..., -1].sum()
    return (
        grad_query[..., : tiling.h, : tiling.w].to(query.dtype),
        _unpadded(grad_keys, tiling).to(keys.dtype),
        _unpadded(grad_values, tiling).to(values.dtype),
        grad_extra,
    )


class _QueryBands:
    """A tensor ``B C h w``, zero-padded to whole tiles, read and accumulated a group of tiles at a time."""

    def __init__(self, x: Tensor, tiling: _Tiling) -> None:
        missing = tiling.cols * tiling.tw - tiling.w, tiling.rows * tiling.th - tiling.h
        self.padded = F.pad(x, (0, missing[0], 0, missing[1]))
        self.tiling = tiling
        self.dtype = _compute_dtype(x)

    def tiles(self, row: int, first: int, last: int) -> Tensor:
        """``B g thtw C``."""
        tiling, (b, c) = self.tiling, self.padded.shape[:2]
        band = self.padded[:, :, row * tiling.th : (row + 1) * tiling.th, first * tiling.tw : last * tiling.tw]
        band = band.reshape(b, c, tiling.th, last - first, tiling.tw).permute(0, 3, 2, 4, 1)
        return band.reshape(b, last - first, tiling.th * tiling.tw, c).to(self.dtype)

    def add(self, target: Tensor, tiles: Tensor, row: int, first: int) -> None:
        tiling, (b, g, _, c) = self.tiling, tiles.shape
        band = tiles.reshape(b, g, tiling.th, tiling.tw, c).permute(0, 4, 2, 1, 3)
        x = first * tiling.tw
        band = band.reshape(b, c, tiling.th, g * tiling.tw)
        target[:, :, row * tiling.th : (row + 1) * tiling.th, x : x + g * tiling.tw] += band


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


def _gathered(windows: Tensor, row: int, first: int, last: int, pad: bool) -> Tensor:
    """``B g Twhww C`` of one group, followed by a row of zeros if the mask holds an extra score."""
    group = windows[:, :, :, row, first:last].permute(0, 3, 2, 4, 5, 1)  # B g T wh ww C
    b, g, t, wh, ww, c = group.shape
    group = group.reshape(b, g, t * wh * ww, c).to(_compute_dtype(windows))
    return F.pad(group, (0, 0, 0, 1)) if pad else group


def _add_windows(target: Tensor, group: Tensor, row: int, first: int, tiling: _Tiling) -> None:
    """Adds ``B g Twhww(+1) C`` to the windows of ``target``; neighboring windows overlap, so one by one."""
    (wh, ww), (b, g, _, c) = tiling.windows, group.shape
    t, y = target.shape[2], row * tiling.th
    windows = group[:, :, : t * wh * ww].reshape(b, g, t, wh, ww, c).permute(1, 0, 5, 2, 3, 4)
    for i in range(g):
        x = (first + i) * tiling.tw
        target[..., y : y + wh, x : x + ww] += windows[i]


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
