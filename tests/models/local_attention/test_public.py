"""The public functions of the local attention: numbers made by hand, export, global attention, bad input."""

import logging
import math

import pytest
import torch
from torch import Tensor

import models.local_attention as package
from models.local_attention import BackendError, global_attention, local_attention, why_not


def inputs(b=1, c=3, d=5, t=2, h=9, w=20, scale=1.0, dtype=torch.float64, seed=0) -> tuple[Tensor, Tensor, Tensor]:
    make = torch.Generator().manual_seed(seed)
    shapes = (b, c, h, w), (b, c, t, h, w), (b, d, t, h, w)
    return tuple((torch.randn(s, generator=make, dtype=torch.float64) * scale).to(dtype) for s in shapes)


@pytest.mark.parametrize("backend", ["reference", "portable", "cpu"])
def test_corner_query_counts_neighbours_outside(backend):
    # One frame of 2 x 2, window 3: every query sees 4 inside neighbors and 5 outside of score 0.
    # Scores are log(2) everywhere inside, values 1, 2, 3, 4: (2 * 10) / (2 * 4 + 5) = 20 / 13.
    query = torch.full((1, 1, 2, 2), math.log(2))
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 2, 2)
    out = local_attention(query, torch.ones(1, 1, 1, 2, 2), values, 3, backend=backend)
    torch.testing.assert_close(out, torch.full((1, 1, 2, 2), 20 / 13))


@pytest.mark.parametrize("backend", ["reference", "portable", "cpu"])
def test_sink_is_one_more_score_without_value(backend):
    # As above, with a sink of log(7): 20 / (13 + 7) = 1.
    query = torch.full((1, 1, 2, 2), math.log(2))
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 2, 2)
    out = local_attention(query, torch.ones(1, 1, 1, 2, 2), values, 3, torch.tensor(math.log(7)), backend)
    torch.testing.assert_close(out, torch.ones(1, 1, 2, 2))


def test_reference_equals_a_loop_over_every_pixel():
    query, keys, values = inputs(h=4, w=5)
    out = local_attention(query, keys, values, 3, backend="reference")
    for y in range(4):
        for x in range(5):
            top, bottom = 0.0, 0.0
            for t in range(2):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        inside = 0 <= y + dy < 4 and 0 <= x + dx < 5
                        score = (query[0, :, y, x] * keys[0, :, t, y + dy, x + dx]).sum() if inside else torch.tensor(0)
                        bottom = bottom + score.exp()
                        top = top + (score.exp() * values[0, :, t, y + dy, x + dx] if inside else 0)
            torch.testing.assert_close(out[0, :, y, x], top / bottom)


def test_portable_exports_to_plain_operators():
    class Read(torch.nn.Module):
        def forward(self, query, keys, values):
            return local_attention(query, keys, values, 5)

    call = inputs(dtype=torch.float32)
    program = torch.export.export(Read(), call)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in function getitem>")) for name in names), names
    torch.testing.assert_close(program.module()(*call), local_attention(*call, 5, backend="portable"))


def test_portable_in_half_precision_sums_in_float():
    call = inputs(dtype=torch.bfloat16)
    expected = local_attention(*(x.double() for x in call), 5, backend="reference")
    out = local_attention(*call, 5, backend="portable")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=1e-3)


def test_global_attention_by_hand():
    # C = 4, so scores 2 log(3) and 0 are divided by 2: weights 3 and 1; with a sink of log(4) the sum is 8.
    query = torch.zeros(1, 4, 1, 2)
    query[:, 0] = 1
    keys = torch.zeros(1, 4, 1, 1, 2)
    keys[0, 0, 0, 0, 0] = 2 * math.log(3)
    values = torch.tensor([8.0, 16.0]).reshape(1, 1, 1, 1, 2)
    torch.testing.assert_close(global_attention(query, keys, values), torch.full((1, 1, 1, 2), 10.0))
    sink = torch.tensor([math.log(4)], requires_grad=True)
    out = global_attention(query, keys, values, sink)
    torch.testing.assert_close(out, torch.full((1, 1, 1, 2), 5.0))
    # d out / d sink = - out * exp(sink) / 8 = -2.5 at each of the two queries.
    torch.testing.assert_close(torch.autograd.grad(out.sum(), sink)[0], torch.tensor([-5.0]))


Q, K, V = (torch.zeros(s) for s in ((1, 2, 4, 4), (1, 2, 3, 4, 4), (1, 5, 3, 4, 4)))


@pytest.mark.parametrize(
    "call, error, text",
    [
        ((Q[0], K, V), ValueError, "query has 3 dimensions"),
        ((Q, K[0], V), ValueError, "keys has 4 dimensions"),
        ((Q, K, Q), ValueError, "values has 4 dimensions"),
        ((Q, K[:, :1], V), ValueError, "keys are 1 1 3 4 4, expected 1 2 T 4 4"),
        ((Q, K, V[:, :, :2]), ValueError, "values are 1 5 2 4 4, expected 1 D 3 4 4"),
        ((Q, K[:, :, :0], V[:, :, :0]), ValueError, "T is 0, expected at least 1"),
        ((Q, K.double(), V), ValueError, "mixed dtypes: query torch.float32, keys torch.float64"),
        ((Q, K.to("meta"), V), ValueError, "mixed devices: query cpu, keys meta"),
        ((Q.int(), K.int(), V.int()), TypeError, "query is torch.int32, expected a floating-point tensor"),
        ((Q.numpy(), K, V), TypeError, "query is a ndarray"),
        ((Q, K, V, 4), ValueError, "window is 4, expected an odd positive int such as 5"),
        ((Q, K, V, -1), ValueError, "window is -1, expected an odd positive int such as 1"),
        ((Q, K, V, 3.0), TypeError, "window is 3.0"),
        ((Q, K, V, 3, torch.zeros(2)), ValueError, "sink has 2 elements"),
        ((Q, K, V, 3, torch.zeros(1, dtype=torch.int64)), TypeError, "sink is torch.int64"),
        ((Q, K, V, 3, torch.zeros(1, device="meta")), ValueError, "mixed devices: sink meta, query cpu"),
        ((Q, K, V, 3, None, "fast"), BackendError, "attention backend 'fast' is unknown, expected one of auto,"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text) as raised:
        local_attention(*call)
    assert "\n" not in str(raised.value)


def test_named_backend_that_cannot_serve_says_why_and_which_can(monkeypatch):
    broken = package._Backend(package.portable_attention, lambda *_: "it needs a GPU")
    monkeypatch.setitem(package._REGISTRY, "portable", broken)
    assert why_not("portable", Q, K, V) == "it needs a GPU"
    with pytest.raises(BackendError, match="'portable' cannot serve this call: it needs a GPU; these can: "):
        local_attention(Q, K, V, backend="portable")


@pytest.mark.parametrize("backend", ["reference", "portable", "cpu"])
@pytest.mark.parametrize(("window", "mask_border"), [(5, False), (9, True), (1, False)])
@pytest.mark.parametrize("place", [(7, 20), (0, 39)])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_reaches_the_queries_whose_window_holds_it(backend, window, mask_border, place, wrong):
    make = torch.Generator().manual_seed(1)
    query, keys, values = (torch.randn(2, *shape, 20, 40, generator=make) for shape in ((8,), (8, 3), (6, 3)))
    clean = local_attention(query, keys, values, window, backend=backend, mask_border=mask_border)
    (y, x), r = place, window // 2
    near = torch.zeros(20, 40, dtype=torch.bool)
    near[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1] = True
    for held, channel in ((keys, slice(None)), (values, 4)):
        before = held[1, 4, 2, y, x].item()
        held[1, 4, 2, y, x] = wrong
        out = local_attention(query, keys, values, window, backend=backend, mask_border=mask_border)
        held[1, 4, 2, y, x] = before
        expected = torch.zeros_like(out, dtype=torch.bool)
        expected[1, channel] = near
        assert torch.equal(out[~expected], clean[~expected])
        if math.isnan(wrong):
            assert torch.equal(out.isnan(), expected)
        elif held is values:
            assert not out[expected].isfinite().any()


@pytest.mark.parametrize("backend", ["reference", "portable", "cpu"])
def test_gradients_of_what_is_no_number_are_none(backend):
    query, keys, values = (x.requires_grad_() for x in inputs(dtype=torch.float32))
    with torch.no_grad():
        keys[0, 0, 0, 4, 10] = math.nan
    local_attention(query, keys, values, 5, backend=backend).square().sum().backward()
    assert query.grad[0, :, 2:7, 8:13].isnan().all()


def test_auto_logs_its_pick_once(monkeypatch, caplog):
    monkeypatch.setattr(package, "_logged", set())
    with caplog.at_level(logging.INFO, "models.local_attention"):
        local_attention(Q, K, V, 3)
        local_attention(Q, K, V, 3)
    assert [r.message.startswith("local attention on cpu: backend ") for r in caplog.records] == [True]


def test_autocast_accepts_mixed_floating_types():
    query, keys, values = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = local_attention(query.bfloat16(), keys.bfloat16(), values, 3)
    assert out.dtype == torch.float32
