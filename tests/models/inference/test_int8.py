"""Encoder and decoder in 8 bits: the same labels, nearly; and channels of like ranges, which compute what they did."""

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
from models.inference.onnx import exported, runtime_session
from tests.cityscapes import NUM_CLASSES, CityscapesClips
from tests.networks import LMANetConfig
from utils.errors import OptionError

TRAINED = Path(__file__).resolve().parents[3] / "trained_models"
SIZE = (64, 128)
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
