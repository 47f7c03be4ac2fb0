"""A teacher's probabilities against those of its network, averaged here by hand."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import VideoSegmenter, build_lmanet
from models.inference import teacher as room
from models.inference.teacher import Teacher
from tests.networks import LMANetConfig
from utils.errors import ScoresError

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (32, 64)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_lmanet(LMANetConfig(baseline=True)).eval()


@pytest.fixture
def segmenter(model):
    return VideoSegmenter(model, work_size=SIZE)


def frames_of(count: int, shift: int = 2) -> list[np.ndarray]:
    """A textured picture that moves to the left by ``shift`` pixels a frame."""
    noise = np.random.RandomState(0).randint(0, 256, (8, 40, 3)).astype(np.uint8)
    scene = cv2.resize(noise, (160, 32), interpolation=cv2.INTER_CUBIC)
    return [scene[:, shift * t : SIZE[1] + shift * t] for t in range(count)]


def single(segmenter: VideoSegmenter, frame: np.ndarray) -> torch.Tensor:
    return segmenter.step(segmenter.prepare(np.ascontiguousarray(frame))).probabilities


def test_alone_it_is_the_network(segmenter):
    frames = frames_of(2)
    for frame, found in zip(frames, Teacher(segmenter).probabilities(frames), strict=True):
        assert torch.equal(found, single(segmenter, frame))


def test_mirrored_and_resized_frames_by_hand(model, segmenter):
    (frame,) = frames_of(1)
    (found,) = Teacher(segmenter, flips=True, scales=(1.0, 1.5)).probabilities([frame])
    larger = VideoSegmenter(model, work_size=(48, 96))
    views = [
        single(segmenter, frame),
        single(segmenter, frame[:, ::-1]).flip(-1),
        *(
            F.interpolate(each[None], SIZE, mode="bilinear")[0]
            for each in (single(larger, frame), single(larger, frame[:, ::-1]).flip(-1))
        ),
    ]
    assert torch.allclose(found, sum(views) / 4, atol=1e-5)


def test_scales_become_sizes_that_the_backbone_takes(segmenter):
    teacher = Teacher(segmenter, scales=(0.74, 1.0, 1.02))  # multiples of 8
    assert [each.work_size for each in teacher._segmenters] == [(24, 48), (32, 64)]


def test_a_video_seen_backward_has_the_same_probabilities(segmenter):
    frames = frames_of(5)
    forward, backward = (
        list(Teacher(segmenter, both_directions=True).probabilities(f)) for f in (frames, frames[::-1])
    )
    for found, expected in zip(forward, backward[::-1], strict=True):
        assert torch.allclose(found, expected, atol=2e-3)  # 16 bits
        assert torch.allclose(found.sum(0), torch.ones(SIZE), atol=2e-3)


def test_still_frames_that_differ_in_noise_come_nearer_to_each_other(segmenter):
    frame, noise = frames_of(1)[0].astype(int), np.random.RandomState(1)
    frames = [np.clip(frame + noise.normal(0, 6, frame.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    spreads = [
        torch.stack(list(Teacher(segmenter, both_directions=both).probabilities(frames))).std(0).mean()
        for both in (False, True)
    ]
    assert spreads[1] < 0.6 * spreads[0]


def test_in_parts_it_is_what_it_is_at_once(segmenter, monkeypatch):
    frames = frames_of(7, shift=1)
    monkeypatch.setattr(room, "WEIGHT", 0.5)
    whole = list(Teacher(segmenter, both_directions=True).probabilities(frames))
    monkeypatch.setattr(room, "CHUNK", 2)
    monkeypatch.setattr(room, "AHEAD", 3)
    teacher = Teacher(segmenter, both_directions=True)
    parts = teacher.probabilities(frames)
    found = list(parts)
    assert len(found) == len(whole)
    for t, (each, expected) in enumerate(zip(found, whole, strict=True)):
        # What lies further ahead than three frames has a share of 0.5 * 0.5^4 at most.
        assert (each - expected).abs().max() < (0.032 if t < 4 else 2e-3)


def test_another_scene_takes_no_part(segmenter):
    dark, light = [np.zeros((*SIZE, 3), np.uint8)] * 2, [np.full((*SIZE, 3), 220, np.uint8)] * 2
    found = list(Teacher(segmenter, both_directions=True).probabilities([*dark, *light]))
    for each, frame in zip(found, [*dark, *light], strict=True):
        assert torch.allclose(each, single(segmenter, frame), atol=2e-3)


def test_scores_that_are_no_numbers_are_refused(model):
    broken = build_lmanet(LMANetConfig(baseline=True)).eval()
    for parameter in broken.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    with pytest.raises(ScoresError, match="not finite"):
        list(Teacher(VideoSegmenter(broken, work_size=SIZE), flips=True).probabilities(frames_of(1)))
