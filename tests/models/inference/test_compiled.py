"""The compiled copy gives the same logits; compiling takes its time."""

import pytest
import torch

from models import build_lmanet
from models.inference.fast_copy import fast_copy
from tests.networks import LMANetConfig


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, {"baseline": True}], ids=str)
@torch.inference_mode()
def test_the_compiled_copy_gives_the_same_logits(kind):
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build_lmanet(LMANetConfig(corr_size=5, memory_size=2, **kind)).eval().requires_grad_(False)
        fast = fast_copy(model, compiled=True)
    memory = fast_memory = None
    for _ in range(4):
        frame = torch.rand(1, 3, 64, 128)
        expected, memory = model.step(frame, memory)
        found, fast_memory = fast.step(frame.to(memory_format=torch.channels_last), fast_memory)
        assert torch.allclose(found, expected, atol=1e-4)
