"""The weights that a memory starts with, against what the single-frame network says."""

import copy

import pytest
import torch

from models import build_lmanet
from models.warm_start import Moments, warm_start
from tests.networks import LMANetConfig
from utils.errors import OptionError

pytestmark = pytest.mark.usefixtures("one_thread")

FUSIONS = ["sigmoid-do1", "sigmoid-do2", "sigmoid-do3", "sigmoid", "linear", "simple-sigmoid"]


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Features of a fresh encoder hardly vary; these do, and few components hold them as those of a trained one."""
    with torch.no_grad():
        last = model.encoder.layers[-1]
        mixing = torch.randn(128, 12) @ torch.randn(12, 128) / 12
        last.conv1x3_2.weight.zero_()
        last.conv1x3_2.weight[:, :, 0, 1] = mixing
        last.bn2.bias.fill_(3.0)
    return model.eval()


def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, 3, 64, 128, generator=generator) for _ in range(3)]


def test_moments_are_those_of_all_that_was_shown():
    x = torch.randn(2, 3, 4, 5)
    moments = Moments(covariance=True)
    moments.add(x[:1])
    moments.add(x[1:])
    rows = x.transpose(0, 1).flatten(1)
    assert torch.allclose(moments.mean.float(), rows.mean(1), atol=1e-6)
    assert torch.allclose(moments.covariance.float(), torch.cov(rows, correction=0), atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_network_starts_close_to_the_single_frame(fusion):
    torch.manual_seed(0)
    model = lively(build_lmanet(LMANetConfig(corr_size=5, memory_size=2, fusion=fusion)))
    fresh = copy.deepcopy(model)
    warm_start(model, clips)
    assert not model.training
    with torch.inference_mode():
        wanted = [model.decoder(model.encoder(clip[:, -1]), clip.shape[-2:]) for clip in clips()]
        error, before = (
            sum(
                torch.nn.functional.mse_loss(net(clip)[:, 0], x).item() for clip, x in zip(clips(), wanted, strict=True)
            )
            for net in (model, fresh)
        )
    assert error < 0.1 * before
    # Taken alone, the query is what the single frame knows, but for what the 64 components leave out.
    assert error < 0.1 * sum(x.var().item() for x in wanted)


def test_without_a_share_for_the_read_its_content_does_not_count():
    torch.manual_seed(0)
    model = lively(build_lmanet(LMANetConfig(corr_size=5, memory_size=2)))
    warm_start(model, clips, read_share=0.0)
    value, read = torch.randn(2, 1, 64, 8, 16)
    with torch.inference_mode():
        model.fusion.gate_query.weight.zero_()  # gates alone still look at the read
        assert torch.equal(model.fusion(value, read), model.fusion(value, torch.zeros_like(read)))


def test_where_values_are_features_they_pass_the_fusion():
    torch.manual_seed(0)
    backbone = "torchvision/lraspp_mobilenet_v3_large"
    model = build_lmanet(LMANetConfig(backbone=backbone, corr_size=5, memory_size=2)).eval()
    warm_start(model, clips, read_share=0.05)
    clip = clips()[0]
    with torch.inference_mode():
        features = model.split_skip(model.encoder(clip[:, -1]))[0]
        seen = []
        model.fusion.register_forward_hook(lambda _, inputs, output: seen.append(output))
        model(clip)
    correlation = torch.corrcoef(torch.stack([features.relu().flatten(), seen[-1].flatten()]))[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize(
    "kind, named",
    [
        ({"baseline": True}, "--baseline-mode"),
        ({"structure": "mem_only"}, "--model-struct mem_only"),
        ({"fusion": "concat", "structure": "aux_mem_loss"}, "--fusion-strategy concat"),
    ],
    ids=str,
)
def test_a_network_without_such_a_memory_is_refused(kind, named):
    with pytest.raises(OptionError, match=f"--warm-start with {named}"):
        warm_start(build_lmanet(LMANetConfig(**kind)), clips)
