"""The residual fusion: starts as the single-frame network on every backbone, and adds a gated difference."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import BackboneTraits, VideoSegmenter, build_lmanet, load_weights, register_backbone
from models.fusion import ResidualFusion
from models.inference.fast_copy import fast_copy
from models.warm_start import warm_start
from models.weights.export import published_state_dict
from tests.networks import BACKBONES, LMANetConfig

pytestmark = pytest.mark.usefixtures("one_thread")


class Half(nn.Conv2d):
    def forward(self, features, size):
        return F.interpolate(super().forward(features), size, mode="bilinear")


@pytest.fixture(params=[1, 7, 33, 600])
def channels(request):
    """A backbone called ``half`` of that many channels."""

    class Backbone:
        def make_encoder(self):
            return nn.Sequential(nn.Conv2d(3, request.param, 5, stride=4, padding=2), nn.ReLU())

        def make_decoder(self, channels, num_classes):
            return Half(channels, num_classes, 3, padding=1)

    traits = BackboneTraits(features=request.param, stride=4, work_size=(32, 48))
    register_backbone("half", traits, lambda config: Backbone())
    yield request.param
    del BACKBONES["half"]


def assert_starts_as_the_single_frame(model: nn.Module, side: tuple[int, int] = (32, 48)) -> None:
    memory = None
    for frame in torch.rand(3, 1, 3, *side):
        logits, memory = model.step(frame, memory)
        assert torch.equal(logits, model.single_frame(frame))


@torch.inference_mode()
def test_it_starts_as_the_single_frame_at_any_number_of_channels(channels):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(backbone="half", fusion="residual", corr_size=5, memory_size=2)).eval()
    assert model.config.value_channels == channels
    assert_starts_as_the_single_frame(model)


@pytest.mark.parametrize("structure", ["original", "aux_mem_loss", "original_kv_fusion"])
@torch.inference_mode()
def test_it_starts_as_the_single_frame_in_each_structure(structure):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(fusion="residual", structure=structure, corr_size=5, memory_size=2))
    assert_starts_as_the_single_frame(model.eval())
    assert_starts_as_the_single_frame(fast_copy(model))


def test_every_backbone_takes_it():
    for name, traits in BACKBONES.items():
        assert "residual" in traits.fitting_fusions()
        config = LMANetConfig(backbone=name, fusion="residual")
        assert (config.value_channels, config.is_residual) == (traits.features, True)


@torch.inference_mode()
def test_skip_features_pass_it_by():
    torch.manual_seed(0)
    backbone = "torchvision/lraspp_mobilenet_v3_large"
    model = build_lmanet(LMANetConfig(backbone=backbone, fusion="residual", corr_size=5, memory_size=2)).eval()
    assert_starts_as_the_single_frame(model, (32, 48))


@torch.inference_mode()
def test_the_rule_by_hand():
    torch.manual_seed(0)
    fusion = ResidualFusion(5).double()
    nn.init.normal_(fusion.gate.weight)
    nn.init.normal_(fusion.gate.bias)
    query, read = torch.randn(2, 2, 5, 6, 7, dtype=torch.float64)
    both = torch.cat([query, read, (read - query).abs()], 1)
    hidden = F.conv2d(both, fusion.reduce.weight, fusion.reduce.bias, padding=1).clamp(min=0)
    gate = F.conv2d(hidden, fusion.gate.weight, fusion.gate.bias, padding=1)
    assert torch.allclose(fusion(query, read), gate * (read - query), atol=1e-12)
    assert fusion(query, query).abs().max() == 0  # what is read is what the frame shows


def test_all_of_it_is_trained_from_the_first_steps_on():
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(fusion="residual", corr_size=3, memory_size=2)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    clip = torch.rand(1, 3, 3, 32, 64)
    for _ in range(2):  # with the gate at zero, the first step moves the gate alone
        optimizer.zero_grad()
        model(clip).square().mean().backward()
        optimizer.step()
    parts = {name.partition(".")[0] for name, each in model.named_parameters() if each.grad.abs().max() > 0}
    assert parts == {"encoder", "decoder", "memory_head", "query_head", "fusion"}


def test_a_warm_start_sets_its_keys_and_leaves_it_at_the_single_frame():
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(fusion="residual", corr_size=5, memory_size=2)).eval()
    before = model.query_head.key.weight.clone()
    warm_start(model, lambda: [torch.rand(1, 2, 3, 32, 64, generator=torch.Generator().manual_seed(1))])
    assert not torch.equal(model.query_head.key.weight, before)
    assert torch.equal(model.query_head.key.weight, model.memory_head.key.weight)
    with torch.inference_mode():
        assert_starts_as_the_single_frame(model)


def test_its_weights_are_written_and_read():
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(fusion="residual", corr_size=3, memory_size=2)).eval()
    nn.init.normal_(model.fusion.gate.weight)
    state = published_state_dict(model)
    again = build_lmanet(LMANetConfig(fusion="residual", corr_size=3, memory_size=2)).eval()
    report = load_weights(again, state)
    assert not report.fresh
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    frames = np.random.RandomState(0).randint(0, 256, (2, 32, 64, 3)).astype(np.uint8)
    fields = {"fusion": "residual", "corr_size": 3, "memory_size": 2}
    one, other = (VideoSegmenter(model, work_size=(32, 64)), VideoSegmenter(state, work_size=(32, 64), **fields))
    assert all(np.array_equal(one.push(frame), other.push(frame)) for frame in frames)
