"""The FlexAttention backend on the CPU, where it runs without gradients, against the float64 reference."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import flex_attention as flex_library

from models.local_attention import BackendError, flex, local_attention, why_not
from tests.models.local_attention.cases import Case, call_of, laid_out

# 30 shapes: frames smaller and larger than a tile of 8 x 16 and than the window, channels that fill no step of 16,
# values of one and of several heads, layouts, a batch, an empty one, large scores.
SIZES = """
    1 1 1 1 1 1 -     1 1 1 1 1 3 sink       2 3 1 3 4 3 -       3 5 2 8 16 3 sink     3 5 2 9 17 3 -
    16 64 4 7 15 5 -  16 64 4 7 15 5 sink    17 33 1 16 32 7 -   5 257 1 9 17 3 sink   4 512 1 8 20 5 -
    4 300 2 5 18 5 sink   8 16 1 1 40 9 -    8 16 1 40 1 9 sink  8 8 1 20 20 21 -      8 8 1 20 20 41 sink
    8 8 3 4 4 21 -    6 7 2 17 33 1 sink     6 7 2 17 33 11 -    6 7 2 25 20 15 sink   6 7 2 25 20 17 -
    16 16 1 12 50 19 -  2 2 5 10 10 5 sink   128 256 1 9 9 3 -   31 15 2 11 23 9 sink
"""
WORDS = SIZES.split()
CASES = [
    *(Case(1, *map(int, WORDS[i : i + 6]), WORDS[i + 6] == "sink") for i in range(0, len(WORDS), 7)),
    Case(b=2, c=3, d=5, t=2, h=9, w=20, window=5, sink=True),
    Case(b=3, c=4, d=6, t=1, h=10, w=18, window=7),
    Case(b=0, sink=True),
    Case(c=8, d=4, h=10, w=18, window=5, scale=80.0, sink=True),
    Case(c=17, d=66, t=1, h=5, w=33, window=3, layout="channels_last"),
    Case(c=9, d=3, t=2, h=6, w=9, window=3, layout="strided"),
]


# One in three in the fast tier.
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if i % 3 == 0 else pytest.mark.slow, id=str(i)) for i, case in enumerate(CASES)],
)
@torch.no_grad()
def test_agrees_with_reference(case):
    call = call_of(case)
    query, keys, values = (laid_out(x.float(), case.layout) for x in call[:3])
    sink = None if call.sink is None else call.sink.float()
    found = local_attention(query, keys, values, case.window, sink, "flex")
    expected = local_attention(*call[:3], case.window, call.sink, "reference")
    assert found.shape == expected.shape
    if case.b:
        error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-2 * call.values.abs().max())
        assert error < 2e-5 * max(1.0, case.scale)


@torch.no_grad()
def test_a_masked_border_agrees_with_reference():
    case = Case(c=5, d=7, t=2, h=9, w=20, window=7)
    call = call_of(case)
    expected = local_attention(*call[:3], case.window, backend="reference", mask_border=True)
    found = local_attention(*(x.float() for x in call[:3]), case.window, backend="flex", mask_border=True)
    assert (found - expected).abs().max() < 2e-5


@torch.no_grad()
def test_half_precision_is_rounded_once():
    case = Case(c=16, d=40, t=2, h=9, w=20, window=5, sink=True)
    query, keys, values = (x.bfloat16() for x in call_of(case)[:3])
    expected = local_attention(query.double(), keys.double(), values.double(), 5, backend="reference")
    found = local_attention(query, keys, values, 5, backend="flex")
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 2 * 2**-8 * expected.abs().max()


@torch.no_grad()
def test_it_is_one_graph_with_its_log_sum_exp(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(flex, "_attend", torch.compile(flex._with_log_sum_exp, backend="aot_eager", fullgraph=True))
    test_agrees_with_reference(CASES[4])


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[4], CASES[8], CASES[19]], ids=str)
def test_compiled_agrees_with_reference(case, monkeypatch):
    """Compiled for a CPU there is no log-sum-exp, which a masked border does not need."""

    def attend(q, k, v, mask):
        return flex_library.flex_attention(q, k, v, block_mask=mask, scale=1.0)

    torch.compiler.reset()
    compiled = torch.compile(attend, dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex, "_attend", lambda *call: (compiled(*call), None))
    query, keys, values = call_of(case)[:3]
    expected = local_attention(query, keys, values, case.window, backend="reference", mask_border=True)
    found = local_attention(query.float(), keys.float(), values.float(), case.window, None, "flex", mask_border=True)
    assert (found - expected).abs().max() < 2e-5 * max(1.0, expected.abs().max())


def fake(device: str, dtype: torch.dtype, channels: int) -> SimpleNamespace:
    return SimpleNamespace(device=torch.device(device), dtype=dtype, shape=torch.Size((1, channels, 3, 129, 257)))


def test_it_is_picked_for_wide_values_in_half_precision_on_a_gpu_alone():
    kinds = [
        ("cuda", torch.float16, 2048, True),
        ("cuda", torch.bfloat16, 256, True),
        ("cuda", torch.float32, 2048, False),
        ("cuda", torch.float16, 64, False),
        ("cpu", torch.bfloat16, 2048, False),
    ]
    for device, dtype, channels, expected in kinds:
        values = fake(device, dtype, channels)
        assert flex.suits_flex(values, values) == expected


def test_it_says_why_it_cannot_run(monkeypatch):
    query = torch.zeros(1, 2, 4, 4, requires_grad=True)
    keys = torch.zeros(1, 2, 1, 4, 4)
    assert why_not("flex", query, keys, keys, 3) == "FlexAttention has no gradients on a CPU"
    with pytest.raises(BackendError, match="'flex' cannot serve this call: FlexAttention has no gradients on a CPU"):
        local_attention(query, keys, keys, 3, backend="flex")
    large = torch.zeros(1, 1, 1, 129, 257)
    assert why_not("flex", large[:, 0], large, large, 3) == "on a CPU it would keep the scores of all pixels"
    gpu = fake("cuda:0", torch.float64, 2048)
    assert flex.why_not_flex(gpu, gpu, gpu, 21, None) == "it reads float32, float16 and bfloat16, found torch.float64"
    gpu = fake("cuda:0", torch.float16, 2048)
    flex._device_problem.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert flex.why_not_flex(gpu, gpu, gpu, 21, None) == "it needs a GPU of compute capability 8.0 or newer, found 7.5"
    flex._device_problem.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.empty(1, 16, 1, 8, 16))
    monkeypatch.setattr(flex, "flex_attention", lambda *_: (_ for _ in ()).throw(RuntimeError("no C compiler\nmore")))
    assert flex.why_not_flex(gpu, gpu, gpu, 21, None) == "FlexAttention cannot be compiled for GPU 0 (no C compiler)"
    flex._device_problem.cache_clear()
