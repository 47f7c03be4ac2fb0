"""Every backend against the float64 reference: output and every gradient over awkward sizes, and random ones."""

import pytest
import torch
from hypothesis import given, settings

from models.local_attention import BACKENDS, local_attention, portable, why_not
from tests.models.local_attention.cases import (
    GRID,
    Case,
    call_of,
    expected_outcome,
    largest_error,
    outcome,
    random_cases,
    reference_outcome,
)

HERE = [name for name in BACKENDS if name not in ("auto", "reference", "flex")]  # flex: test_flex.py


def tolerance(case: Case) -> float:
    """Scores carry an error of float's 6e-8 of their size, which the exponential turns into one of the weights."""
    return 2e-5 * max(1.0, case.scale)


def skip_unless_served(backend: str) -> None:
    query, keys = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    reason = why_not(backend, query, keys, keys, 1)
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("case", GRID, ids=lambda case: "-".join(str(x) for x in case))
@pytest.mark.parametrize("backend", HERE)
def test_agrees_with_reference(backend, case):
    skip_unless_served(backend)
    found = outcome(call_of(case), case, backend, torch.float32)
    assert largest_error(found, reference_outcome(case)) < tolerance(case)


@pytest.mark.parametrize("device_bytes", [1 << 40, 1 << 21], ids=["one launch", "some rows at once"])
@pytest.mark.parametrize("case", GRID[::6], ids=lambda case: "-".join(str(x) for x in case))
def test_portable_agrees_with_reference_in_the_groups_of_a_gpu(monkeypatch, case, device_bytes):
    monkeypatch.setattr(portable, "_group_bytes", lambda device: device_bytes)
    found = outcome(call_of(case), case, "portable", torch.float32)
    assert largest_error(found, reference_outcome(case)) < tolerance(case)


def test_portable_takes_few_launches_on_a_gpu(monkeypatch):
    """PSPNet's size: 17 x 17 tiles of 28 MB each; a group of an H100 has a sixteenth of 80 GB."""
    query, keys, values = (
        torch.empty(1, *size, device="meta") for size in ((128, 129, 257), (128, 3, 129, 257), (2048, 3, 129, 257))
    )
    monkeypatch.setattr(portable, "_gpu_bytes", lambda device: 80 << 30)
    monkeypatch.setattr(portable, "_group_bytes", lambda device: portable._gpu_bytes(0) // portable.SHARE_OF_GPU)
    assert len(list(portable._tiling(query, keys, values, 21).groups())) == 2
    monkeypatch.setattr(portable, "_group_bytes", lambda device: portable._CACHE_BYTES)
    assert len(list(portable._tiling(query, keys, values, 21).groups())) == 17 * 17


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_portable_computes_the_gradients_that_are_asked_for_alone(monkeypatch, wanted):
    case = Case(c=3, d=5, t=2, h=9, w=20, window=5)
    call = call_of(case)
    gathered, added = [], []
    gather, add = portable._gathered, portable._add_windows
    monkeypatch.setattr(
        portable, "_gathered", lambda windows, *rest: gathered.append(windows.shape[1]) or gather(windows, *rest)
    )
    monkeypatch.setattr(
        portable, "_add_windows", lambda target, *rest: added.append(target.shape[1]) or add(target, *rest)
    )
    leaves = [x.requires_grad_(want) for x, want in zip(call[:3], wanted, strict=True)]
    out = local_attention(*leaves, case.window, backend="portable")
    gathered.clear()
    asked = [x for x in leaves if x.requires_grad]
    (found,) = torch.autograd.grad(out, asked, call.grad)
    (expected,) = torch.autograd.grad(local_attention(*leaves, case.window, backend="reference"), asked, call.grad)
    assert torch.allclose(found, expected)
    assert set(added) == {channels for channels, want in ((3, wanted[1]), (5, wanted[2])) if want}
    assert (5 in gathered) == (not wanted[2])  # the values themselves are of no use to their own gradient


@pytest.mark.parametrize("backend", HERE)
def test_agrees_with_reference_at_random_sizes(backend):
    skip_unless_served(backend)

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(case=random_cases(b=3, c=40, d=80, h=24, w=40, windows=[1, 3, 5, 7]))
    def check(case: Case) -> None:
        found = outcome(call_of(case), case, backend, torch.float32)
        assert largest_error(found, expected_outcome(case)) < tolerance(case)

    check()


@pytest.mark.parametrize("backend", ["reference", "portable"])
def test_passes_gradcheck(backend):
    call = call_of(Case(c=2, d=2, h=3, w=4, window=5, sink=True))
    leaves = [x.requires_grad_() for x in call[:4]]
    torch.autograd.gradcheck(lambda *x: local_attention(*x[:3], 5, x[3], backend), leaves)


def test_scores_of_80_do_not_overflow():
    # Scores 80 at one neighbor and -80 at the other: the result is the first one's value to the last bit.
    query, keys = torch.ones(1, 1, 1, 2), torch.tensor([80.0, -80.0]).reshape(1, 1, 1, 1, 2)
    values = torch.tensor([3.0, 1e30]).reshape(1, 1, 1, 1, 2)
    for backend in HERE:
        skip_unless_served(backend)
        out = local_attention(query, keys, values.clamp(max=7), 3, backend=backend)
        assert out.tolist() == [[[[3.0, 3.0]]]], backend
