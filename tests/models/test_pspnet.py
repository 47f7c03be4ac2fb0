"""PSPNet-101's own rules, beside the golden tensors."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from models import build_lmanet
from models.backbones.pspnet.network import Decoder, stage
from models.norms import BackboneNorm
from tests.networks import BACKBONES, LMANetConfig
from utils.errors import OptionError


def test_only_the_fusions_that_keep_the_width_fit():
    traits = BACKBONES["psp101"]
    assert traits.fitting_fusions() == ["sigmoid-down1", "residual"]
    assert (traits.key_channels, traits.value_channels, traits.features) == (128, 2048, 2048)
    with pytest.raises(
        OptionError, match=r"sigmoid-do1 does not fit --backbone psp101: expected one of sigmoid-down1, residual$"
    ):
        LMANetConfig(backbone="psp101", fusion="sigmoid-do1")
    with pytest.raises(OptionError, match="sigmoid-down1 does not fit --backbone erf: expected one of sigmoid-do1, "):
        LMANetConfig(backbone="erf", fusion="sigmoid-down1")


def test_sides_are_8k_plus_1():
    traits = BACKBONES["psp101"]
    assert traits.nearest_sides(1024) == [1017, 1025]
    assert traits.nearest_sides(713) == [713]
    assert traits.feature_size((1025, 2049)) == (129, 257)
    with torch.device("meta"):
        model = build_lmanet(LMANetConfig(backbone="psp101"))
        with pytest.raises(ValueError, match="width is 2048: psp101 takes 2041 or 2049"):
            model(torch.zeros(1, 2, 3, 1025, 2048))


def test_sizes_at_every_end():
    with torch.device("meta"):
        model = build_lmanet(LMANetConfig(backbone="psp101", shallow_decoder=True)).eval()
        frame = torch.zeros(1, 3, 105, 137)
        assert model.encoder(frame).shape == (1, 2048, 14, 18)
        assert model.decoder(model.encoder(frame), (105, 137)).shape == (1, 20, 14, 18)
        assert Decoder(2048, 20).eval()(torch.zeros(1, 2048, 14, 18), (105, 137)).shape == (1, 20, 105, 137)


def test_every_3x3_convolution_of_a_dilated_stage_is_dilated():
    blocks = stage(1024, 512, 3, 1, 4, BackboneNorm)
    assert [block.conv2.dilation for block in blocks] == [(4, 4)] * 3
    blocks = stage(256, 128, 4, 2, 1, BackboneNorm)
    assert [(block.conv1.stride, block.conv2.stride) for block in blocks[:2]] == [((1, 1), (2, 2)), ((1, 1), (1, 1))]


def test_decoder_against_its_rule():
    torch.manual_seed(0)
    decoder = Decoder(6, 4).double().eval()
    for norm in decoder.modules():
        if isinstance(norm, BackboneNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)

    def normed(y, norm):
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        return (y - norm.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

    levels = [x]
    for bins, grid in zip((1, 2, 3, 6), decoder.ppm.features, strict=True):
        pooled = torch.empty(2, 6, bins, bins, dtype=torch.float64)
        for i in range(bins):
            for j in range(bins):
                rows = slice(i * 7 // bins, -(-(i + 1) * 7 // bins))
                columns = slice(j * 9 // bins, -(-(j + 1) * 9 // bins))
                pooled[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
        pooled = normed(torch.einsum("bcij,dc->bdij", pooled, grid[1].weight[:, :, 0, 0]), grid[2]).clamp(min=0)
        levels.append(F.interpolate(pooled, (7, 9), mode="bilinear", align_corners=True))
    conv, norm, _, _, last = decoder.cls
    y = normed(F.conv2d(torch.cat(levels, 1), conv.weight, padding=1), norm).clamp(min=0)
    expected = F.interpolate(F.conv2d(y, last.weight, last.bias), (49, 65), mode="bilinear", align_corners=True)
    logits = decoder(x, (49, 65))
    assert torch.allclose(logits[:, :3], expected, rtol=0, atol=1e-12)
    assert (logits[:, 3] == 0).all()


def test_norm_left_out_and_norm_of_a_single_value():
    x = torch.randn(2, 3, 4, 4)
    assert BackboneNorm(3, applied=False).train()(x) is x
    norm = BackboneNorm(3).train()
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    single = torch.tensor([5.0, 1.0, -1.0]).view(1, 3, 1, 1)
    assert torch.allclose(norm(single).flatten(), torch.tensor([2.0, 0.0, -1.0]), atol=1e-4)
    assert norm.num_batches_tracked == 0
    assert torch.allclose(norm(x).mean((0, 2, 3)), torch.zeros(3), atol=1e-6)  # of this batch, as always
    assert norm.num_batches_tracked == 1


@torch.inference_mode()
def test_without_batch_norms():
    """``--backbone-nobn`` holds the norms, as published files do, and computes as if they were not there."""
    torch.manual_seed(0)
    norm = partial(BackboneNorm, applied=False)
    blocks = stage(6, 4, 2, 1, 2, norm).double().eval()
    x = torch.randn(1, 6, 7, 9, dtype=torch.float64)
    y, shortcut = x, F.conv2d(x, blocks[0].downsample[0].weight)
    for block in blocks:
        z = F.conv2d(F.conv2d(y, block.conv1.weight).clamp(min=0), block.conv2.weight, padding=2, dilation=2)
        y = (F.conv2d(z.clamp(min=0), block.conv3.weight) + shortcut).clamp(min=0)
        shortcut = y
    assert torch.allclose(blocks(x), y, rtol=0, atol=1e-12)
    assert blocks.state_dict().keys() == stage(6, 4, 2, 1, 2, BackboneNorm).state_dict().keys()
    with torch.device("meta"):
        model = build_lmanet(LMANetConfig(backbone="psp101", batch_norm=False))
    norms = [m for half in (model.encoder, model.decoder) for m in half.modules() if isinstance(m, BackboneNorm)]
    # 3 in the stem, 3 in each of 33 blocks, 4 shortcuts; 4 grids and the head
    assert len(norms) == 3 + 99 + 4 + 5 and not any(norm.applied for norm in norms)


def test_trains_at_batch_size_one():
    torch.manual_seed(0)
    decoder = Decoder(8, 5).train()
    decoder(torch.randn(1, 8, 6, 6), (41, 41)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters())
