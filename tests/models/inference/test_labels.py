"""Labels of logits that are enlarged on the way: those of PyTorch's own enlarging and argmax."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import LMANetConfig, build_lmanet
from models.enlarging import stop_enlarging
from models.inference import labels
from models.inference.labels import checked_labels, labels_of
from models.inference.segmenter import VideoSegmenter

SIZES = [  # K, h, w, H, W
    (20, 8, 16, 64, 128),
    (7, 5, 9, 37, 41),
    (3, 37, 41, 11, 13),
    (150, 9, 17, 33, 70),
    (2, 1, 1, 5, 6),
    (5, 1, 3, 1, 7),
    (20, 24, 64, 24, 64),
    (20, 24, 50, 24, 50),
    (4, 12, 31, 24, 31),
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_labels_are_those_of_the_enlarged_logits(sizes, layout, align_corners):
    count, height, width, *size = sizes
    logits = torch.randn(1, count, height, width, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    wide = F.interpolate(logits.double(), size, mode="bilinear", align_corners=align_corners)[0]
    found = labels_of(logits, tuple(size), align_corners)
    assert found.dtype == torch.uint8 and found.shape == tuple(size)
    assert torch.equal(found.long(), wide.argmax(0)) or _least_gap(wide, found) < 1e-5


def _least_gap(wide, found):
    """How far, at most, the logit of a label that was found is below the largest one."""
    return (wide.amax(0) - wide.gather(0, found.long()[None])[0]).max()


def test_the_first_of_equal_logits_is_the_label():
    logits = torch.zeros(1, 5, 4, 20)
    logits[0, 2:4, 1] = 1.0
    expected = torch.zeros(4, 20, dtype=torch.uint8)
    expected[1] = 2
    assert torch.equal(labels_of(logits, (4, 20)), expected)


def test_without_the_kernel_labels_are_the_same(monkeypatch):
    logits = torch.randn(1, 6, 5, 7)
    expected = labels_of(logits, (20, 28))
    monkeypatch.setattr(labels, "_why_not", lambda logits, size: "there is no compiler")
    assert torch.equal(labels_of(logits, (20, 28)), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_one_logit_that_is_not_finite_is_noticed_wherever_it_is(sizes, layout, value):
    count, height, width, *size = sizes
    logits = torch.randn(1, count, height, width).to(memory_format=layout)
    assert checked_labels(logits, tuple(size))[1]
    for row, column in {(0, 0), (0, width - 1), (height // 2, width // 2), (height - 1, 0), (height - 1, width - 1)}:
        for channel in (0, count - 1):
            broken = logits.clone(memory_format=torch.preserve_format)
            broken[0, channel, row, column] = value
            assert not checked_labels(broken, tuple(size))[1]


def test_a_part_of_a_larger_tensor_is_read_where_it_lies():
    whole = torch.randn(2, 9, 6, 24)
    part = whole[1:, 2:7, 1:4, ::2]
    assert torch.equal(labels_of(part, (12, 12)), labels_of(part.contiguous(), (12, 12)))


@pytest.mark.parametrize("backbone", ["torchvision/lraspp_mobilenet_v3_large", "erf"])
def test_a_segmenter_predicts_what_the_network_does(backbone):
    torch.manual_seed(3)
    config = LMANetConfig(backbone=backbone, corr_size=3, memory_size=2, num_classes=6)
    model = build_lmanet(config, work_size=(64, 96)).eval()
    segmenter, memory = VideoSegmenter(model), None
    for image in torch.randint(0, 256, (3, 1, 3, 64, 96), dtype=torch.uint8):
        prediction = segmenter.step(image)
        with torch.inference_mode():
            logits, memory = model.step(segmenter._normalized(image), memory)
        assert prediction.logits.shape == logits.shape
        assert (prediction.logits - logits).abs().max() < 1e-4 * logits.abs().max().clamp(min=1)
        assert torch.equal(prediction.label_map, prediction.logits[0].argmax(0).to(torch.uint8))
    with torch.inference_mode():
        whole, _ = segmenter.enlarged_model().step(segmenter._normalized(image))
    assert torch.equal(whole, segmenter.step(image, use_memory=False).logits)
    decoded = prediction.decoded.shape[-2:]
    assert decoded == ((8, 12) if backbone.startswith("torchvision") else (64, 96))


def test_a_decoder_that_does_not_enlarge_goes_on():
    assert stop_enlarging(nn.Conv2d(3, 5, 1)) is None
