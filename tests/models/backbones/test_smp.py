"""``--backbone smp/ARCH:ENCODER``: models of segmentation_models_pytorch as video networks."""

import pytest
import torch
from torch.nn import functional as F

from models import LMANetConfig, build_lmanet, export_weights, load_weights
from models.backbone import backbone_card
from models.weights.load import read_weights
from tests.networks import refusal_of
from utils.errors import OptionError, WeightsError

smp = pytest.importorskip("segmentation_models_pytorch", reason="requirements-networks.txt is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, PAN_SIZE = (64, 96), (128, 160)  # PAN pools features three times
ARCHITECTURES = (
    *("Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "Linknet", "MAnet", "UPerNet"),
    "Segformer",
)
ENCODERS = ("resnet18", "tu-mobilenetv3_small_100", "mit_b0")
# What the package itself does not offer, by its own message.
NOT_OFFERED = {("UnetPlusPlus", "mit_b0"), ("Linknet", "mit_b0")}
ALL = [(arch, encoder) for arch in ARCHITECTURES for encoder in ENCODERS] + [
    ("DPT", f"tu-{name}") for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "vit_small_patch16_224")
]


def video_network(arch, encoder, **options):
    torch.manual_seed(0)
    fields = {"backbone": f"smp/{arch}:{encoder}", "memory_size": 2, "corr_size": 3, "num_classes": 6} | options
    return build_lmanet(LMANetConfig(**fields))


def checked(arch, encoder, tmp_path):
    """All that must hold of a pair; in one function, as a network takes a second to build."""
    torch.manual_seed(1)
    network = smp.create_model(arch, encoder, encoder_weights=None, classes=5).eval()
    model = video_network(arch, encoder).eval()
    assert not [n for n in load_weights(model, network.state_dict()).fresh if n.startswith(("encoder.", "decoder."))]
    sides = PAN_SIZE if arch == "PAN" else SIZE
    clip = torch.rand(2, 3, 3, *(model.config.traits.nearest_sides(side)[-1] for side in sides))
    with torch.inference_mode():
        whole = network(clip[:, 0])
        assert torch.equal(model.single_frame(clip[:, 0])[:, :5], whole)
        expected, memory = model(clip)[:, 0], None
        for frame in clip.unbind(1):
            logits, memory = model.step(frame, memory)
        assert (logits - expected).abs().max() <= 1e-5 * max(1, expected[:, :5].abs().max())
    export_weights(model, tmp_path / "model.pth")
    again = video_network(arch, encoder)
    load_weights(again, tmp_path / "model.pth")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = []
    for _ in range(2):
        torch.manual_seed(2)  # dropout
        loss = F.cross_entropy(model(clip)[:, 0], torch.zeros(2, *clip.shape[-2:], dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_a_mobile_unet(tmp_path):
    checked("Unet", "tu-mobilenetv3_small_100", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "encoder"), ALL)
def test_all_architectures_on_three_encoders(arch, encoder, tmp_path):
    if (arch, encoder) in NOT_OFFERED:
        with pytest.raises(OptionError, match=rf"--backbone smp/{arch}:{encoder}: cannot be made \(.*expected another"):
            video_network(arch, encoder)
        with pytest.raises((ValueError, KeyError, AssertionError, AttributeError)):
            smp.create_model(arch, encoder, encoder_weights=None, classes=5)
        return
    checked(arch, encoder, tmp_path)


def test_another_level_by_its_stride():
    assert backbone_card("smp/Unet:resnet18@8").traits.stride == 8
    with pytest.raises(OptionError, match="stride 5 is no level of encoder: expected one of 2, 4, 8, 16, 32"):
        backbone_card("smp/Unet:resnet18@5")


def test_folders_of_save_pretrained(tmp_path):
    network = smp.Unet("resnet18", encoder_weights=None, classes=5, decoder_channels=(64, 32, 16, 16, 8)).eval()
    network.save_pretrained(tmp_path / "saved")
    file = read_weights(tmp_path / "saved")
    assert file.options.network == {"baseline": True, "backbone": f"smp/{tmp_path / 'saved'}"}
    model = build_lmanet(LMANetConfig(backbone=f"smp/{tmp_path / 'saved'}", baseline=True, num_classes=6)).eval()
    assert load_weights(model, file).fresh == ()
    frame = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.single_frame(frame)[:, :5], network(frame))
    with pytest.raises(WeightsError, match=r"decoder\.blocks\.0\.conv1\.0\.weight has shape"):
        load_weights(video_network("Unet", "resnet18", baseline=True), tmp_path / "saved" / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smp/Unett:resnet18", "'Unett' is no architecture of segmentation_models_pytorch: expected Unet"),
        ("smp/unet:resnet18", "'unet' is no architecture of segmentation_models_pytorch: expected Unet"),
        ("smp/Unet", "names no encoder: expected one such as smp/Unet:resnet34"),
        ("smp/Unet:resnet19", "resnet19 is no encoder of segmentation_models_pytorch: expected resnet1"),
        ("smp/Unet:tu-mobilenetv3_smal_100", "expected tu-mobilenetv3_small_100"),
        ("smp/Unet:resnet18@encodr", "cut='encodr' is no module of Unet: expected one such as encoder"),
    ],
)
def test_unknown_names(name, message):
    assert message in refusal_of(name)


def test_weights_of_another_encoder():
    other = smp.create_model("Unet", "tu-mobilenetv3_small_100", encoder_weights=None, classes=5)
    with pytest.raises(WeightsError) as error:
        load_weights(video_network("Unet", "resnet18"), other.state_dict())
    assert str(error.value).endswith("expected a file of --backbone smp/Unet:resnet18") and "\n" not in str(error.value)
