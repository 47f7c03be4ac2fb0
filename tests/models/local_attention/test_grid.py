"""Every backend against the float64 reference: output and every gradient over awkward sizes, and random ones."""

import pytest
import torch
from hypothesis import given, settings

from models.local_attention import BACKENDS, local_attention, why_not
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
