"""Any single-frame network made a video network: a toy of ten lines, and those that torchvision ships."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_small, segmentation
from torchvision.models.segmentation import lraspp

from models import BackboneTraits, build_lmanet, describe, load_weights, register_backbone
from models.backbone import backbone_card
from models.losses import WeightedCrossEntropy
from models.weights.export import published_state_dict
from tests.networks import BACKBONES, LMANetConfig, refusal_of
from utils.errors import OptionError, WeightsError

TORCHVISION = [name for name in BACKBONES if name.startswith("torchvision/")]
SIZES = {"torchvision/lraspp_mobilenet_v3_large": (64, 96)}


class Toy(nn.Module):
    """A single-frame network that knows nothing of this project: B 3 H W -> logits B 20 H W."""

    def __init__(self, channels=24, classes=20):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, channels, 5, stride=4, padding=2), nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Conv2d(channels, classes, 3, padding=1)

    def forward(self, x):
        return F.interpolate(self.head(self.body(x)), x.shape[-2:])


class ToyHead(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features, size):
        return F.interpolate(self.head(features), size)


class ToyBackbone:
    def __init__(self, config):
        self.config = config

    def make_encoder(self):
        return Toy().body

    def make_decoder(self, channels, num_classes):
        return ToyHead(Toy(channels, num_classes).head)


@pytest.fixture(autouse=True)
def toy():
    register_backbone(
        "toy",
        BackboneTraits(features=24, stride=4, work_size=(32, 48)),
        ToyBackbone,
        encoder_names=(("encoder.", "body."),),
        decoder_names=(("decoder.head.", "head."),),
        classifier=("decoder.head.",),
    )
    yield
    del BACKBONES["toy"]


def test_sizes_follow_from_the_channels():
    toy = BACKBONES["toy"]
    assert (toy.key_channels, toy.default_fusion, toy.value_channels_for("sigmoid-do1")) == (16, "sigmoid-do1", 12)
    assert toy.value_channels_for("sigmoid-down1") == 24
    assert toy.fitting_fusions() == [
        *("sigmoid-do1", "sigmoid-do2", "sigmoid-do3", "sigmoid", "linear", "simple-sigmoid", "concat"),
        *("sigmoid-down1", "residual"),
    ]
    assert toy.nearest_sides(37) == [37] and toy.feature_size((33, 48)) == (9, 12)
    odd = BackboneTraits(features=33, stride=4, work_size=(32, 48))
    assert (odd.default_fusion, odd.fitting_fusions()) == ("sigmoid-down1", ["sigmoid-down1", "residual"])
    # The rules give what was published for the published networks.
    for name in ("erf", "psp101"):
        traits = BACKBONES[name]
        follows = BackboneTraits(traits.features, traits.stride, traits.work_size)
        assert (follows.key_channels, follows.default_fusion) == (traits.key_channels, traits.default_fusion)
        assert follows.value_channels_for(follows.default_fusion) == traits.value_channels


@pytest.mark.parametrize("fusion", ["sigmoid-do1", "concat", "sigmoid-down1", "residual"])
def test_toy_trains_as_a_video_network(fusion):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(backbone="toy", memory_size=2, corr_size=5, fusion=fusion)).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loss_of = WeightedCrossEntropy([1.0] * 19 + [0.0], ignored=19)
    clip, label = torch.rand(2, 3, 3, 32, 48), torch.zeros(2, 32, 48, dtype=torch.uint8)
    losses = []
    for _ in range(3):
        loss = loss_of(model(clip), label)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad), fusion
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("structure", ["mem_only", "aux_mem_loss", "original_kv_fusion"])
@pytest.mark.parametrize("shallow", [True, False])
def test_toy_has_every_structure(structure, shallow):
    model = build_lmanet(LMANetConfig(backbone="toy", structure=structure, shallow_decoder=shallow)).eval()
    assert model(torch.rand(1, 3, 3, 30, 47)).shape == ((1, 1, 20, 8, 12) if shallow else (1, 1, 20, 30, 47))


def test_toys_own_weight_file():
    torch.manual_seed(0)
    file = Toy().state_dict()
    model = build_lmanet(LMANetConfig(backbone="toy", baseline=True)).eval()
    report = load_weights(model, file)
    assert (report.kind, report.fresh, report.unused) == ("toy", (), ())
    single = Toy().eval()
    single.load_state_dict(file)
    frame = torch.rand(1, 3, 32, 48)
    assert torch.equal(model(frame[:, None])[:, 0], single(frame))
    assert published_state_dict(model).keys() == file.keys()

    video = build_lmanet(LMANetConfig(backbone="toy"))
    assert all(name.startswith(("memory_", "query_", "fusion.")) for name in load_weights(video, file).fresh)
    assert load_weights(build_lmanet(LMANetConfig(backbone="toy")), published_state_dict(video)).fresh == ()

    fewer = load_weights(model, Toy(classes=8).state_dict())
    assert fewer.fresh == ("decoder.head.weight", "decoder.head.bias")
    with pytest.raises(WeightsError, match=r"body.0.weight has shape \[8, 3, 5, 5\]: expected \[24, 3, 5, 5\]"):
        load_weights(model, Toy(channels=8).state_dict())


def test_wrong_traits_are_said():
    register_backbone("wide toy", BackboneTraits(features=30, stride=4, work_size=(32, 48)), ToyBackbone)
    try:
        model = build_lmanet(LMANetConfig(backbone="wide toy"))
        with pytest.raises(ValueError, match=r"encoder of wide toy returns \(1, 24, 8, 12\): expected .* 30 channels"):
            model(torch.rand(1, 2, 3, 32, 48))
    finally:
        del BACKBONES["wide toy"]
    with pytest.raises(ValueError, match="'toy' is there already"):
        register_backbone("toy", BACKBONES["toy"], ToyBackbone)


def test_unknown_names_are_listed_without_torch():
    with pytest.raises(OptionError, match="torchvision/unet is not known: expected one of torchvision/fcn_resnet50, "):
        LMANetConfig(backbone="torchvision/unet")
    with pytest.raises(OptionError, match="--backbone resnet is not known: expected one of erf, psp101, torchvision/"):
        LMANetConfig(backbone="resnet")
    config = "LMANetConfig(backbone='torchvision/fcn_resnet50', num_classes=20)"
    code = f"import sys; from models.config import LMANetConfig; {config}; "
    assert subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"]).returncode == 0


def test_every_segmentation_model_of_torchvision_is_known():
    assert sorted(name.partition("/")[2] for name in TORCHVISION) == sorted(
        name for name in dir(segmentation) if name.startswith(("fcn_", "deeplabv3_", "lraspp_"))
    )


@pytest.mark.parametrize("backbone", ["torchvision/fcn_resnet50", *(name for name in TORCHVISION if "mobile" in name)])
@torch.inference_mode()
def test_baseline_is_torchvisions_own_network(backbone):
    torch.manual_seed(0)
    theirs = getattr(segmentation, backbone.partition("/")[2])(weights=None, weights_backbone=None, num_classes=20)
    for module in theirs.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model = build_lmanet(LMANetConfig(backbone=backbone, baseline=True)).eval()
    report = load_weights(model, theirs.state_dict())
    assert (report.unused, report.fresh) == ((), ())
    frame = torch.rand(1, 3, *SIZES.get(backbone, (61, 90)))
    assert torch.allclose(model(frame[:, None])[:, 0], theirs(frame)["out"], atol=1e-5)
    written = published_state_dict(model)
    assert written.keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("backbone", TORCHVISION)
def test_torchvision_file_of_21_classes_with_an_auxiliary_head(backbone):
    name = backbone.partition("/")[2]
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    with torch.device("meta"):
        theirs = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21, **options)
        model = build_lmanet(LMANetConfig(backbone=backbone))
    file = {key: torch.zeros_like(tensor, device="cpu") for key, tensor in theirs.state_dict().items()}
    report = load_weights(model.to_empty(device="cpu"), file)
    assert report.kind == f"torchvision's {name}"
    decoder = [own for own in report.fresh if own.startswith("decoder.")]
    assert decoder and all(
        own.startswith(("decoder.head.4.", "decoder.head.low_", "decoder.head.high_")) for own in decoder
    )
    assert all(own.startswith(("decoder.", "memory_head.", "query_head.", "fusion.")) for own in report.fresh)
    classifier = [key for key, tensor in file.items() if tensor.shape[:1] == (21,) and not key.startswith("aux_")]
    assert sorted(report.unused) == sorted([key for key in file if key.startswith("aux_")] + classifier)
    written = published_state_dict(model, trained=False)
    assert written.keys() == file.keys()


@pytest.mark.parametrize("structure", ["original", "mem_only"])
@pytest.mark.parametrize("backbone", [name for name in TORCHVISION if "mobile" in name])
def test_torchvision_trains_as_a_video_network(backbone, structure):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(backbone=backbone, memory_size=2, corr_size=5, structure=structure)).train()
    clip = torch.rand(1, 3, 3, 64, 96)  # batch 1: DeepLabV3 pools to a single value a channel
    logits = model(clip)
    assert logits.shape == (1, 1, 20, 64, 96)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.query_head.key.parameters())
    assert "LMANet on " + backbone in describe(model)


@torch.inference_mode()
def test_the_finer_level_skips_the_memory():
    """LR-ASPP: what the decoder gets beside the fused features is the current frame's fine level, as it is."""
    model = build_lmanet(LMANetConfig(backbone="torchvision/lraspp_mobilenet_v3_large", corr_size=5)).eval()
    clip, seen = torch.rand(1, 3, 3, 64, 96), []
    model.decoder.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(clip)
    levels = model.encoder.body(clip[:, -1])
    assert levels["low"].shape == (1, 40, 8, 12) and levels["high"].shape == (1, 960, 4, 6)
    assert torch.equal(seen[0]["low"], levels["low"])
    assert seen[0]["high"].shape == levels["high"].shape and not torch.equal(seen[0]["high"], levels["high"])
    with pytest.raises(ValueError, match="width is 90: torchvision/lraspp_mobilenet_v3_large takes 80 or 96"):
        model(torch.rand(1, 2, 3, 64, 90))


@pytest.mark.parametrize(
    ("name", "features", "stride", "levels"),
    [
        ("lraspp_mobilenet_v3_large@classifier.scale", 128, 16, [(128, 4, 6), (40, 8, 12), (128, 1, 1)]),
        ("lraspp_mobilenet_v3_large@8", 40, 8, [(40, 8, 12), (960, 4, 6)]),
        ("deeplabv3_mobilenet_v3_large@classifier.0", 256, 16, [(256, 4, 6)]),
    ],
)
def test_torchvision_models_are_cut_behind_a_module_that_is_named(name, features, stride, levels):
    torch.manual_seed(0)
    network = getattr(segmentation, name.partition("@")[0])(weights=None, weights_backbone=None, num_classes=5).eval()
    model = build_lmanet(LMANetConfig(backbone=f"torchvision/{name}", corr_size=3, num_classes=6)).eval()
    assert not [n for n in load_weights(model, network.state_dict()).fresh if n.startswith(("encoder.", "decoder."))]
    assert (model.config.traits.features, model.config.traits.stride) == (features, stride)
    frame = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        encoded = model.encoder(frame)
        assert torch.equal(model.single_frame(frame)[:, :5], network(frame)["out"])
    shapes = [tuple(each.shape[1:]) for each in (encoded if isinstance(encoded, tuple) else (encoded,))]
    assert shapes == levels


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lraspp_mobilenet_v3_large@", "ends in @: expected a module or a stride behind it, such as @16"),
        ("lraspp_mobilenet_v3_large@5", "stride 5 is no level of backbone: expected one of 8, 16"),
        ("lraspp_mobilenet_v3_large@classifier.cbs", "is no module of Unresized: expected one such as classifier.cbr"),
        ("lraspp_mobilenet_v3_larg", "is not known: expected one of torchvision/lraspp_mobilenet_v3_large"),
    ],
)
def test_cuts_that_torchvision_models_do_not_have(name, message):
    assert message in refusal_of(f"torchvision/{name}")


def test_the_small_lraspp_has_the_memory_where_channels_are_few():
    traits = backbone_card("lraspp_small").traits
    assert (traits.features, traits.stride, traits.key_channels) == (128, 16, 16)
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(backbone="lraspp_small", corr_size=3, num_classes=6)).eval()
    # That of torchvision's own builder, on the small network.
    theirs = lraspp._lraspp_mobilenetv3(mobilenet_v3_small(weights=None, dilated=True), 5).eval()
    assert not [n for n in load_weights(model, theirs.state_dict()).fresh if n.startswith(("encoder.", "decoder."))]
    frame = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(model.single_frame(frame)[:, :5], theirs(frame)["out"])


def test_batch_norms_of_the_small_lraspp_follow_a_short_training():
    model = build_lmanet(LMANetConfig(backbone="lraspp_small", corr_size=3, num_classes=6, baseline=True)).train()
    inputs = {}
    for norm in [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]:
        norm.register_forward_pre_hook(lambda norm, arguments: inputs.update({norm: arguments[0]}))
    frames = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for _ in range(50):
            model.single_frame(frames)
    assert len(inputs) == 35  # 34 of torchvision's network, and that of its head
    for norm, x in inputs.items():
        mean, least = x.mean((0, 2, 3)), 1e-6  # of what is zero but for rounding
        # 0.9 ** 50 is 0.005; 0.99 ** 50, as torchvision's are, would be 0.6.
        assert (norm.running_mean - mean).abs().max() < 0.01 * mean.abs().max() + least
