"""Probabilities averaged over time against numbers worked out by hand, on motion that is known."""

import cv2
import numpy as np
import pytest
import torch

from models import VideoSegmenter, build_lmanet
from models.inference.smoothing import STILL, Motion, RunningAverage, Smoother
from models.local_attention import cpu
from tests.networks import LMANetConfig
from utils.errors import OptionError

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, SIZE, SHIFT = torch.device("cpu"), (96, 160), 6


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    """Logits ``1 2 1 w`` whose softmax gives the first class these probabilities."""
    first = torch.tensor(probabilities, dtype=torch.float32).view(1, 1, 1, -1)
    return torch.cat([first, 1 - first], dim=1).log()


def textured(seed: int = 0, size: tuple[int, int] = (SIZE[0], SIZE[1] + 4 * SHIFT)) -> np.ndarray:
    """A smooth random picture, RGB, which optical flow can follow."""
    noise = np.random.RandomState(seed).randint(0, 256, (size[0] // 4, size[1] // 4, 3)).astype(np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]


def test_the_average_by_hand():
    average = RunningAverage(0.75)
    first = average.update(logits_of(0.2, 0.8), STILL)  # there is no past yet
    assert torch.allclose(first[0, 0], torch.tensor([0.2, 0.8]))
    second = average.update(logits_of(1.0 - 1e-6, 0.4), STILL)
    assert torch.allclose(second[0, 0], torch.tensor([0.75 * 0.2 + 0.25, 0.75 * 0.8 + 0.25 * 0.4]), atol=1e-5)
    third = average.update(logits_of(0.5, 0.5), STILL)
    assert torch.allclose(third[0, 0], 0.75 * second[0, 0] + 0.25 * 0.5, atol=1e-5)
    assert torch.allclose(third.sum(0), torch.ones(1, 2))
    assert torch.allclose(first[0, 0], torch.tensor([0.2, 0.8]))  # what was returned before stays as it is
    fresh = average.update(logits_of(0.9, 0.1), None)
    assert torch.allclose(fresh[0, 0], torch.tensor([0.9, 0.1]))


def test_the_average_along_a_motion_by_hand():
    average = RunningAverage(0.5)
    average.update(logits_of(0.2, 0.4, 0.8), None)
    motion = Motion(torch.tensor([1, 2, 0], dtype=torch.int32), torch.tensor([[1.0], [0.5], [0.0]]))
    found = average.update(logits_of(0.6, 0.6, 0.6), motion)[0, 0]
    # The frame is sure by 0.6, which takes two thirds of that off the weight: 0.5 * 0.6 of 0.4, half as much of 0.8,
    # and nothing of the pixel that is not trusted.
    assert torch.allclose(found, torch.tensor([0.7 * 0.6 + 0.3 * 0.4, 0.85 * 0.6 + 0.15 * 0.8, 0.6]))


@pytest.mark.parametrize(("classes", "height", "width"), [(20, 13, 17), (2, 1, 1), (3, 40, 50), (33, 9, 9)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_one_pass_averages_as_pytorchs_operators_do(monkeypatch, classes, height, width, order):
    if cpu.line_block() == 0:
        pytest.skip("needs a C++ compiler")
    torch.manual_seed(0)
    pixels, (one_pass, by_operators) = height * width, (RunningAverage(0.9), RunningAverage(0.9))
    moved = [Motion(torch.randint(pixels, (pixels,), dtype=torch.int32), torch.rand(pixels, 1)) for _ in range(2)]
    for motion in (None, STILL, *moved):
        logits = 8 * torch.randn(1, classes, height, width).to(memory_format=order)
        found = one_pass.update(logits, motion)
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "why_not_average", lambda logits: "not here")
            assert (found - by_operators.update(logits, motion)).abs().max() < 2e-6
    logits[0, 0, 0, 0], logits[0, 1, -1, -1] = torch.nan, torch.inf
    found = one_pass.update(logits, None).flatten(1)
    assert found.isnan().any(0).nonzero().flatten().tolist() == sorted({0, pixels - 1})


def test_what_the_network_is_sure_of_changes_at_once_and_guesses_stay():
    average = RunningAverage(0.9)
    average.update(logits_of(0.0001, 0.0001), None)
    motion = Motion(torch.tensor([0, 1], dtype=torch.int32), torch.ones(2, 1))
    sure, guessed = average.update(logits_of(0.9999, 0.55), motion)[0, 0].tolist()
    assert sure == pytest.approx(0.7, abs=1e-3)  # 0.9 / 3 of the past
    assert guessed == pytest.approx((1 - 0.9 * (1 - 0.55 * 2 / 3)) * 0.55, abs=1e-3) and guessed < 0.5


@pytest.mark.parametrize("size", [SIZE, (12, 20)], ids=["frame", "features"])
def test_the_motion_of_a_picture_that_moves(size):
    scene, smoother = textured(), Smoother("flow", None, SIZE, CPU)
    assert smoother.motion(tensor(scene[:, : SIZE[1]]), size) is None
    motion = smoother.motion(tensor(scene[:, SHIFT : SIZE[1] + SHIFT]), size)  # it moves to the left
    shift = SHIFT * size[1] / SIZE[1]
    rows, columns = np.divmod(motion.index.numpy().reshape(size), size[1])
    trust = motion.trust.numpy().reshape(size)
    inside = slice(0, int(size[1] - shift - 1))
    at = np.arange(size[1])[None] + shift
    assert (np.abs(columns - at)[:, inside] <= 1).mean() > 0.97
    assert (np.abs(rows - np.arange(size[0])[:, None]) <= 1).mean() > 0.95
    assert trust[:, inside].mean() > 0.9
    assert trust[:, int(size[1] - shift + 1) :].max(initial=0) < 0.1  # it has just come into view


def test_what_looks_different_is_not_trusted():
    scene = textured(size=SIZE)
    lit = scene.copy()
    lit[:, 80:] = np.clip(lit[:, 80:].astype(int) + 60, 0, 255)  # still, but lit
    smoother = Smoother("flow", None, SIZE, CPU, detect_cuts=False)
    smoother.motion(tensor(scene), SIZE)
    trust = smoother.motion(tensor(lit), SIZE).trust.view(SIZE)
    assert trust[:, :60].mean() > 0.95 and trust[:, 100:].mean() < 0.2


@pytest.mark.parametrize("kind", ["average", "flow"])
def test_it_begins_anew_at_a_cut_unless_cuts_are_left_to_the_caller(kind):
    dark, light = np.zeros((*SIZE, 3), np.uint8), np.full((*SIZE, 3), 200, np.uint8)
    for detect_cuts in (True, False):
        smoother = Smoother(kind, None, SIZE, CPU, detect_cuts)
        motions = [smoother.motion(tensor(each), SIZE) for each in (dark, dark, light, light)]
        assert [each is None for each in motions] == [True, False, detect_cuts, False]
        smoother.reset()
        assert smoother.motion(tensor(light), SIZE) is None


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_lmanet(LMANetConfig(corr_size=3, memory_size=2)).eval()


@pytest.mark.parametrize("baseline", [True, False])
def test_a_segmenter_averages_what_the_network_says(model, baseline):
    if baseline:
        model = build_lmanet(LMANetConfig(baseline=True)).eval()
    scene = textured()
    frames = [scene[:, t : SIZE[1] + t] for t in range(3)]
    plain, smoothed = VideoSegmenter(model, work_size=SIZE), VideoSegmenter(model, work_size=SIZE, smooth="average")
    expected, weight = None, smoothed.smoother.weight
    for frame in frames:
        now = plain.step(plain.prepare(frame))
        found = smoothed.step(smoothed.prepare(frame))
        expected = now.probabilities if expected is None else weight * expected + (1 - weight) * now.probabilities
        assert torch.allclose(found.probabilities, expected, atol=1e-5)
        assert np.array_equal(found.labels, found.probabilities.argmax(0).numpy())
        assert torch.equal(found.without_smoothing().probabilities, found.logits[0].softmax(0))
    smoothed.reset()
    assert np.array_equal(smoothed.push(frames[0]), VideoSegmenter(model, work_size=SIZE).push(frames[0]))


def test_a_still_picture_is_averaged_alike_with_and_without_flow(model):
    frame = textured(size=SIZE)
    by_flow, still = (
        VideoSegmenter(model, work_size=SIZE, smooth=kind, smooth_weight=0.6) for kind in ("flow", "average")
    )
    for _ in range(3):
        found, expected = (each.step(each.prepare(frame)).probabilities for each in (by_flow, still))
        assert torch.allclose(found, expected, atol=1e-4)


def test_the_shallow_decoders_predictions_are_smoothed_at_their_own_size():
    model = build_lmanet(LMANetConfig(baseline=True, shallow_decoder=True)).eval()
    segmenter, scene = VideoSegmenter(model, work_size=SIZE, smooth="flow"), textured()
    for t in range(2):
        prediction = segmenter.step(segmenter.prepare(scene[:, 8 * t : SIZE[1] + 8 * t]))
    assert prediction.probabilities.shape == (20, 12, 20)
    assert segmenter.push(scene).shape == scene.shape[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": "median"}, "smooth is 'median': expected one of average, flow"),
        ({"smooth": "flow", "smooth_weight": 1.0}, "smooth_weight is 1.0: expected 0 or more and below 1"),
        ({"smooth": "average", "smooth_weight": float("nan")}, "smooth_weight is nan: expected 0 or more"),
        ({"smooth_weight": 0.5}, "smooth_weight is 0.5 without smooth: add smooth='flow'"),
        ({"smooth": "flow", "work_size": (8, 8)}, "frames of 8x8 are too small: expected a side of 12 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, options, message):
    with pytest.raises(OptionError, match=message):
        VideoSegmenter(model, **{"work_size": SIZE, **options})
