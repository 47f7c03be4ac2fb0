"""``make_video`` and ``register_network``: networks of the user's as video networks, from training to int8."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import (
    LMANetConfig,
    VideoSegmenter,
    build_lmanet,
    export_weights,
    load_weights,
    make_video,
    register_network,
)
from models.backbone import backbone_card
from models.inference.fast_copy import fast_copy
from models.inference.onnx import empty_memory, export_step, runtime_session
from models.weights.load import read_weights
from tests.models.cut import zoo
from tests.models.cut.test_cut import randomized
from tests.networks import BACKBONES
from utils.class_set import ClassSet
from utils.errors import OptionError, WeightsError

NAMES = ("road", "car", "tree", "sky", "wall")
CLASSES = ClassSet(names=NAMES, colors=tuple((40 * number, 90, 200 - 40 * number) for number in range(5)))
NETWORKS = {
    "UNet": (zoo.UNet, None),
    "HandMadeUNet": (zoo.HandMadeUNet, "bottom"),
    "Normalizing": (zoo.Normalizing, "backbone"),
    "Detail": (zoo.Detail, "trunk"),
    "sequence": (zoo.sequence, "2"),
}


@pytest.fixture(autouse=True)
def clean_registry(one_thread):
    before = set(BACKBONES)
    yield
    for name in set(BACKBONES) - before:
        del BACKBONES[name]


def video_of(name, **options):
    torch.manual_seed(0)
    make, cut = NETWORKS[name]
    network = randomized(make())
    options = {"memory_size": 2, "corr_size": 3, "fusion": "sigmoid-do1"} | options
    return network, make_video(network, cut, work_size=(64, 96), **options).eval()


def logits_of(network, frame):
    out = network(frame)
    out = out["out"] if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out
    return F.interpolate(out, frame.shape[-2:], mode="bilinear") if out.shape[-2:] != frame.shape[-2:] else out


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_single_frame_is_the_network_and_steps_are_the_clip(name):
    network, model = video_of(name)
    clip = torch.rand(2, 4, 3, 64, 96)
    assert torch.equal(model.single_frame(clip[:, 0]), logits_of(network, clip[:, 0]))
    expected, memory = model(clip)[:, 0], None
    for frame in clip.unbind(1):
        logits, memory = model.step(frame, memory)
    assert (logits - expected).abs().max() < 1e-5
    assert not torch.equal(logits, model.single_frame(clip[:, -1]))
    fast, memory = fast_copy(model), None
    for frame in clip.unbind(1):
        logits, memory = fast.step(frame, memory)
    assert (logits - expected).abs().max() < 1e-4
    folded = sum(
        isinstance(module, torch.nn.BatchNorm2d) for half in (fast.encoder, fast.decoder) for module in half.modules()
    )
    assert folded == 0  # every batch norm of these networks comes behind a convolution


@torch.inference_mode()
def test_an_untrained_memory_returns_single_frames():
    network, model = video_of("UNet", fusion="")
    clip = torch.rand(1, 3, 3, 64, 96)
    assert model.config.fusion == "residual"
    assert torch.equal(model(clip)[:, 0], network(clip[:, -1]))


def test_a_logit_is_added_for_what_is_ignored():
    network, model = video_of("UNet", classes=CLASSES)
    frame = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        logits = model.single_frame(frame)
        assert torch.equal(logits[:, :5], network(frame)) and logits.shape[1] == 6
        assert torch.equal(logits.softmax(1)[:, :5], network(frame).softmax(1))
    labels = VideoSegmenter(model).push(np.random.RandomState(0).randint(0, 256, (50, 70, 3), np.uint8))
    assert labels.shape == (50, 70) and labels.max() < 5
    with pytest.raises(OptionError, match="the network has 5 logits: expected 3, one for each of the classes"):
        make_video(network, classes=ClassSet(names=NAMES[:3], colors=CLASSES.colors[:3]))


def test_network_and_video_network_train_apart():
    network, model = video_of("UNet")
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_lowers_the_loss(name):
    _, model = video_of(name)
    clip, labels = torch.rand(2, 3, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(clip)[:, 0], labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    # In several processes all that is trained has to have a gradient; the auxiliary head has none and is frozen.
    half = [p for part in (model.encoder, model.decoder) for p in part.parameters()]
    assert all((p.grad is not None) == p.requires_grad for p in half)


@pytest.mark.parametrize("name", ["UNet", "Normalizing"])
def test_files_are_those_of_the_network_and_of_the_video_network(name, tmp_path):
    network, model = video_of(name)
    other = make_video(copy.deepcopy(network), NETWORKS[name][1], work_size=(64, 96), corr_size=3, fusion="sigmoid-do1")
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    assert other.config.backbone == model.config.backbone
    report = load_weights(other, network.state_dict())
    assert not [fresh for fresh in report.fresh if fresh.startswith(("encoder.", "decoder."))]
    frame = torch.rand(1, 3, 64, 96)
    assert torch.equal(other.eval().single_frame(frame), logits_of(network, frame))
    export_weights(model, tmp_path / "video.pth")
    load_weights(other, tmp_path / "video.pth")
    assert all(torch.equal(tensor, model.state_dict()[own]) for own, tensor in other.state_dict().items())
    assert VideoSegmenter(tmp_path / "video.pth").model.config.backbone == model.config.backbone
    lacking = network.state_dict()
    del lacking["head.weight" if name == "UNet" else "classifier.weight"]
    with pytest.raises(WeightsError, match="1 tensor missing"):
        load_weights(other, lacking)


def test_registered_networks_are_measured_when_they_are_asked_for():
    made = []

    def make(classes):
        made.append(classes)
        return zoo.UNet(classes)

    register_network("late", make, work_size=(50, 100))
    assert not made
    traits = backbone_card("late").traits
    assert (traits.features, traits.stride, traits.work_size) == (24, 16, (50, 100))
    assert made
    with pytest.raises(ValueError, match="'late' is there already"):
        register_network("late", make)
    model = build_lmanet(LMANetConfig(backbone="late", corr_size=3, num_classes=6))
    assert made[-1] == 5
    file = read_weights(zoo.UNet(5).state_dict())
    assert file.num_classes("late") == 6
    load_weights(model, file)
    report = load_weights(model, zoo.UNet(9).state_dict())
    assert [name for name in report.fresh if name.startswith("decoder.")] == [
        "decoder.network.head.weight",
        "decoder.network.head.bias",
    ]


def test_the_size_of_frames_is_one_that_the_network_takes():
    model = make_video(zoo.Patches(), "neck", corr_size=3)
    assert model.work_size == model.config.traits.work_size == (518, 1036)  # multiples of 14 from 512 and 1024 on
    for size in ((56, 56), (28, 56)):
        model = make_video(zoo.OneSize(size=size), "neck", corr_size=3, work_size=size)
        traits = model.config.traits
        assert traits.work_size == size and [traits.nearest_sides(512, axis)[0] for axis in (0, 1)] == list(size)
        assert model(torch.rand(1, 2, 3, *size)).shape == (1, 1, 5, *size)
    with pytest.raises(OptionError, match=r"work_size 28x57 does not fit --backbone OneSize-\w+: try 28x56$"):
        model.config.check_work_size((28, 57))
    with pytest.raises(ValueError, match=r"width is 57: .* takes 56$"):
        model(torch.rand(1, 2, 3, 28, 57))


def test_what_is_no_network_of_known_shapes_is_refused():
    with pytest.raises(OptionError, match="network is a str: expected"):
        make_video("UNet")
    with pytest.raises(OptionError, match=r"0\.weight of Sequential has no shape so far"):
        make_video(torch.nn.Sequential(torch.nn.LazyConv2d(8, 8, 8), torch.nn.Conv2d(8, 5, 1)), "0")


def test_wrapped_networks_are_those_inside():
    network = randomized(zoo.UNet())
    frame = torch.rand(1, 3, 64, 64)
    for wrapped in (torch.nn.DataParallel(network), torch.compile(network, backend="eager")):
        model = make_video(wrapped, "encoder", work_size=(64, 64), corr_size=3).eval()
        with torch.inference_mode():
            assert torch.equal(model.single_frame(frame), network(frame))
        load_weights(model, wrapped.state_dict())


@pytest.mark.parametrize(
    ("make", "size", "message"),
    [
        (lambda classes: zoo.UNet(), (64, 64), "made for 7 classes it returns 5 logits: expected 7"),
        (lambda: zoo.UNet(), (64, 64), "its maker fails for 7 classes: TypeError: .* lambda classes: Network"),
        (lambda classes: "UNet", (64, 64), "its maker returns str: expected a nn.Module"),
        (zoo.UNet, 512, r"work_size is 512: expected a height and a width, for example \(512, 1024\)"),
    ],
)
def test_makers_that_make_no_network(make, size, message):
    register_network("unmade", make, work_size=size)
    with pytest.raises(OptionError, match=f"--backbone unmade: {message}"):
        backbone_card("unmade")


def test_seeds_decide_the_fresh_weights():
    register_network("seeded", zoo.UNet)
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build_lmanet(LMANetConfig(backbone="seeded", num_classes=6)).state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    torch.manual_seed(6)
    other = build_lmanet(LMANetConfig(backbone="seeded", num_classes=6)).state_dict()
    assert not torch.equal(
        other["encoder.network.encoder.stages.0.0.weight"], states[0]["encoder.network.encoder.stages.0.0.weight"]
    )


def test_structures_go_with_a_decoder_of_fixed_channels():
    with pytest.raises(OptionError, match=r"--model-struct mem_only decodes 12 channels, .* takes 24"):
        video_of("UNet", structure="mem_only")
    for structure, fusion in (("mem_only", "residual"), ("original_kv_fusion", ""), ("original", "concat")):
        _, model = video_of("UNet", structure=structure, fusion=fusion)
        with torch.inference_mode():
            assert model(torch.rand(1, 3, 3, 64, 96)).shape == (1, 1, 5, 64, 96)
    _, shallow = video_of("UNet", shallow_decoder=True)
    with torch.inference_mode():
        assert shallow(torch.rand(1, 3, 3, 64, 96)).shape == (1, 1, 5, 4, 6)


def test_a_maker_of_another_number_of_logits_is_refused():
    register_network("wrong", lambda classes: zoo.UNet(classes + 1))
    with pytest.raises(OptionError, match="--backbone wrong: made for 7 classes it returns 8 logits"):
        backbone_card("wrong")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UNet", "HandMadeUNet", "Normalizing"])
def test_exported_quantized_and_compiled_steps_agree(name):
    pytest.importorskip("onnxscript")
    _, model = video_of(name)
    clip = torch.rand(4, 1, 3, 64, 96)
    session = runtime_session(export_step(model, (64, 96)))
    arrays, memory, other = [tensor.numpy() for tensor in empty_memory(model, (64, 96))], None, None
    compiled = fast_copy(model, compiled=True)
    with torch.inference_mode():
        for frame in clip:
            logits, memory = model.step(frame, memory)
            feed = dict(zip(("frame", "keys", "values", "filled"), [frame.numpy(), *arrays], strict=True))
            found, *arrays = session.run(None, feed)
            assert np.abs(found - logits.numpy()).max() < 1e-3
            found, other = compiled.step(frame, other)
            assert (found - logits).abs().max() < 1e-3
    frames = [np.random.RandomState(number).randint(0, 256, (64, 96, 3), np.uint8) for number in range(4)]
    plain, int8 = VideoSegmenter(model), VideoSegmenter(model, int8_frames=frames)
    agreeing = [(plain.push(frame) == int8.push(frame)).mean() for frame in frames]
    assert min(agreeing) > 0.8
