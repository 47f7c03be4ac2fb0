"""The read of the memory and the push into it as modules: what hooks see, and memories of fixed shapes."""

import pytest
import torch

from models import build_lmanet
from models.memory import Memory, PaddedMemory, Push, PushPadded
from models.memory_read import MemoryRead, PaddedRead
from tests.networks import LMANetConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.inference_mode()
def test_hooks_see_what_the_network_reads_and_pushes():
    model = build_lmanet(LMANetConfig(corr_size=3, memory_size=2, learnable_constant=True)).eval()
    reads, pushes = [], []
    model.read.register_forward_hook(lambda module, arguments, output: reads.append((*arguments, output)))
    model.push.register_forward_hook(lambda module, arguments, output: pushes.append(output))
    model(torch.rand(1, 4, 3, 16, 24))
    (key, memory, sink, read) = reads[-1]
    assert (len(reads), len(pushes)) == (1, 3)  # only the last frame is decoded, and it is not remembered
    assert key.shape == (1, 16, 2, 3) and memory.keys.shape == (1, 16, 2, 2, 3) and read.shape == (1, 64, 2, 3)
    assert sink is model.attention_constant and memory is pushes[-1]
    assert torch.equal(model.read(key, memory, sink), read)


def test_neither_has_parameters_and_the_constant_comes_first():
    model = build_lmanet(LMANetConfig(learnable_constant=True))
    assert not [*model.read.state_dict(), *model.push.state_dict()]
    assert next(iter(model.state_dict())) == "attention_constant"


def test_a_memory_of_another_size_is_refused():
    memory = Memory(torch.rand(1, 16, 2, 2, 3), torch.rand(1, 64, 2, 2, 3))
    message = (
        r"holds 1 videos with features of \(2, 3\), the frame has 2 with \(2, 4\): start the memory anew with None"
    )
    with pytest.raises(ValueError, match=message):
        MemoryRead(LMANetConfig())(torch.rand(2, 16, 2, 4), memory)


@pytest.mark.parametrize("mask_border", [False, True])
def test_a_padded_memory_is_read_as_the_frames_that_are_there(mask_border):
    config = LMANetConfig(corr_size=3, memory_size=3, mask_border=mask_border)
    push, push_padded = Push(3), PushPadded()
    memory = None
    padded = PaddedMemory(torch.zeros(1, 16, 3, 4, 5), torch.zeros(1, 8, 3, 4, 5), torch.tensor(0))
    torch.manual_seed(0)
    for number in range(1, 6):
        key, value = torch.rand(1, 16, 4, 5), torch.rand(1, 8, 4, 5)
        memory, padded = push(memory, key, value), push_padded(padded, key, value)
        assert padded.filled == min(number, 3) == memory.keys.shape[2]
        assert torch.equal(padded.keys[:, :, -padded.filled :], memory.keys)
        query = torch.rand(1, 16, 4, 5)
        assert torch.allclose(PaddedRead(config)(query, padded), MemoryRead(config)(query, memory), atol=1e-6)
