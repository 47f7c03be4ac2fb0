"""A step in 8 bits: the same labels, nearly, at any time; and rewritten graphs, which compute what they did."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from datasets.cityscapes import Roots, find_clips
from datasets.images import read_frame
from datasets.synthetic.clip import render_clip
from datasets.synthetic.options import StreetOptions
from engine.evaluation.confusion_matrix import ConfusionMatrix
from models import VideoSegmenter, build_lmanet
from models.inference import int8
from models.inference.fast_copy import fast_copy
from models.inference.onnx import exported, runtime_session
from models.inference.runtime_part import RuntimePart
from models.local_attention import cpu
from models.normalize import network_input
from models.warm_start import warm_start
from models.weights.load import load_weights
from tests.cityscapes import NUM_CLASSES, CityscapesClips
from tests.networks import LMANetConfig
from utils.errors import OptionError

TRAINED = Path(__file__).resolve().parents[3] / "trained_models"
SIZE = (64, 128)
FRAMES = 200
REAL_LOSS = 0.2  # of mIoU, in points: what int8 may cost

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def runtime():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def street(seed: int) -> list[np.ndarray]:
    return list(render_clip(StreetOptions(height=SIZE[0], width=SIZE[1], length=4), seed)[0])


@pytest.mark.parametrize(
    ("weights", "network"),
    [
        pytest.param("erfnet_street.pth", {"baseline": True}, marks=pytest.mark.slow),
        ("lmanet_erf_street.pth", {"fusion": "sigmoid-do2"}),
    ],
)
def test_labels_on_a_street_are_nearly_those_of_float32(runtime, weights, network):
    calibration = street(1) + street(2)
    exact = VideoSegmenter(TRAINED / weights, work_size=SIZE, **network)
    coarse = VideoSegmenter(TRAINED / weights, work_size=SIZE, int8_frames=iter(calibration), **network)
    same = []
    for frame in street(3):
        image = exact.prepare(frame)
        expected, found = exact.step(image).logits, coarse.step(image).logits
        assert not torch.equal(expected, found)
        same.append((expected.argmax(1) == found.argmax(1)).float().mean().item())
        single, exactly_single = (each.step(image, use_memory=False).logits for each in (coarse, exact))
        alone = single.argmax(1) == exactly_single.argmax(1)
        same.append(alone.float().mean().item())
    assert min(same) > (0.93 if int8._saturates() else 0.95)  # 7 bits a weight round twice as coarsely as 8
    with pytest.raises(ValueError, match=r"input has shape \(1, 3, 32, 64\): expected \(1, 3, 64, 128\)"):
        coarse.model.step(torch.zeros(1, 3, 32, 64))


def test_what_does_not_go_together_is_said():
    model = build_lmanet(LMANetConfig(baseline=True)).eval()
    for setting in ({"compiled": True}, {"amp": True}, {"device": "meta"}):
        with pytest.raises(OptionError, match="it does not go with"):
            VideoSegmenter(model, int8_frames=street(1), **setting)


def test_without_frames(runtime):
    with pytest.raises(OptionError, match="no frames to be calibrated on: expected one or more"):
        VideoSegmenter(build_lmanet(LMANetConfig(baseline=True)).eval(), work_size=SIZE, int8_frames=[])


def test_without_onnx_runtime_what_to_install_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(OptionError, match=r"pip install onnxruntime$"):
        VideoSegmenter(build_lmanet(LMANetConfig(baseline=True)).eval(), work_size=SIZE, int8_frames=street(1))


class Branches(nn.Module):
    """Everything that a channel may go through: two branches that are concatenated, a batch norm, a sum, a way up."""

    def __init__(self):
        super().__init__()
        self.first, self.left = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, stride=2, padding=1)
        self.norm, self.beside = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1, bias=False)
        self.up, self.last = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = torch.cat([self.left(x), nn.functional.max_pool2d(x, 2)], dim=1)
        x = self.norm(x).relu()
        return self.last(self.up((self.beside(x) + x).relu()).relu())


def test_a_graph_without_convolutions_is_not_equalised(runtime):
    import onnx

    from models.inference.equalize import equalize

    x = torch.rand(2, 8)
    graph = onnx.load_from_string(exported(nn.Linear(8, 4).eval(), (x,), ("x",), ("y",)))
    before = graph.SerializeToString()
    equalize(graph, [{"x": x.numpy()}])
    assert graph.SerializeToString() == before


def test_equalised_channels_compute_the_same_with_like_ranges(runtime):
    import onnx

    from models.inference.equalize import _channel_ranges, equalize

    torch.manual_seed(0)
    net = Branches().eval()
    with torch.no_grad():
        for each in (net.first, net.left, net.beside):
            each.weight.mul_(torch.logspace(-1, 1, len(each.weight))[:, None, None, None])
        net.norm.running_mean.uniform_(-1, 1)
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.weight.uniform_(-2, 2)
    inputs = [{"x": torch.rand(1, 3, 8, 8).numpy()} for _ in range(3)]
    before = onnx.load_from_string(exported(net, (torch.from_numpy(inputs[0]["x"]),), ("x",), ("y",)))
    after = onnx.ModelProto()
    after.CopyFrom(before)
    equalize(after, inputs)
    expected, found = (runtime_session(each.SerializeToString()) for each in (before, after))
    for each in inputs:
        outputs = [session.run(None, each)[0] for session in (expected, found)]
        assert np.abs(outputs[0] - outputs[1]).max() < 1e-4 * np.abs(outputs[0]).max()
    read = next(node.output[0] for node in before.graph.node if node.op_type == "Relu")
    spans = [_channel_ranges(each, [read], inputs)[read] for each in (before, after)]
    assert spans[0].max() / spans[0].min() > 20
    assert spans[1].max() / spans[1].min() < 0.5 * spans[0].max() / spans[0].min()


KINDS = [
    {},
    {"fusion": "residual"},
    {"fusion": "concat", "structure": "mem_only", "learnable_constant": True},
    {"structure": "original_kv_fusion", "fusion": "linear"},
    {"structure": "aux_mem_loss", "fusion": "sigmoid-do3", "memorize_first": True},
    {"backbone": "torchvision/lraspp_mobilenet_v3_large", "fusion": "residual"},  # whose decoder takes two levels
]


def blurred(frame: torch.Tensor) -> torch.Tensor:
    return nn.functional.avg_pool2d(frame, 9, stride=1, padding=4)


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])], ids=str
)
@torch.inference_mode()
def test_no_part_drifts_from_float32_while_the_memory_overflows(runtime, kind):
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build_lmanet(LMANetConfig(memory_size=2, corr_size=5, **kind)).eval().requires_grad_(False)
        if kind.get("fusion") == "residual":
            nn.init.normal_(model.fusion.gate.weight, std=0.05)
    fast = fast_copy(model)
    scene = blurred(torch.rand(1, 3, *SIZE)) * 3 - 1
    clip = [scene.roll(2 * t, dims=3) for t in range(12)]
    int8.quantize(fast, clip[:4])
    if kind.get("structure") == "mem_only":
        assert isinstance(fast.memory_decoder, RuntimePart)
    assert isinstance(fast.encoder, RuntimePart)
    assert isinstance(fast.decoder, RuntimePart)
    memory = fast_memory = None
    errors = []
    for t in range(FRAMES):
        frame = clip[t % len(clip)]
        expected, memory = model.step(frame, memory)
        found, fast_memory = fast.step(frame, fast_memory)
        spread = expected.std()
        errors.append(((found - expected).pow(2).mean().sqrt() / spread).item())
    assert max(errors) < 0.1  # of the logits' standard deviation
    assert max(errors[-len(clip) :]) < 1.1 * max(errors[2 * len(clip) : 3 * len(clip)])  # the same frames as then


@torch.inference_mode()
def test_heads_in_the_graph_of_the_encoder_know_other_features(runtime, monkeypatch):
    monkeypatch.setattr(cpu, "why_not_bfloat16", lambda: "not here")  # else they are no part of the graph
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = build_lmanet(LMANetConfig(memory_size=2, corr_size=5)).eval().requires_grad_(False)
    exact, fast = fast_copy(model), fast_copy(model)
    frame = torch.rand(1, 3, *SIZE)
    int8.quantize(fast, [frame])
    features = fast.encoder(frame)
    key, value = fast.query_head(features)
    for found, expected in zip((key, value), exact.query_head(features), strict=True):
        error = (found - expected).abs().max()
        assert 0 < error < 0.03 * expected.abs().max()
    others = torch.rand_like(features)
    for found, expected in zip(fast.memory_head(others), exact.memory_head(others), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "added"), [(3, 2, 1, 1), (2, 2, 0, 0), (4, 2, 1, 0), (3, 3, 0, 0)]
)
def test_a_transposed_convolution_is_one_whose_pixels_are_moved(runtime, kernel, stride, padding, added):
    import onnx

    from models.inference.onnx_layout import split_transposed_convolutions

    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(3, 5, kernel, stride, padding, added), nn.ReLU(), nn.Conv2d(5, 2, 1)).eval()
    x = torch.randn(1, 3, 4, 6)
    graph = onnx.load_from_string(exported(net, (x,), ("x",), ("y",)))
    assert split_transposed_convolutions(graph) == 1
    assert not any(node.op_type == "ConvTranspose" for node in graph.graph.node)
    found = runtime_session(graph.SerializeToString()).run(None, {"x": x.numpy()})[0]
    assert np.abs(found - net(x).detach().numpy()).max() < 1e-5


def test_a_transposed_convolution_that_makes_the_output_stays(runtime):
    import onnx

    from models.inference.onnx_layout import split_transposed_convolutions

    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 5, 2, 2)).eval()
    graph = onnx.load_from_string(exported(net, (torch.zeros(1, 3, 4, 6),), ("x",), ("y",)))
    assert split_transposed_convolutions(graph) == 0


@pytest.mark.slow
@pytest.mark.parametrize("split", ["val", "train"])
def test_loss_of_mean_iou_on_real_clips(runtime, shared, split):
    real, weights = shared / "real" / "cityscapes", shared / "real" / "weights" / "erfnet_pretrained.pth"
    roots = Roots(real, real)
    files = sorted((real / "leftImg8bit_sequence" / "train").rglob("*.jpg"))[::4]
    calibration = [read_frame(file, (512, 1024)).permute(1, 2, 0).numpy() for file in files]
    scores = []
    for frames in (None, calibration):
        segmenter = VideoSegmenter(weights, baseline=True, int8_frames=frames)
        confusion = ConfusionMatrix(NUM_CLASSES, torch.device("cpu"))
        for sample in CityscapesClips(find_clips(roots, split, 1), (512, 1024)):
            labels = segmenter.step(sample.frames[-1][None]).labels
            confusion.update(torch.from_numpy(labels), sample.label)
        scores.append(100 * float(confusion.mean_iou()))
    assert scores[1] > scores[0] - REAL_LOSS


@pytest.mark.slow
@torch.inference_mode()
def test_two_hundred_real_frames_with_a_memory_lose_little_and_not_more_with_time(runtime, shared):
    """Labels in 8 bits, and in bfloat16, are those of float32 in 99 of 100 pixels, in both rounds."""
    real, size = shared / "real", (256, 512)
    files = sorted((real / "cityscapes" / "leftImg8bit_sequence").rglob("*.jpg"))
    frames = [read_frame(file, size) for file in files]
    with torch.inference_mode(False):
        torch.manual_seed(0)
        model = build_lmanet(LMANetConfig(memory_size=4)).eval()
        load_weights(model, real / "weights" / "erfnet_pretrained.pth")
        device = torch.device("cpu")
        clips = [network_input(torch.stack(frames[at : at + 4])[None], model.config.traits, device) for at in (0, 40)]
        warm_start(model, lambda: clips)
        model.origin = None  # not a single-frame network's any more
    exact = VideoSegmenter(model, work_size=size)
    pictures = [frame.permute(1, 2, 0).numpy() for frame in frames]
    for options in ({"amp": "bfloat16"}, {"int8_frames": pictures[:: len(pictures) // 6]}):
        exact.reset()
        coarse, same = VideoSegmenter(model, work_size=size, **options), []
        for t in range(FRAMES):
            image = exact.prepare(pictures[t % len(pictures)])
            same.append(float((exact.step(image).labels == coarse.step(image).labels).mean()))
        first, second = (sum(same[at : at + 80]) / 80 for at in (30, 30 + len(pictures)))
        assert min(first, second) > 0.99
        assert abs(first - second) < 0.001
