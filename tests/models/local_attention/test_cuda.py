"""The GPU kernels without a GPU: the same source and launch code, run on the host."""

import functools
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings

import models.local_attention as local_attention_package
from models.local_attention import cuda, local_attention, operator, why_not
from models.local_attention.operator import windowed_read
from tests.models.local_attention import cupy_stand_in
from tests.models.local_attention.cases import (
    GRID,
    Call,
    Case,
    Expected,
    call_of,
    expected_outcome,
    laid_out,
    largest_error,
    random_cases,
    reference_outcome,
)
from tests.models.local_attention.cupy_stand_in import EmulationError


class Gpu(SimpleNamespace):
    """A pretended GPU: where its kernels were launched, and how many multiprocessors it has."""


@pytest.fixture
def gpu(monkeypatch):
    """Sends the operator's calls on CPU tensors through the launch code of the GPU to emulated kernels."""
    if cupy_stand_in.missing_compiler():
        pytest.skip(cupy_stand_in.missing_compiler())
    pretended = Gpu(streams=[], multiprocessors=1)
    monkeypatch.setitem(sys.modules, "cupy", cupy_stand_in.stand_in(pretended.streams))
    monkeypatch.setitem(operator.KERNELS, "cpu", operator.KERNELS["cuda"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=4711))
    monkeypatch.setattr(cuda, "_multiprocessors", lambda device: pretended.multiprocessors)
    for cached in (cuda._kernel, cuda._module, cuda._found_problem):
        cached.cache_clear()
    yield pretended
    for cached in (cuda._kernel, cuda._module, cuda._found_problem):
        cached.cache_clear()


def emulated(call: Call, case: Case, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Output and gradients; as ``outcome``, past the choice of a backend."""
    leaves = [laid_out(x.to(dtype), case.layout).requires_grad_() for x in call[:3]]
    if call.sink is not None:
        leaves.append(call.sink.float().requires_grad_())
    out = operator.fused(*leaves[:3], case.window, leaves[3] if case.sink else None)
    return [out.detach(), *torch.autograd.grad(out, leaves, call.grad.to(dtype))]


CASES = [
    Case(b=2, c=3, d=5, t=2, h=9, w=20, window=5, sink=True),
    Case(c=16, d=64, t=2, h=6, w=40, window=7),
    Case(c=17, d=66, t=1, h=5, w=33, window=3, sink=True, layout="channels_last"),
    Case(c=70, d=130, t=1, h=3, w=35, window=3),
    Case(c=130, d=3, t=1, h=4, w=9, window=3, layout="strided"),
    Case(c=2, d=300, t=1, h=2, w=6, window=3),
    Case(c=4, d=6, t=1, h=5, w=50, window=41, sink=True),
    Case(c=2, d=3, t=1, h=13, w=4, window=21),
    Case(c=1, d=1, t=1, h=1, w=1, window=1),
    Case(c=8, d=4, h=10, w=18, window=5, scale=80.0, sink=True),
    Case(b=0, sink=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(x) for x in case))
def test_emulated_kernels_agree_with_reference(gpu, case):
    found = emulated(call_of(case), case)
    assert largest_error(found, reference_outcome(case)) < 2e-5 * max(1.0, case.scale)
    assert set(gpu.streams) <= {4711}


@pytest.mark.slow
@pytest.mark.parametrize("case", GRID, ids=lambda case: "-".join(str(x) for x in case))
def test_emulated_kernels_agree_with_reference_over_the_grid(gpu, case):
    assert largest_error(emulated(call_of(case), case), reference_outcome(case)) < 2e-5 * max(1.0, case.scale)


@pytest.mark.parametrize("examples", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_emulated_kernels_agree_with_reference_at_random_sizes(gpu, examples):
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(case=random_cases(b=2, c=36, d=70, h=6, w=36, windows=[1, 3, 5, 9]))
    def check(case: Case) -> None:
        assert largest_error(emulated(call_of(case), case), expected_outcome(case)) < 2e-5 * max(1.0, case.scale)

    check()


@pytest.mark.parametrize("case", [CASES[0]._replace(sink=False), CASES[7], CASES[6]._replace(sink=False)], ids=str)
def test_a_masked_border_costs_no_channel_and_agrees_with_reference(gpu, case):
    call = call_of(case)
    leaves = [x.double().requires_grad_() for x in call[:3]]
    out = local_attention(*leaves, case.window, backend="reference", mask_border=True)
    expected = [out.detach(), *torch.autograd.grad(out, leaves, call.grad.double())]
    leaves = [x.float().requires_grad_() for x in call[:3]]
    out = operator.fused(*leaves, case.window, None, True)
    found = [out.detach(), *torch.autograd.grad(out, leaves, call.grad.float())]
    assert largest_error(found, Expected(expected, reference_outcome(case).terms)) < 2e-5
    # Scores far below 0 everywhere: without a mask the border would take all weight.
    query, keys = leaves[0].detach().abs() + 3, -leaves[1].detach().abs() - 30
    found = operator.fused(query, keys, leaves[2].detach(), case.window, None, True)
    expected = local_attention(query, keys, leaves[2].detach(), case.window, backend="reference", mask_border=True)
    assert torch.allclose(found, expected, atol=1e-4)


def test_small_tiles_agree_with_reference(gpu):
    gpu.multiprocessors = 10**6
    assert largest_error(emulated(call_of(CASES[0]), CASES[0]), reference_outcome(CASES[0])) < 2e-5


@pytest.mark.parametrize("dtype, unit", [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_rounds_only_loads_and_stores(gpu, dtype, unit):
    case = CASES[0]
    call = call_of(case)
    rounded = Call(*(x.to(dtype).double() for x in call[:3]), call.sink.float().double(), call.grad.to(dtype).double())
    leaves = [x.requires_grad_() for x in rounded[:4]]
    out = local_attention(*leaves[:3], case.window, leaves[3], "reference")
    expected = [out.detach(), *torch.autograd.grad(out, leaves, rounded.grad)]
    found = emulated(call, case, dtype)
    assert [x.dtype for x in found] == [dtype] * 4 + [torch.float32]
    # One rounding at the store; the gradients also see that `out` was rounded when delta was summed.
    assert largest_error(found, Expected(expected, reference_outcome(case).terms)) < 2 * unit


def test_same_bits_every_run(gpu):
    first, second = (emulated(call_of(CASES[0]), CASES[0]) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_nan_comes_out_as_nan(gpu):
    query, keys, values = (x.float() for x in call_of(CASES[0])[:3])
    keys[0, 0, 0, 4, 10] = math.nan
    out, _ = windowed_read(query, keys, values, None, 5)
    assert out[0, :, 2:7, 8:13].isnan().all()
    assert out[1].isfinite().all()


BARRIERS = [match.start() for match in re.finditer(r"__syncthreads\(\);", cuda._SOURCE.read_text())]


@pytest.mark.parametrize(
    "which", [pytest.param(i, marks=[] if i in (0, 3) else pytest.mark.slow) for i in range(len(BARRIERS))]
)
def test_each_removed_barrier_is_caught(gpu, monkeypatch, which):
    code = cuda._SOURCE.read_text()
    broken = code[: BARRIERS[which]] + code[BARRIERS[which] + len("__syncthreads();") :]
    monkeypatch.setattr(cuda, "_SOURCE", SimpleNamespace(read_text=lambda: broken))
    case = Case(c=17, d=66, t=1, h=3, w=5, window=3)
    with pytest.raises(EmulationError, match=r"without a barrier between|before it is written"):
        emulated(call_of(case), case)


def test_wrong_arguments_are_caught(gpu, monkeypatch):
    monkeypatch.setattr(cuda.np, "int32", cuda.np.int64)
    with pytest.raises(EmulationError, match="the arguments do not fit the kernel's parameters"):
        emulated(call_of(CASES[0]), CASES[0])


def test_without_a_gpu_the_reason_is_the_tensors():
    query, keys, values = (x.float() for x in call_of(CASES[0])[:3])
    assert why_not("cuda", query, keys, values) == "it needs tensors on a GPU, found cpu"


def fake_gpu_tensors(dtype: torch.dtype = torch.float32) -> list:
    """What ``why_not_cuda`` looks at: device, dtype and shape."""
    device = torch.device("cuda", 0)
    shapes = (1, 2, 4, 4), (1, 2, 3, 4, 4), (1, 5, 3, 4, 4)
    return [SimpleNamespace(device=device, dtype=dtype, shape=torch.Size(shape)) for shape in shapes]


@pytest.mark.parametrize("reason", [None, "CuPy cannot be imported (no)"])
def test_the_choice_of_a_backend_compiles_as_one_graph(gpu, monkeypatch, reason):
    monkeypatch.setattr(cuda, "_found_problem", functools.cache(lambda device: reason))

    def call(x):
        return x + 1 if cuda._device_problem(0) is None else x - 1

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)).item() == (1 if reason is None else -1)


@pytest.mark.parametrize(
    "error", [RuntimeError("numpy.core.multiarray failed"), AttributeError("no float"), OSError("")]
)
def test_any_failing_import_of_cupy_is_a_reason(gpu, monkeypatch, error):
    def failing():
        raise error

    monkeypatch.setattr(cuda, "_cupy", failing)
    reason = cuda.why_not_cuda(*fake_gpu_tensors(), 3, None)
    assert reason.startswith(f"CuPy cannot be imported ({str(error) or 'OSError'}), pip install cupy-cuda")


def test_falling_back_on_a_gpu_is_a_warning_with_the_reason(gpu, monkeypatch, caplog):
    monkeypatch.setattr(cuda, "_found_problem", functools.cache(lambda device: "CuPy cannot be imported (no)"))
    monkeypatch.setattr(local_attention_package, "_logged", set())
    with caplog.at_level("INFO"):
        assert local_attention_package._picked("auto", *fake_gpu_tensors(), 3, None) == "portable"
        local_attention_package._picked("auto", *fake_gpu_tensors(), 3, None)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "cuda: CuPy cannot be imported (no)" in record.getMessage()


def test_missing_cupy_is_named_with_the_wheel_to_install(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    reason = cuda.why_not_cuda(*fake_gpu_tensors(), 3, None)
    assert reason.startswith("CuPy cannot be imported (") and reason.endswith("), pip install cupy-cuda12x")


def test_failing_compilation_is_a_reason_and_a_working_one_is_none(gpu, monkeypatch):
    assert cuda.why_not_cuda(*fake_gpu_tensors(), 3, None) is None
    assert cuda.why_not_cuda(*fake_gpu_tensors(torch.float64), 3, None).startswith("it reads float32, float16 and")

    def failing(code, options):
        raise RuntimeError("nvrtc: error: invalid value for --gpu-architecture\nmore")

    monkeypatch.setattr(sys.modules["cupy"], "RawModule", failing)
    cuda._kernel.cache_clear(), cuda._module.cache_clear(), cuda._found_problem.cache_clear()
    expected = "CuPy cannot compile the kernels for GPU 0 (nvrtc: error: invalid value for --gpu-architecture)"
    assert cuda.why_not_cuda(*fake_gpu_tensors(), 3, None) == expected
