"""Calls of the attention for tests: a grid of awkward sizes, their inputs, and what the float64 reference says."""

import functools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from models.local_attention import local_attention

if TYPE_CHECKING:
    from hypothesis import strategies as st


class Case(NamedTuple):
    """Sizes of one call; ``scale`` of the scores, ``layout`` of the tensors in memory."""

    b: int = 1
    c: int = 3
    d: int = 5
    t: int = 2
    h: int = 9
    w: int = 20
    window: int = 5
    sink: bool = False
    scale: float = 1.0
    layout: str = "contiguous"


class Call(NamedTuple):
    """float64 inputs in the order of the public function, and the gradient that arrives at the output."""

    query: Tensor
    keys: Tensor
    values: Tensor
    sink: Tensor | None
    grad: Tensor


def call_of(case: Case) -> Call:
    """Random inputs whose scores are around ``case.scale``, the same ones every time."""
    make = torch.Generator().manual_seed(hash(case[:8]) % 2**31)
    b, c, d, t, h, w = case[:6]

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, dtype=torch.float64)

    query = randn(b, c, h, w) * (case.scale / c**0.5)
    sink = randn(1) if case.sink else None
    return Call(query, randn(b, c, t, h, w), randn(b, d, t, h, w), sink, randn(b, d, h, w))


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers with other strides."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        return torch.stack([x, -x], -1).flatten(-2)[..., ::2]
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return x.clone()


def outcome(call: Call, case: Case, backend: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Output and the gradients of query, keys, values and (if there is one) sink, in the order of the inputs."""
    leaves = [laid_out(x.to(dtype), case.layout).requires_grad_() for x in call[:3]]
    if call.sink is not None:
        leaves.append(call.sink.to(dtype).requires_grad_())
    out = local_attention(*leaves[:3], case.window, leaves[3] if case.sink else None, backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, call.grad.to(dtype))]


class Expected(NamedTuple):
    """What the float64 reference says, and for each of its tensors the size of the terms that one number sums up."""

    tensors: list[Tensor]
    terms: list[float]


def expected_outcome(case: Case) -> Expected:
    """Output and gradients of the reference, laid out in memory as usual."""
    call = call_of(case)
    return Expected(outcome(call, case._replace(layout="contiguous"), "reference"), _sizes_of_terms(call, case))


reference_outcome = functools.cache(expected_outcome)


def _sizes_of_terms(call: Call, case: Case) -> list[float]:
    """A gradient of a score is a difference of sums over grad * value, which may be far larger than it: even where it
    is exactly 0, as for a window of one neighbor."""
    read = local_attention(*call[:2], call.values.abs(), case.window, call.sink, "reference")
    products = (call.grad.abs() * read).sum(1)  # B h w
    largest = [x.abs().max() if x.numel() else torch.zeros(()) for x in (products, *call[:3], call.grad)]
    product, query, key, value, grad = (x.item() for x in largest)
    return [value, product * key, product * query, grad, products.sum().item()]


def random_cases(b: int, c: int, d: int, h: int, w: int, windows: list[int]) -> "st.SearchStrategy[Case]":
    """Cases of any kind up to these sizes, for hypothesis."""
    from hypothesis import strategies as st  # here, as machines with a GPU may lack it

    return st.builds(
        Case,
        b=st.integers(0, b),
        c=st.integers(1, c),
        d=st.integers(1, d),
        t=st.integers(1, 3),
        h=st.integers(1, h),
        w=st.integers(1, w),
        window=st.sampled_from(windows),
        sink=st.booleans(),
        scale=st.sampled_from([0.0, 1.0, 10.0]),
        layout=st.sampled_from(_LAYOUTS),
    )


FLOOR = 1e-2  # of the terms: a much smaller sum of them is a difference, which float32 knows to 1e-7 of the terms


def largest_error(found: list[Tensor], expected: Expected) -> float:
    """Over output and gradients: the largest difference, relative to the largest number of that tensor, or to FLOOR of
    the terms that it sums up."""
    assert [x.shape for x in found] == [x.shape for x in expected.tensors]
    errors = [
        (x.double() - y).abs().max() / y.abs().max().clamp(min=FLOOR * (terms or 1.0))
        for x, y, terms in zip(found, *expected, strict=False)  # without a sink there is one gradient less
        if x.numel()
    ]
    worst = torch.stack(errors).max() if errors else torch.zeros(())
    return worst.item()


_FRAMES = [(5, 7), (16, 16), (9, 33), (1, 20), (20, 1), (13, 50), (2, 3), (37, 18)]
_WIDTHS = [(1, 1, 1), (3, 5, 2), (16, 64, 2), (17, 33, 1), (5, 70, 3), (66, 2, 1)]
_LAYOUTS = ["contiguous", "channels_last", "strided", "transposed"]


def _grid() -> list[Case]:
    cases = []
    for window in (1, 3, 5, 7):
        for i, (h, w) in enumerate(_FRAMES):
            c, d, t = _WIDTHS[(i + window) % len(_WIDTHS)]
            layout = _LAYOUTS[(i + window // 2) % len(_LAYOUTS)]
            cases.append(Case(1 + i % 2, c, d, t, h, w, window, i % 3 == 0, 1.0, layout))
    return cases


# The reference takes a step for each of the n * n offsets, so wide windows come with small frames.
_WIDE = [
    Case(c=3, d=5, t=1, h=5, w=7, window=21),
    Case(c=16, d=20, t=1, h=10, w=26, window=21, sink=True, layout="channels_last"),
    Case(c=2, d=3, t=1, h=23, w=24, window=21),
    Case(c=5, d=17, t=1, h=1, w=50, window=21, layout="strided"),
    Case(c=16, d=20, t=2, h=9, w=9, window=21, scale=30.0, sink=True),
    Case(c=3, d=5, t=1, h=4, w=6, window=41),
    Case(c=2, d=2, t=1, h=1, w=44, window=41, sink=True),
    Case(c=2, d=2, t=1, h=22, w=3, window=41, layout="transposed"),
    Case(b=2, c=1, d=1, t=1, h=2, w=3, window=41),
]

GRID = [
    *_grid(),
    *_WIDE,
    Case(b=0),
    Case(b=0, sink=True, layout="channels_last"),
    Case(b=3, c=16, d=64, t=4, h=8, w=32, window=5, sink=True),
    Case(c=16, d=64, t=1, h=70, w=16, window=3),
    Case(c=128, d=130, t=2, h=6, w=17, window=3, sink=True),
    Case(c=130, d=1, t=1, h=4, w=40, window=5),
    Case(t=5, h=6, w=6, window=3),
    Case(h=40, w=5, window=9, sink=True),
    Case(h=3, w=70, window=9),
    Case(c=4, d=15, h=12, w=15, window=3),
    Case(c=4, d=16, h=12, w=16, window=3),
    Case(c=4, d=17, h=12, w=17, window=3),
    *(Case(c=8, d=4, h=10, w=18, window=5, sink=sink, scale=80.0) for sink in (False, True)),
    Case(c=1, d=1, t=1, h=6, w=9, window=3, scale=80.0, layout="strided"),
    Case(b=2, c=2, d=2, t=2, h=16, w=32, window=9),
    Case(c=6, d=33, t=1, h=8, w=31, window=11, sink=True, layout="transposed"),
    Case(c=7, d=9, t=1, h=14, w=14, window=13, layout="strided"),
    Case(b=2, c=4, d=6, t=3, h=11, w=19, window=3, scale=10.0, sink=True, layout="channels_last"),
    Case(c=2, d=2, t=1, h=1, w=1, window=1),
    Case(c=2, d=2, t=1, h=1, w=1, window=3, sink=True),
]
assert len(GRID) >= 60
