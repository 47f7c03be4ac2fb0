"""What the fused CPU backend promises beyond the right numbers: the same bits always, a cache that is safe to share."""

import ctypes
import logging
import math
import os
import platform
import shlex
import signal
import subprocess
import sys

import pytest
import torch

from models.local_attention import cpu, cpu_build, local_attention, why_not
from models.local_attention.operator import windowed_read
from tests.models.local_attention.cases import (
    GRID,
    Case,
    call_of,
    laid_out,
    largest_error,
    outcome,
    reference_outcome,
)

CASE = Case(b=2, c=16, d=64, t=2, h=33, w=40, window=7, sink=True)


@pytest.fixture(autouse=True)
def _needs_compiler():
    problem = cpu_build.built().problem
    if problem:
        pytest.skip(problem)


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_same_bits_for_any_number_of_threads():
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(outcome(call_of(CASE), CASE, "cpu", torch.float32))
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_custom_operator_is_well_formed():
    call = call_of(Case(c=3, d=4, h=5, w=6, window=3))
    sink = torch.tensor([0.5], requires_grad=True)
    leaves = [x.float().requires_grad_() for x in call[:3]]
    torch.library.opcheck(windowed_read, (*leaves, sink, 3))
    torch.library.opcheck(windowed_read, (*leaves, None, 3))
    last = leaves[2].detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    torch.library.opcheck(windowed_read, (*leaves[:2], last, sink, 3))


def test_compiles_into_one_graph():
    call = call_of(CASE)
    leaves = [x.float().requires_grad_() for x in call[:4]]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def read(query, keys, values, sink):
        return local_attention(query, keys, values, CASE.window, sink)

    out = read(*leaves)
    found = torch.autograd.grad(out, leaves, call.grad.float())
    expected = outcome(call, CASE, "cpu", torch.float32)
    assert all(torch.equal(x, y) for x, y in zip([out, *found], expected, strict=True))


def test_gradients_that_nobody_wants_are_not_computed():
    call = call_of(CASE)
    everything = outcome(call, CASE, "cpu", torch.float32)[1:]
    for i in range(4):
        leaves = [x.float().requires_grad_(k == i) for k, x in enumerate(call[:4])]
        out = local_attention(*leaves[:3], CASE.window, leaves[3], "cpu")
        (found,) = torch.autograd.grad(out, leaves[i], call.grad.float())
        assert torch.equal(found, everything[i])


def test_half_precision_passes_through_float():
    query, keys, values = (x.bfloat16() for x in call_of(CASE)[:3])
    out = local_attention(query, keys, values, CASE.window, backend="cpu")
    assert out.dtype == torch.bfloat16
    wide = local_attention(query.float(), keys.float(), values.float(), CASE.window, backend="cpu")
    assert torch.equal(out, wide.bfloat16())


def test_nan_stays_at_the_queries_whose_window_holds_it():
    query, keys, values = (x.float() for x in call_of(CASE)[:3])
    keys[1, 3, 0, 20, 15] = math.nan
    values[0, 3, 1, 5, 30] = math.inf
    out = local_attention(query, keys, values, 7, backend="cpu")
    bad = torch.zeros_like(out, dtype=torch.bool)
    bad[1, :, 17:24, 12:19] = True
    bad[0, 3, 2:9, 27:34] = True
    assert torch.equal(~out.isfinite(), bad)
    assert local_attention(query * math.nan, keys, values, 7, backend="cpu").isnan().all()


def test_rising_scores_are_rescaled():
    # Each further row of keys scores 40 more (log2: 58), so that every row passes the lazy maximum.
    query, values = torch.ones(1, 1, 12, 20), torch.randn(1, 3, 2, 12, 20)
    keys = (torch.arange(24.0).reshape(1, 1, 2, 12, 1) * 40).expand(1, 1, 2, 12, 20)
    expected = local_attention(query.double(), keys.double(), values.double(), 5, backend="reference")
    out = local_attention(query, keys, values, 5, backend="cpu")
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_double_is_refused_with_the_reason():
    call = call_of(CASE)
    assert why_not("cpu", *call[:3], 7) == "it computes in float32, found torch.float64"


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed"])
def test_layout_does_not_change_a_bit(layout):
    inputs = [x.float() for x in call_of(CASE)[:3]]
    out = local_attention(*inputs, CASE.window, backend="cpu")
    assert torch.equal(local_attention(*(laid_out(x, layout) for x in inputs), CASE.window, backend="cpu"), out)


@pytest.mark.parametrize("channels", [5, 16, 64, 70, 130], ids="D={}".format)
def test_channels_last_values_are_read_as_they_lie_and_what_is_read_lies_so_too(channels):
    case = Case(b=2, c=3, d=channels, t=2, h=9, w=33, window=5)
    query, keys, values = (x.float() for x in call_of(case)[:3])
    out = local_attention(query, keys, values.to(memory_format=torch.channels_last_3d), 5, backend="cpu")
    assert torch.equal(out, local_attention(query, keys, values, 5, backend="cpu"))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_without_a_compiler_portable_stands_in_and_says_so_once(monkeypatch, caplog):
    cpu_build.built.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    try:
        with caplog.at_level(logging.WARNING, "models.local_attention"):
            query, keys, values = (x.float() for x in call_of(CASE)[:3])
            out = local_attention(query, keys, values, 7)
            local_attention(query, keys, values, 7)
    finally:
        cpu_build.built.cache_clear()
    assert torch.equal(out, local_attention(query, keys, values, 7, backend="portable"))
    assert ["no C++ compiler found (CXX is 'no-such-compiler')" in r.getMessage() for r in caplog.records] == [True]


def test_failing_compiler_is_quoted(monkeypatch, tmp_path):
    fake = tmp_path / "c++"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.cpp: error: no vectors here" >&2\nexit 3\n')
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    problem = cpu_build.built.__wrapped__().problem
    assert problem == f"{fake} failed with status 3: x.cpp: error: no vectors here"
    assert list((tmp_path / "cache" / "lmanet").iterdir()) == []


@pytest.mark.slow
def test_processes_that_start_together_share_one_library(tmp_path):
    script = (
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('cpu_build', {cpu_build.__file__!r})\n"
        "module = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "assert module.built().library, module.built().problem\n"
    )
    quick = tmp_path / "c++"
    quick.write_text(f'#!/bin/sh\nexec {shlex.join(cpu_build._compiler())} "$@" -O0\n')
    quick.chmod(0o755)
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "CXX": str(quick)}
    started = [subprocess.Popen([sys.executable, "-c", script], env=env) for _ in range(3)]
    assert [process.wait(300) for process in started] == [0, 0, 0]
    (library,) = (tmp_path / "lmanet").iterdir()
    size = library.stat().st_size
    library.write_bytes(library.read_bytes()[:1000])  # a library that was cut off is built again
    assert subprocess.run([sys.executable, "-c", script], env=env, check=False).returncode == 0
    assert library.stat().st_size == size


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-mavx2", "-mfma"], ["-msse2"]], ids=["8 lanes", "4 lanes"])
def test_narrower_vectors_agree(monkeypatch, tmp_path, flags):
    if platform.machine() != "x86_64":
        pytest.skip("the flags are those of x86")
    library = tmp_path / "library.so"
    cpu_build._compile([*cpu_build._compiler(), *cpu_build._FLAGS, *flags], library)
    built = cpu_build.Built(ctypes.CDLL(str(library)), None)
    monkeypatch.setattr(cpu, "built", lambda: built)
    for case in GRID:
        if case.window <= 7:
            found = outcome(call_of(case), case, "cpu", torch.float32)
            assert largest_error(found, reference_outcome(case)) < 2e-5 * max(1.0, case.scale), case


def test_forked_child_does_not_wait_for_the_threads_of_its_parent():
    query, keys, values = (x.float() for x in call_of(CASE)[:3])
    expected = windowed_read(query, keys, values, None, 7)  # the parent's pool has threads now
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        out, _ = windowed_read(query, keys, values, None, 7)
        os._exit(0 if bytes(out.untyped_storage()) == bytes(expected[0].untyped_storage()) else 1)
    assert os.waitpid(child, 0)[1] == 0
