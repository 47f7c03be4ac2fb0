"""Convolutions along a line by the compiled library are those of PyTorch, at every size, dilation and direction."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.fusion import ResidualFusion
from models.inference.fast_copy import fast_copy
from models.line_convolution import LineConvolution, filters_of, takes
from models.lmanet import build_lmanet
from models.local_attention import cpu
from tests.networks import LMANetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS = 64  # a multiple of what any processor's library takes at once


@pytest.fixture
def library():
    if not cpu.line_block():
        pytest.skip("needs a C++ compiler")


def conv_along(rows: bool, dilation: int) -> nn.Conv2d:
    if rows:
        return nn.Conv2d(CHANNELS, CHANNELS, (1, 3), padding=(0, dilation), dilation=(1, dilation))
    return nn.Conv2d(CHANNELS, CHANNELS, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 33), (13, 7), (40, 6)])
@pytest.mark.parametrize("dilation", [1, 3, 16])
@torch.inference_mode()
def test_it_is_the_convolution_the_sum_and_the_relu(library, rows, height, width, dilation):
    torch.manual_seed(0)
    conv = conv_along(rows, dilation)
    x, added = torch.randn(2, CHANNELS, height, width), torch.randn(2, CHANNELS, height, width)
    fast = LineConvolution(conv, relu=True)
    assert fast.factors(x) == torch.float32
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), 1, conv.padding, conv.dilation)
    for found, expected in ((fast(x), exact), (fast(x, added), exact + added)):
        assert (found - expected.relu()).abs().max() < 3e-5
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("made", "height", "width"), [(128, 5, 9), (100, 40, 3), (256, 33, 34)])
@torch.inference_mode()
def test_three_taps_across_too_and_any_number_of_channels(library, made, height, width):
    torch.manual_seed(0)
    conv = nn.Conv2d(CHANNELS, made, 3, padding=1)
    assert takes(conv)
    x = torch.randn(2, CHANNELS, height, width)
    expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    found = LineConvolution(conv)(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 5e-5
    assert found.min() < 0


@torch.inference_mode()
def test_a_slice_of_the_channels_is_read_where_it_lies(library):
    torch.manual_seed(0)
    x = torch.randn(2, 2 * CHANNELS, 5, 9).to(memory_format=torch.channels_last)
    fast = LineConvolution(nn.Conv2d(CHANNELS, 128, 3, padding=1))
    for part in x.chunk(2, dim=1):
        assert torch.equal(fast(part), fast(part.contiguous()))


def test_what_it_does_not_gain_from_stays():
    assert not takes(nn.Conv2d(64, 32, 3, padding=1))  # few channels
    assert not takes(nn.Conv2d(2048, 128, 3, padding=1))  # weights that no cache holds
    for other in ({"stride": 2}, {"dilation": 2}, {"padding": 0}, {"groups": 2}, {"bias": False}):
        assert not takes(nn.Conv2d(64, 128, 3, **{"padding": 1, **other}))


@torch.inference_mode()
def test_bits_do_not_depend_on_the_threads_and_nan_stays(library, monkeypatch):
    torch.manual_seed(0)
    fast, x = LineConvolution(conv_along(False, 2)), torch.randn(1, CHANNELS, 21, 70)
    alone = fast(x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(fast(x), alone)
    x[0, 5, 10, 40] = torch.nan
    assert fast(x)[0, :, 10, 40].isnan().all()
    assert fast(x)[0, :, 0, 0].isfinite().all()


def test_elsewhere_pytorch_computes_it(library):
    fast, x = LineConvolution(conv_along(True, 1)), torch.randn(1, CHANNELS, 4, 8)
    assert fast.factors(x) is None  # gradients are wanted
    fast(x).sum().backward()
    assert fast.conv.weight.grad is not None
    with torch.no_grad():
        assert fast.factors(x.double()) is None
        assert LineConvolution(nn.Conv2d(5, 5, (1, 3), padding=(0, 1))).factors(x[:, :5]) is None
        with torch.autocast("cpu", torch.float16):
            assert fast.factors(x) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert fast.factors(x) == (None if cpu.why_not_bfloat16() else torch.bfloat16)


@pytest.fixture
def bfloat16():
    why_not = cpu.why_not_bfloat16()
    if why_not is not None:
        pytest.skip(why_not)


@pytest.mark.parametrize(("made", "rows", "dilation"), [(64, True, 1), (64, False, 3), (100, None, 1), (160, None, 1)])
@torch.inference_mode()
def test_factors_of_bfloat16_cost_less_than_a_hundredth(bfloat16, made, rows, dilation):
    torch.manual_seed(0)
    conv = nn.Conv2d(CHANNELS, made, 3, padding=1) if rows is None else conv_along(rows, dilation)
    x, added = torch.randn(2, CHANNELS, 13, 35), torch.randn(2, made, 13, 35)
    fast = LineConvolution(conv)
    fast.in_bfloat16 = True
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), 1, conv.padding, conv.dilation) + added
    for found in (fast(x, added), under_autocast(fast, x, added), under_autocast(fast, x.bfloat16().float(), added)):
        assert found.dtype == torch.float32
        assert 1e-4 < (found - exact).std() / (exact - added).std() < 0.01
    assert torch.equal(under_autocast(fast, x, added), fast(x, added))


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("one_gate", "height", "width"), [(False, 5, 9), (True, 34, 3), (False, 13, 35)])
@torch.inference_mode()
def test_a_gated_fusion_in_one_pass_is_that_of_its_formula(library, prepared, one_gate, height, width):
    torch.manual_seed(0)
    convolutions = gates, *features = convolutions_of_gates(one_gate)
    gates.bias[:2] = torch.tensor([1e4, -1e4])  # far into both ends of the sigmoid
    query, read = two_inputs(CHANNELS, height, width)
    shift = torch.randn(2 * CHANNELS, 1, 1)
    scale, read_shift = torch.randn(CHANNELS), torch.randn(CHANNELS)
    filters = filters_of(query, *(LineConvolution(each) for each in convolutions))
    found = cpu.gated_fusion(query, read, (scale, read_shift) if prepared else None, filters, shift.flatten())

    both = query.double(), read.double()
    if prepared:
        both = both[0].relu(), (both[1] * scale[:, None, None] + read_shift[:, None, None]).relu()
    gate = exactly(gates, torch.cat(both, dim=1)).sigmoid()
    gate = (gate, gate) if one_gate else gate.chunk(2, dim=1)
    expected = sum(g * exactly(conv, x) for g, conv, x in zip(gate, features, both, strict=True)) + shift
    assert (found - expected.relu()).abs().max() < 5e-5 and expected.std() > 0.1
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (13, 35)])
@torch.inference_mode()
def test_a_residual_fusion_in_two_passes_is_that_of_its_formula(library, height, width):
    torch.manual_seed(0)
    fusion = ResidualFusion(2 * CHANNELS)
    nn.init.normal_(fusion.gate.weight, std=0.05)
    query, read = two_inputs(2 * CHANNELS, height, width)
    filters = filters_of(query, LineConvolution(fusion.reduce), LineConvolution(fusion.gate))
    found = cpu.residual_fusion(query, read, *filters)
    expected = copy.deepcopy(fusion).double()(query.double(), read.double())
    assert (found - expected).abs().max() < 1e-4 and expected.std() > 0.05
    assert found.is_contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def test_fusions_of_bfloat16_cost_less_than_a_hundredth(bfloat16):
    torch.manual_seed(0)
    residual = ResidualFusion(2 * CHANNELS)
    nn.init.normal_(residual.gate.weight, std=0.05)
    for inputs, convolutions, fusion in (
        (two_inputs(CHANNELS, 13, 35), convolutions_of_gates(False), gated_without_shift),
        (two_inputs(2 * CHANNELS, 13, 35), [residual.reduce, residual.gate], cpu.residual_fusion),
    ):
        lines = [LineConvolution(each) for each in convolutions]
        exact = fusion(*inputs, *filters_of(inputs[0], *lines))
        for each in lines:
            each.in_bfloat16 = True
        found = fusion(*inputs, *filters_of(inputs[0], *lines))
        assert 1e-4 < (found - exact).std() / exact.std() < 0.01


@torch.inference_mode()
def test_a_nan_stays_in_a_fusion(library):
    residual = ResidualFusion(2 * CHANNELS)
    nn.init.normal_(residual.gate.weight, std=0.05)
    for inputs, convolutions, fusion in (
        (two_inputs(CHANNELS, 13, 35), convolutions_of_gates(False), gated_without_shift),
        (two_inputs(2 * CHANNELS, 13, 35), [residual.reduce, residual.gate], cpu.residual_fusion),
    ):
        filters = filters_of(inputs[0], *(LineConvolution(each) for each in convolutions))
        inputs[0][0, 3, 2, 2] = torch.nan
        found = fusion(*inputs, *filters)
        assert found[0, :, 2, 2].isnan().all() and not found[1].isnan().any()


def gated_without_shift(query, read, *filters):
    return cpu.gated_fusion(query, read, None, filters, torch.zeros(2 * CHANNELS))


@torch.inference_mode()
def test_filters_are_there_where_the_library_computes_all_of_them(library):
    lines = [LineConvolution(each) for each in convolutions_of_gates(False)]
    x = torch.randn(1, CHANNELS, 4, 4)
    assert len(filters_of(x, *lines)) == 3
    assert filters_of(x.double(), *lines) is None
    assert filters_of(x, lines[0].conv, *lines[1:]) is None
    assert filters_of(x, LineConvolution(nn.Conv2d(CHANNELS, 100, 3, padding=1))) is None  # no whole blocks
    with torch.enable_grad():
        assert filters_of(x, *lines) is None
    lines[0].in_bfloat16 = True  # but the others not
    assert (filters_of(x, *lines) is None) == (cpu.why_not_bfloat16() is None)


def convolutions_of_gates(one_gate: bool) -> list[nn.Conv2d]:
    wide = 2 * CHANNELS
    shapes = [(wide, wide if one_gate else 2 * wide), (CHANNELS, wide), (CHANNELS, wide)]
    return [nn.Conv2d(read, made, 3, padding=1) for read, made in shapes]


def two_inputs(channels: int, height: int, width: int) -> list[torch.Tensor]:
    shape = 2, channels, height, width
    return [torch.randn(shape).to(memory_format=torch.channels_last) for _ in range(2)]


def exactly(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)


def under_autocast(conv: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return conv(*inputs)


@torch.inference_mode()
def test_two_hundred_frames_stay_within_a_hundred_thousandth(library):
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build_lmanet(LMANetConfig(memory_size=3, corr_size=7)).eval().requires_grad_(False)
        fast = fast_copy(model)
    memory = fast_memory = None
    errors = []
    for _ in range(200):
        frame = torch.rand(1, 3, 32, 64)
        expected, memory = model.step(frame, memory)
        found, fast_memory = fast.step(frame, fast_memory)
        errors.append(((found - expected).abs().max() / (expected.max() - expected.min())).item())
    assert max(errors) < 1e-5
    assert max(errors[100:]) < 2 * max(errors[:100])
