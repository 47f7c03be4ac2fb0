"""The inference copy of a network gives the logits of the network itself, for every kind of network."""

import pytest
import torch
from torch import nn

from models import build_lmanet
from models.inference.fast_copy import fast_copy, fold_batch_norms
from models.memory import Memory, Push, PushInPlace
from tests.networks import LMANetConfig

KINDS = [
    {},
    {"baseline": True},
    {"structure": "mem_only"},
    {"structure": "aux_mem_loss", "fusion": "concat"},
    {"fusion": "residual"},
    {"structure": "original_kv_fusion", "fusion": "linear"},
    {"memorize_first": True, "learnable_constant": True},
    {"batch_norm": False, "fusion": "sigmoid-do3"},
    {"local": False, "shallow_decoder": True},
    {"backbone": "torchvision/lraspp_mobilenet_v3_large"},
    {"backbone": "torchvision/deeplabv3_mobilenet_v3_large"},
]


def with_lively_norms(model: nn.Module) -> nn.Module:
    """Running statistics that are not those of a fresh network, so that a fold that leaves one out is seen."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.inference_mode()
def test_logits_are_the_same_over_a_stream(kind):
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = with_lively_norms(build_lmanet(LMANetConfig(corr_size=5, memory_size=2, **kind)).requires_grad_(False))
        fast = fast_copy(model)
    memory = fast_memory = None
    for _ in range(4):
        frame = torch.rand(1, 3, 32, 64)
        expected, memory = model.step(frame, memory)
        found, fast_memory = fast.step(frame.to(memory_format=torch.channels_last), fast_memory)
        assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max())


@torch.inference_mode()
def test_networks_of_float64_are_copied_too():
    with torch.inference_mode(False):
        model = with_lively_norms(build_lmanet(LMANetConfig(corr_size=5)).double().requires_grad_(False))
        fast = fast_copy(model)
    assert {x.dtype for x in [*fast.parameters(), *fast.buffers()] if x.is_floating_point()} == {torch.float64}
    memory = fast_memory = None
    for _ in range(2):
        frame = torch.rand(1, 3, 32, 64, dtype=torch.float64)
        expected, memory = model.step(frame, memory)
        found, fast_memory = fast.step(frame, fast_memory)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12 * expected.abs().max())


def norms_in(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_batch_norms_behind_convolutions_are_gone():
    model = build_lmanet(LMANetConfig())
    # What stays: behind the three down-samplers' concatenations, and on what was read from the memory.
    assert (norms_in(model), norms_in(fast_copy(model))) == (42, 4)


def test_a_batch_norm_is_not_folded_where_its_input_is_used_elsewhere():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    class Depending(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert fold_batch_norms(Branching().eval()) == 0
    assert fold_batch_norms(Depending()) == 0
    assert fold_batch_norms(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).eval()) == 1


def test_the_copy_shares_nothing_with_the_network():
    model = build_lmanet(LMANetConfig())
    own = {tensor.data_ptr() for tensor in model.parameters()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in fast_copy(model).parameters())
    assert all(parameter.requires_grad for parameter in model.memory_head.parameters())


def test_a_memory_in_place_holds_the_last_frames_and_allocates_once():
    push, push_in_place = Push(capacity=3), PushInPlace(capacity=3)
    memory, ring, addresses = None, None, set()
    for _ in range(7):
        key, value = torch.rand(1, 2, 3, 4), torch.rand(1, 5, 3, 4)
        memory, ring = push(memory, key, value), push_in_place(ring, key, value)
        assert isinstance(memory, Memory)
        addresses.add(ring.keys.data_ptr())
        for found, expected in ((ring.keys, memory.keys), (ring.values, memory.values)):
            assert found.shape == expected.shape
            frames = {tuple(frame.flatten().tolist()) for frame in found.unbind(2)}
            assert frames == {tuple(frame.flatten().tolist()) for frame in expected.unbind(2)}
    assert len(addresses) == 1
    assert ring.keys.is_contiguous()
