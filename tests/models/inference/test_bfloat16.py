"""Heads, attention and fusion in bfloat16: what float32 returns but for the rounding, at any size and at any time."""

import math
from types import SimpleNamespace

import pytest
import torch

from models import VideoSegmenter, build_lmanet
from models.inference.bfloat16 import Bfloat16Read, use_bfloat16
from models.inference.fast_copy import fast_copy
from models.line_convolution import LineConvolution
from models.local_attention import cpu
from models.local_attention.cpu_build import Built
from models.memory import Memory
from models.memory_read import MemoryRead
from tests.networks import LMANetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDING = 2**-9  # of a factor, at most
LOG2E = math.log2(math.e)
FRAMES = 200


@pytest.fixture
def bfloat16():
    why_not = cpu.why_not_bfloat16()
    if why_not is not None:
        pytest.skip(why_not)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("channels", "values", "frames", "height", "width", "window"),
    [(16, 64, 4, 9, 40, 21), (3, 5, 2, 7, 9, 5), (16, 64, 2, 13, 33, 41), (4, 130, 3, 17, 16, 3), (4, 64, 1, 1, 1, 3)],
)
@pytest.mark.parametrize("kind", [{}, {"mask_border": True}, {"learnable_constant": True}], ids=str)
@torch.inference_mode()
def test_a_read_is_that_of_float32_but_for_the_rounding(
    bfloat16, channels, values, frames, height, width, window, kind
):
    torch.manual_seed(0)
    config = LMANetConfig(corr_size=window, **kind)
    key = torch.randn(2, channels, height, width)
    sink = torch.tensor([0.5]) if config.learnable_constant else None
    for order in (torch.contiguous_format, torch.channels_last_3d):
        stored = torch.rand(2, values, frames, height, width).to(memory_format=order)
        memory = Memory(torch.randn(2, channels, frames, height, width), stored)
        found = Bfloat16Read(config)(key, memory, sink)
        # Keys are rounded, too, those of the query in units of log2(e); the rest is the error of weights and values.
        rounded = Memory(memory.keys.bfloat16().float(), stored)
        expected = MemoryRead(config)((key * LOG2E).bfloat16().float() / LOG2E, rounded, sink)
        assert 0 < relative_error(found, expected) < ROUNDING
        assert (found - expected).abs().max() < 2 * ROUNDING  # of values from 0 to 1
        assert relative_error(found, MemoryRead(config)(key, memory, sink)) < 2 * ROUNDING


@torch.inference_mode()
def test_equal_values_are_read_as_they_are(bfloat16):
    """Weights are divided by the sum of what they were rounded to; neighbors outside of the frame take no part."""
    torch.manual_seed(0)
    memory = Memory(torch.randn(1, 4, 3, 6, 11), torch.full((1, 64, 3, 6, 11), 0.75))
    found = Bfloat16Read(LMANetConfig(corr_size=5, mask_border=True))(torch.randn(1, 4, 6, 11), memory)
    assert (found - 0.75).abs().max() < 1e-6


@torch.inference_mode()
def test_bits_do_not_depend_on_the_threads(bfloat16, monkeypatch):
    torch.manual_seed(0)
    read, key = Bfloat16Read(LMANetConfig(corr_size=7)), torch.randn(1, 4, 30, 50)
    memory = Memory(torch.randn(1, 4, 2, 30, 50), torch.randn(1, 64, 2, 30, 50))
    alone = read(key, memory)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(read(key, memory), alone)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ({"fusion": "residual"}, {"structure": "original_kv_fusion"})
        ),
    ],
    ids=str,
)
@torch.inference_mode()
def test_a_step_does_not_drift_while_the_memory_overflows(bfloat16, kind):
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build_lmanet(LMANetConfig(memory_size=2, corr_size=5, **kind)).eval().requires_grad_(False)
        if kind.get("fusion") == "residual":
            torch.nn.init.normal_(model.fusion.gate.weight, std=0.05)
        fast = fast_copy(model)
    assert use_bfloat16(fast) is None
    assert any(each.in_bfloat16 for each in fast.modules() if isinstance(each, LineConvolution))
    clip = [torch.rand(1, 3, 32, 64) for _ in range(10)]
    memory = fast_memory = None
    errors = []
    for t in range(FRAMES):
        expected, memory = model.step(clip[t % len(clip)], memory)
        found, fast_memory = fast.step(clip[t % len(clip)], fast_memory)
        errors.append(relative_error(found, expected))
    assert 1e-6 < max(errors) < 0.01
    assert max(errors[-len(clip) :]) < 1.05 * max(errors[2 * len(clip) : 3 * len(clip)])  # the same frames as then


def test_where_it_cannot_be_it_says_why_and_nothing_changes(monkeypatch):
    old_processor = SimpleNamespace(has_bfloat16=lambda: 0)
    found = {"avx512_bf16": Built(old_processor, None), "no compiler": Built(None, "no compiler")}
    for reason, built in found.items():
        monkeypatch.setattr(cpu, "built", lambda built=built: built)
        fast = fast_copy(build_lmanet(LMANetConfig()).eval())
        assert reason in use_bfloat16(fast)
        assert not isinstance(fast.read, Bfloat16Read)
        assert not any(each.in_bfloat16 for each in fast.modules() if isinstance(each, LineConvolution))


@pytest.mark.parametrize("baseline", [False, True])
def test_amp_on_a_cpu_multiplies_bfloat16_in_the_library(bfloat16, baseline):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(baseline=baseline, memory_size=2, corr_size=5)).eval()
    exact, fast = VideoSegmenter(model, work_size=(32, 64)), VideoSegmenter(model, work_size=(32, 64), amp="bfloat16")
    assert baseline or isinstance(fast.model.read, Bfloat16Read)
    for _ in range(4):
        image = torch.randint(256, (1, 3, 32, 64), dtype=torch.uint8)
        expected, found = exact.step(image).logits, fast.step(image).logits.float()
        assert 1e-6 < relative_error(found, expected) < 0.05
