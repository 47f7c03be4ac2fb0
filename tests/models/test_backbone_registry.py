"""What is registered of a backbone: its name, a maker as text, and in which dimension its classes lie."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import BackboneTraits, build_lmanet, load_weights, register_backbone
from models.backbone import Classifier, backbone_card, backbone_names, shipped_backbones
from models.weights.load import read_weights
from tests.networks import BACKBONES, LMANetConfig
from utils.errors import WeightsError

TRAITS = BackboneTraits(features=32, stride=4, work_size=(32, 48))
MODULE = """
from torch import nn

class Maker:
    def __init__(self, config):
        self.kernel = config.corr_size

    def make_encoder(self):
        return nn.Conv2d(3, 32, self.kernel, stride=4, padding=self.kernel // 2)

    def make_decoder(self, channels, num_classes):
        return nn.Conv2d(channels, num_classes, 1)
"""


class Upsampled(nn.Module):
    """A transposed convolution, whose weight is I O kh kw."""

    def __init__(self, channels, num_classes):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, num_classes, 4, stride=4)

    def forward(self, features, size):
        return F.interpolate(self.up(features), size)


class UpsampledBackbone:
    def __init__(self, config):
        pass

    def make_encoder(self):
        return nn.Conv2d(3, 32, 5, stride=4, padding=2)

    def make_decoder(self, channels, num_classes):
        return Upsampled(channels, num_classes)


@pytest.fixture
def register():
    """``register_backbone``, until the end of the test."""
    names = []

    def registered(name, *arguments, **options):
        register_backbone(name, *arguments, **options)
        names.append(name)

    yield registered
    for name in names:
        del BACKBONES[name]


@pytest.mark.parametrize("name", ["erf", "torchvision/fcn_resnet50"])
def test_a_name_is_registered_once(name):
    before = backbone_card(name)
    with pytest.raises(ValueError) as error:
        register_backbone(name, TRAITS, UpsampledBackbone)
    assert str(error.value) == f"a backbone named '{name}' is there already: expected another name, such as '{name}_2'"
    assert backbone_card(name) is before


def test_a_maker_as_text_is_imported_when_it_is_needed(register, tmp_path, monkeypatch):
    (tmp_path / "lazily_made.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    register("lazy", TRAITS, "lazily_made:Maker")
    config = LMANetConfig(backbone="lazy", corr_size=3)
    assert "lazily_made" not in sys.modules
    model = build_lmanet(config)
    monkeypatch.delitem(sys.modules, "lazily_made")
    assert model.encoder.kernel_size == (3, 3) and model.decoder.out_channels == 20


def test_those_of_the_project_are_known_from_others(register):
    shipped = shipped_backbones()
    assert shipped[:2] == ("erf", "psp101") and "lraspp_small" in shipped
    assert all(name.startswith("torchvision/") for name in shipped[2:] if name != "lraspp_small")
    register("late", TRAITS, "nowhere:Maker")
    assert shipped_backbones() == shipped and sorted(backbone_names()) == sorted((*shipped, "late"))
    # A maker that cannot be imported is no matter where a file is looked at that belongs to another backbone.
    model = build_lmanet(LMANetConfig())
    with pytest.raises(WeightsError, match="looks like no network that is known here"):
        load_weights(model, {"a.weight": torch.zeros(1)})


def file_of(classes: int) -> dict[str, torch.Tensor]:
    encoder, decoder = UpsampledBackbone(None).make_encoder(), Upsampled(32, classes)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    return state | {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}


def test_classes_may_lie_in_the_second_dimension(register):
    register("up", TRAITS, UpsampledBackbone, classifier=[Classifier("decoder.up.", class_dim=1)])
    model = build_lmanet(LMANetConfig(backbone="up", baseline=True))
    before = model.decoder.up.weight.detach().clone()
    assert read_weights(file_of(7)).num_classes("up") == 7
    assert load_weights(model, file_of(7)).fresh == ("decoder.up.weight", "decoder.up.bias")
    assert torch.equal(model.decoder.up.weight, before)
    same = file_of(20)
    assert load_weights(model, same).fresh == ()
    assert torch.equal(model.decoder.up.weight, same["decoder.up.weight"])
    with pytest.raises(WeightsError, match="its classifier has 7 logits, expected 20"):
        load_weights(model, file_of(7), other_classes=False)


def test_a_classifier_may_be_a_part_of_several_layers(register):
    register("up", TRAITS, UpsampledBackbone, classifier=[Classifier("decoder.", class_dim=1)])
    model = build_lmanet(LMANetConfig(backbone="up", baseline=True))
    assert read_weights(file_of(7)).num_classes("up") is None
    with pytest.raises(WeightsError, match="its classifier has another number of logits, expected 20"):
        load_weights(model, file_of(7), other_classes=False)
    assert load_weights(model, file_of(7)).fresh == ("decoder.up.weight", "decoder.up.bias")


def test_a_wrong_dimension_is_seen_by_the_shapes(register):
    register("up", TRAITS, UpsampledBackbone, classifier=["decoder.up."])
    model = build_lmanet(LMANetConfig(backbone="up", baseline=True))
    with pytest.raises(WeightsError, match=r"decoder.up.weight has shape \[32, 7, 4, 4\]: expected \[32, 20, 4, 4\]"):
        load_weights(model, file_of(7))
