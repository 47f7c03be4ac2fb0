import threading
import time

import pytest
import torch
from torch import nn

from datasets.sampling import seeded_generator
from engine.training import lockstep
from engine.training.lockstep import Lockstep


def network(double: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return model.double() if double else model


def learned(model: nn.Module, steps: Lockstep, clips: torch.Tensor, counts: list[bool]) -> list[torch.Tensor]:
    """Gradients of the sum of all squared outputs, of clips that count together."""

    def gradients(clip):
        return torch.autograd.grad(model(clip).square().sum(), list(model.parameters()))

    generators = [torch.Generator() if each else None for each in counts]
    found = list(steps.each(gradients, clips.split(1), generators, sum(counts)))
    return [sum(each) for each in zip(*(f for f, each in zip(found, counts, strict=True) if each), strict=True)]


@pytest.mark.parametrize("places", [3, 5])
def test_norms_of_clips_alone_are_those_of_a_batch(places):
    clips = torch.randn(3, 3, 6, 7, dtype=torch.float64) * 3 + 1
    whole, alone = network(), network()
    lockstep.prepare(alone)
    whole(clips).square().sum().backward()
    found = learned(alone, Lockstep(places), clips, [True] * 3)
    for parameter, gradient in zip(whole.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    assert alone.state_dict().keys() == whole.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(alone.state_dict()[name], tensor)


def test_a_clip_that_stands_in_changes_nothing():
    clips = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    one, two = network(), network()
    for model in (one, two):
        lockstep.prepare(model)
    found = learned(one, Lockstep(1), clips[:1], [True]), learned(two, Lockstep(2), clips, [True, False])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor)


def test_a_single_value_is_normed_by_the_running_statistics():
    model = nn.Sequential(nn.BatchNorm2d(2))
    lockstep.prepare(model)
    model[0].running_mean += 1
    x = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    [found] = Lockstep(2).each(model, [x], [torch.Generator()], 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([2.0, 4.0]), atol=1e-4, rtol=0)
    assert model[0].num_batches_tracked == 0


class BatchNormAct2d(nn.BatchNorm2d):
    """A batch norm with its activation, as timm's networks have them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def test_a_norm_keeps_its_activation():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4)).eval()
    x = torch.randn(2, 3, 5, 6)
    expected = network(x)
    lockstep.prepare(network)
    assert torch.equal(network(x), expected) and expected.min() == 0


def test_a_clip_draws_its_own_dropout():
    model = nn.Sequential(nn.Dropout2d(0.5))
    lockstep.prepare(model)
    x = torch.ones(1, 64, 2, 2)

    def outputs(*seeds):
        generators = [seeded_generator(seed) for seed in seeds]
        return list(Lockstep(4).each(model, [x] * len(seeds), generators, len(seeds)))

    first, second = outputs(1, 2)
    assert torch.equal(outputs(2, 3, 1)[2], first)
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert all(len(channel.unique()) == 1 for channel in first[0])


def test_one_failing_clip_ends_all():
    model = network()
    lockstep.prepare(model)
    clips = torch.randn(3, 3, 6, 7, dtype=torch.float64)

    def fails_late(number):
        if number == 2:
            time.sleep(0.05)
            raise KeyError("the cause")
        return model(clips[number : number + 1])

    with pytest.raises(KeyError, match="the cause"):
        list(Lockstep(3).each(fails_late, range(3), [torch.Generator()] * 3, 3))


def test_threads_are_shared_out():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        [found] = Lockstep(2).each(lambda _: (torch.get_num_threads(), threading.current_thread().name), [0], [None], 1)
        assert found == (2, "clip_0")
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
