"""The attention on a GPU against the float64 reference, and under all that PyTorch may run it in."""

import pytest
import torch

from models.local_attention import local_attention, why_not
from tests.models.local_attention.cases import (
    GRID,
    Call,
    Case,
    Expected,
    _sizes_of_terms,
    largest_error,
    outcome,
    reference_outcome,
)
from tests.models.local_attention.cases import call_of as call_on_cpu

pytestmark = pytest.mark.gpu

ERFNET, PSPNET = Case(c=16, d=64, t=4, h=64, w=128, window=21), Case(c=128, d=2048, t=3, h=129, w=257, window=21)
SMALL = Case(c=16, d=64, t=2, h=16, w=40, window=5)
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def name_of(case: Case) -> str:
    return "-".join(str(x) for x in case)


def call_of(case: Case, device: torch.device, dtype: torch.dtype = torch.float64) -> Call:
    return Call(*(None if x is None else x.to(device, dtype) for x in call_on_cpu(case)))


def large_inputs(case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, keys and values with scores of about 1, made on the device."""
    make = torch.Generator(device).manual_seed(0)
    shapes = (
        (case.b, case.c, case.h, case.w),
        (case.b, case.c, case.t, case.h, case.w),
        (case.b, case.d, case.t, case.h, case.w),
    )
    scales = case.c**-0.25, case.c**-0.25, 1.0
    return [
        (torch.randn(shape, generator=make, device=device) * scale).to(dtype)
        for shape, scale in zip(shapes, scales, strict=True)
    ]  # fmt: skip


def with_gradients(inputs, window: int, backend: str) -> list[torch.Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = local_attention(*leaves, window, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]


def relative(found, expected) -> float:
    pairs = [(x.double(), y.double()) for x, y in zip(found, expected, strict=True)]
    return max(((x - y).abs().max() / y.abs().max().clamp(min=1e-30)).item() for x, y in pairs)


@pytest.fixture(params=["fused", "portable", "flex"])
def backend(request, device) -> str:
    if request.param == "fused":
        return request.getfixturevalue("fused")
    if request.param == "flex" and device.type != "cuda":
        pytest.skip("FlexAttention has no gradients on a CPU")
    return request.param


# On a CPU tests/models/local_attention tries the whole grid.
@pytest.mark.parametrize("case", GRID if torch.cuda.is_available() else GRID[::12], ids=name_of)
def test_fused_float32_agrees_with_reference(device, fused, case):
    found = [x.cpu() for x in outcome(call_of(case, device), case, fused, torch.float32)]
    assert largest_error(found, reference_outcome(case)) < 2.5e-5 * max(1.0, case.scale)


@pytest.mark.parametrize("case", GRID[::7] if torch.cuda.is_available() else GRID[::20], ids=name_of)
def test_other_backends_agree_with_reference(device, backend, case):
    call = call_of(case, device)
    query, keys, values = (x.float() for x in call[:3])
    reason = why_not(backend, query, keys, values, case.window)
    if reason:
        pytest.skip(reason)
    found = [x.cpu() for x in outcome(call, case, backend, torch.float32)]
    assert largest_error(found, reference_outcome(case)) < 2.5e-5 * max(1.0, case.scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", GRID[::3], ids=name_of)
def test_half_precision_rounds_only_loads_and_stores(gpu, fused, case, dtype):
    call = call_of(case, gpu, dtype)
    exact = Call(*(None if x is None else x.cpu().double() for x in call))  # of the rounded inputs
    terms = _sizes_of_terms(exact, case)
    expected = outcome(exact, case._replace(layout="contiguous"), "reference")
    found = [x.cpu().double() for x in outcome(call, case, fused, dtype)]
    for x, y, size in zip(found, expected, terms, strict=False):  # without a sink there is one gradient less
        if x.numel():  # that `out` was rounded shows in the gradients by the size of the terms that they sum up
            assert (x - y).abs().max() <= 4 * UNIT[dtype] * max(y.abs().max().item(), size)


@pytest.mark.parametrize("case", [SMALL, SMALL._replace(h=9, window=21), SMALL._replace(d=300)], ids=name_of)
def test_a_masked_border_agrees_with_reference(device, backend, case):
    call = call_of(case, device)

    def found(name: str, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in call[:3]]
        out = local_attention(*leaves, case.window, backend=name, mask_border=True)
        return [out.detach().cpu(), *(x.cpu() for x in torch.autograd.grad(out, leaves, call.grad.to(dtype)))]

    expected = Expected(found("reference", torch.float64), reference_outcome(case).terms)
    assert largest_error(found(backend, torch.float32), expected) < 2.5e-5


@pytest.mark.parametrize(
    "case, gradients",
    [(ERFNET._replace(b=2), True), (PSPNET._replace(h=24, w=70, d=300), True), (PSPNET, False)],
    ids=str,
)
def test_published_sizes_agree_with_reference(gpu, fused, case, gradients):
    inputs = large_inputs(case, gpu)
    exact = [x.double() for x in inputs]
    if gradients:
        pair = with_gradients(inputs, 21, fused), with_gradients(exact, 21, "reference")
    else:
        with torch.no_grad():
            pair = [local_attention(*inputs, 21, backend=fused)], [local_attention(*exact, 21, backend="reference")]
    assert relative(*pair) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["cuda", "flex"])
def test_wide_values_in_half_precision(gpu, name):
    inputs = large_inputs(PSPNET, gpu, torch.float16)
    reason = why_not(name, *inputs, 21)
    if reason:
        pytest.skip(reason)
    expected = local_attention(*(x.double() for x in inputs), 21, backend="reference")
    assert relative([local_attention(*inputs, 21, backend=name)], [expected]) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_in_20_runs(device, fused, dtype):
    if device.type == "cpu" and dtype != torch.float32:
        pytest.skip("the CPU computes in float32")
    inputs = large_inputs(ERFNET._replace(b=2) if device.type == "cuda" else SMALL, device, dtype)
    first = with_gradients(inputs, 21, fused)
    for _ in range(20 if device.type == "cuda" else 2):
        assert all(torch.equal(x, y) for x, y in zip(first, with_gradients(inputs, 21, fused), strict=True))


def test_inference_mode_and_autocast(device, fused):
    query, keys, values = large_inputs(SMALL, device)
    expected = local_attention(query, keys, values, 5, backend=fused)
    with torch.inference_mode():
        assert torch.equal(local_attention(query, keys, values, 5, backend=fused), expected)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    with torch.autocast(device.type, half):
        mixed = local_attention(query.to(half), keys.to(half), values, 5, backend=fused)
        rounded = local_attention(query.to(half), keys.to(half), values.to(half), 5, backend=fused)
    assert (mixed.dtype, rounded.dtype) == (torch.float32, half)
    assert relative([rounded], [expected]) < 20 * UNIT[half]


def test_another_stream_waits_for_what_it_reads(gpu, fused):
    """Inputs are written late, on a side stream: a kernel on any other stream would read zeros."""
    inputs = large_inputs(ERFNET, gpu)
    expected = with_gradients(inputs, 21, fused)
    late, stream = [torch.zeros_like(x) for x in inputs], torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(300_000_000)
        for x, y in zip(late, inputs, strict=True):
            x.copy_(y)
        found = with_gradients(late, 21, fused)
    stream.synchronize()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@torch.no_grad()
def test_a_cuda_graph_computes_with_new_inputs(gpu, fused):
    fixed, second = large_inputs(ERFNET, gpu), [x.flip(-1).contiguous() for x in large_inputs(ERFNET, gpu)]
    local_attention(*fixed, 21, backend=fused)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = local_attention(*fixed, 21, backend=fused)
    for x, y in zip(fixed, second, strict=True):
        x.copy_(y)
    graph.replay()
    assert torch.equal(out, local_attention(*second, 21, backend=fused))


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_as_one_graph(device, fused, compiler):
    if compiler == "inductor" and device.type == "cpu":
        pytest.skip("compiling for a CPU takes long")
    torch.compiler.reset()
    inputs = large_inputs(SMALL, device)
    compiled = torch.compile(lambda *x: local_attention(*x, 5) * 2, fullgraph=True, backend=compiler)
    assert relative([compiled(*inputs)], [local_attention(*inputs, 5, backend=fused) * 2]) < 1e-6


def test_a_second_device(gpu, fused):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    inputs = large_inputs(ERFNET, gpu)
    found = with_gradients([x.to("cuda:1") for x in inputs], 21, fused)  # cuda:0 stays the current one
    assert relative([x.to(gpu) for x in found], with_gradients(inputs, 21, fused)) < 1e-6


@pytest.mark.parametrize("channels", [(3, 5), (17, 66), (70, 130), (130, 300)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_sanitize(gpu, fused, channels, dtype):
    """Small calls of every kernel and shape class, for compute-sanitizer."""
    case = Case(b=2, c=channels[0], d=channels[1], t=2, h=7, w=37, window=5)
    assert not any(x.isnan().any() for x in with_gradients(large_inputs(case, gpu, dtype), 5, fused))
