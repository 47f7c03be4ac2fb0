"""The attention's floor on paper: operations, bytes and launches at the published sizes, for three cards.

    python -m engine.benchmarks.paper    prints the table of docs/speed.md

A floor is what no kernel of that kind can pass: all operations at the card's peak rate, or all bytes at the rate of its
memory, whichever takes longer. Rates are those of the makers' data sheets, dense, without sparsity.
"""

import math
import sys
from typing import NamedTuple

import torch

from engine.benchmarks.attention import ERFNET, PSPNET, Shape
from models.local_attention import flex, portable
from models.local_attention.cuda import forward_groups


class Card(NamedTuple):
    """Peak rates in TFLOP/s, of float32 and of half precision with float32 sums on tensor cores; memory."""

    name: str
    float32: float
    half: float
    gigabytes_per_second: float
    gigabytes: int


CARDS = (
    Card("RTX 3090", 35.6, 71.0, 936, 24),
    Card("A100 SXM 80 GB", 19.5, 312.0, 2039, 80),
    Card("H100 SXM", 66.9, 989.0, 3350, 80),
)
ELEMENT_BYTES = {"float32": 4, "half": 2}


class Floor(NamedTuple):
    """Milliseconds that the operations and the bytes of one forward take at least, and the number of launches."""

    compute: float
    memory: float
    launches: int

    @property
    def milliseconds(self) -> float:
        return max(self.compute, self.memory)


def floor_of_kernel(shape: Shape, card: Card) -> Floor:
    """The fused kernel in float32: scores are computed again by each group of value channels."""
    groups = forward_groups(shape.d)
    pairs = shape.b * shape.h * shape.w * shape.t * shape.n**2
    return _floor(2 * pairs * (groups * shape.c + shape.d), shape.io_bytes, card.float32, card, launches=1)


def floor_of_flex(shape: Shape, card: Card) -> Floor:
    """FlexAttention in half precision: whole tiles of queries and keys, scores computed again by each head."""
    grid = flex.Grid(shape.h, shape.w, shape.t, shape.n)
    (heads, width), channels = flex.heads_of(shape.d), flex.padded_channels(shape.c)
    pairs = shape.b * flex.tile_pairs(grid) * flex.BLOCK**2
    bytes_moved = shape.io_bytes * ELEMENT_BYTES["half"] // ELEMENT_BYTES["float32"]
    return _floor(2 * pairs * heads * (channels + width), bytes_moved, card.half, card, launches=1)


def floor_of_portable(shape: Shape, card: Card) -> Floor:
    """The portable backend in float32: whole tiles against their neighborhoods, which are written and read."""
    tiling = portable.tiling_of(*_empty(shape), shape.n, card.gigabytes * 10**9 // portable.SHARE_OF_GPU)
    (wh, ww), tiles = tiling.windows, tiling.rows * tiling.cols * shape.b
    neighbors = shape.t * wh * ww
    pairs = tiles * tiling.th * tiling.tw * neighbors
    gathered = 4 * tiles * neighbors * (shape.c + shape.d)
    bytes_moved = shape.io_bytes + 2 * gathered + 3 * 4 * pairs  # scores are written, weighed, and read
    launches = len(list(tiling.groups()))
    return _floor(2 * pairs * (shape.c + shape.d), bytes_moved, card.float32, card, launches)


def _empty(shape: Shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sizes = (shape.c, shape.h, shape.w), (shape.c, shape.t, shape.h, shape.w), (shape.d, shape.t, shape.h, shape.w)
    query, keys, values = (torch.empty(shape.b, *size, device="meta") for size in sizes)
    return query, keys, values


def _floor(flop: float, bytes_moved: float, teraflops: float, card: Card, launches: int) -> Floor:
    return Floor(flop / (teraflops * 1e9), bytes_moved / (card.gigabytes_per_second * 1e6), launches)


def table() -> list[str]:
    """The table of ``docs/speed.md``, in Markdown."""
    heads = ("size", "GFLOP", "MB in and out", "card", "float32 peak", "`cuda`, float32", "`flex`, half")
    lines = [f"| {' | '.join(heads)} | `portable`, float32 (launches) |", "|---|---|---|---|---|---|---|---|"]
    for shape in (ERFNET, PSPNET):
        for card in CARDS:
            peak = _floor(shape.flop, shape.io_bytes, card.float32, card, 1).milliseconds
            kernel, half, plain = (floor(shape, card) for floor in (floor_of_kernel, floor_of_flex, floor_of_portable))
            work = f"{shape.name} | {shape.flop / 1e9:.2f} | {shape.io_bytes / 1e6:.1f} | {card.name}"
            times = " | ".join(_ms(each) for each in (peak, kernel.milliseconds, half.milliseconds, plain.milliseconds))
            lines.append(f"| {work} | {times} ({plain.launches}) |")
    return lines


def _ms(milliseconds: float) -> str:
    """Two significant digits."""
    digits = max(0, 1 - math.floor(math.log10(milliseconds)))
    return f"{milliseconds:.{digits}f} ms"


def main() -> int:
    """Prints the table; returns the exit status."""
    print("\n".join(table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
