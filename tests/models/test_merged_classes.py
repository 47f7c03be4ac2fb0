"""Merged classes: probabilities of groups are the sums of their members'."""

import torch

from models import LMANetConfig, build_lmanet
from models.inference.segmenter import VideoSegmenter
from models.merged_classes import merge_classes
from utils.class_set import ClassSet, default_colors

OLD = ClassSet(tuple("abcd"), default_colors(4))
NEW = ClassSet(("x", "y"), default_colors(2))
GROUPS = (0, 1, 0, 2, 2)  # d is dropped: it counts as ignored does


def network(**fields):
    torch.manual_seed(0)
    return build_lmanet(LMANetConfig(num_classes=5, corr_size=3, memory_size=2, **fields), OLD, (32, 64)).eval()


@torch.inference_mode()
def test_probabilities_of_groups_are_sums():
    clip = torch.rand(1, 3, 3, 32, 64)
    for fields in ({}, {"structure": "mem_only"}, {"shallow_decoder": True}):
        model = network(**fields)
        before = model(clip).softmax(2)[0, 0]
        merge_classes(model, GROUPS, NEW)
        after = model(clip).softmax(2)[0, 0]
        expected = torch.stack([before[0] + before[2], before[1], before[3] + before[4]])
        assert torch.allclose(after, expected, atol=1e-6)


def test_a_stream_predicts_the_groups():
    model = network()
    merge_classes(model, GROUPS, NEW)
    segmenter = VideoSegmenter(model)
    frame = (torch.rand(32, 64, 3) * 255).to(torch.uint8).numpy()
    assert segmenter.classes == NEW
    assert segmenter.step(segmenter.prepare(frame)).probabilities.shape == (3, 32, 64)
    assert segmenter.push(frame).max() <= 2
