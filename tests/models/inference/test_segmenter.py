"""The way in for programs: numpy in, numpy out, a memory that is the segmenter's own."""

import numpy as np
import pytest
import torch
from PIL import Image

from models import VideoSegmenter, build_lmanet
from models.weights.export import published_state_dict
from tests.networks import LMANetConfig
from utils.errors import OptionError, WeightsError
from utils.resize import resize_labels

SIZE = (32, 64)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_lmanet(LMANetConfig(corr_size=3, memory_size=2)).eval()


pytestmark = pytest.mark.usefixtures("one_thread")


def frames(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    rs = np.random.RandomState(1)
    return [rs.randint(0, 256, (*size, 3)).astype(np.uint8) for _ in range(count)]


def test_logits_are_those_of_the_network_as_the_memory_fills_and_turns_over(model):
    segmenter, memory = VideoSegmenter(model, work_size=SIZE), None
    for frame in frames(5):
        with torch.inference_mode():
            expected, memory = model.step(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255, memory)
        found = segmenter.step(segmenter.prepare(frame)).logits
        assert torch.allclose(found, expected, atol=1e-5)
        single = segmenter.step(segmenter.prepare(frame), use_memory=False).logits
        with torch.inference_mode():
            alone, _ = model.step(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255, None)
        assert torch.allclose(single, alone, atol=1e-5)


def test_labels_come_back_in_the_frames_size(model):
    labels = VideoSegmenter(model, work_size=SIZE).push(frames(1, (47, 65))[0])
    assert (labels.shape, labels.dtype) == ((47, 65), np.uint8)
    assert labels.max() < 20


@pytest.mark.filterwarnings("error")
def test_frames_may_be_views_of_any_kind(model):
    frame = frames(1, (40, 70))[0]
    read_only = np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape)  # as messages of a robot hold them
    mirrored, from_planes = frame[:, ::-1], np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0)
    expected = VideoSegmenter(model, work_size=SIZE).push(frame)
    for view in (read_only, from_planes):
        assert np.array_equal(VideoSegmenter(model, work_size=SIZE).push(view), expected)
    found = VideoSegmenter(model, work_size=SIZE).push(mirrored)
    assert np.array_equal(found, VideoSegmenter(model, work_size=SIZE).push(mirrored.copy()))


def test_frames_are_resized_as_pillow_does(model):
    frame = frames(1, (100, 130))[0]
    found = VideoSegmenter(model, work_size=SIZE).prepare(frame)[0].permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(frame).resize((64, 32), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.mean(found == expected) > 0.99


def test_labels_are_enlarged_pixel_for_pixel():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    enlarged = resize_labels(labels, (4, 9))
    assert np.array_equal(enlarged, labels.repeat(2, 0).repeat(3, 1))


def test_labels_are_brought_to_any_size_by_the_centres_of_pixels():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = resize_labels(labels, (3, 5))
    # Centres at 1/3 1 5/3 of two rows, and at 0.3 0.9 1.5 2.1 2.7 of three columns.
    assert found.tolist() == [[0, 0, 1, 2, 2], [3, 3, 4, 5, 5], [3, 3, 4, 5, 5]]
    assert resize_labels(labels, (1, 1)).tolist() == [[4]]


def test_labels_and_probabilities_are_those_of_the_logits(model):
    segmenter, frame = VideoSegmenter(model, work_size=SIZE), frames(1, (47, 65))[0]
    prediction = segmenter.step(segmenter.prepare(frame))
    assert np.array_equal(prediction.labels, prediction.logits[0].argmax(0).numpy())
    assert prediction.labels is prediction.labels  # computed once
    assert prediction.probabilities.shape == (20, *SIZE)
    assert torch.allclose(prediction.probabilities.sum(0), torch.ones(SIZE))
    segmenter.reset()
    assert np.array_equal(segmenter.push(frame), prediction.labels_at((47, 65)))


def test_reset_forgets(model):
    segmenter, (first, second) = VideoSegmenter(model, work_size=SIZE), frames(2)
    alone = segmenter.step(segmenter.prepare(second)).logits.clone()
    segmenter.reset()
    segmenter.step(segmenter.prepare(first))
    after_first = segmenter.step(segmenter.prepare(second)).logits
    assert not torch.allclose(alone, after_first, atol=1e-4)
    segmenter.reset()
    assert torch.equal(segmenter.step(segmenter.prepare(second)).logits, alone)


def test_every_other_frame_is_memorized(model):
    segmenter, memory = VideoSegmenter(model, work_size=SIZE, every=2), None
    for position, frame in enumerate(frames(5)):
        with torch.inference_mode():
            expected, after = model.step(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255, memory)
        memory = after if position % 2 == 0 else memory
        assert torch.allclose(segmenter.step(segmenter.prepare(frame)).logits, expected, atol=1e-5)


def test_it_is_made_of_a_file_or_a_state_dict(model, tmp_path):
    state = published_state_dict(model)
    torch.save(state, tmp_path / "lmanet.pth")
    sizes = {"work_size": SIZE, "corr_size": 3, "memory_size": 2}
    frame = frames(1)[0]
    expected = VideoSegmenter(model, work_size=SIZE).push(frame)
    for weights in (tmp_path / "lmanet.pth", state):
        assert np.array_equal(VideoSegmenter(weights, backbone="erf", device="cpu", **sizes).push(frame), expected)


def test_16_bits_are_close(model):
    frame = frames(1)[0]
    exact, fast = VideoSegmenter(model, work_size=SIZE), VideoSegmenter(model, work_size=SIZE, amp=True)
    difference = exact.step(exact.prepare(frame)).logits - fast.step(fast.prepare(frame)).logits.float()
    assert 0 < difference.abs().max() < 0.05


@pytest.mark.parametrize(
    "amp, dtype", [("float16", torch.float16), ("bfloat16", torch.bfloat16), (False, torch.float32)]
)
def test_the_16_bits_are_those_that_were_asked_for(model, amp, dtype):
    segmenter = VideoSegmenter(model, work_size=SIZE, amp=amp)
    assert segmenter.step(segmenter.prepare(frames(1)[0])).logits.dtype == dtype


def test_other_precisions_are_refused(model):
    with pytest.raises(OptionError, match=r"^amp is 'float8': expected True, False, 'float16' or 'bfloat16'$"):
        VideoSegmenter(model, amp="float8")


def test_the_given_network_stays_as_it_is(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    VideoSegmenter(model, work_size=SIZE).push(frames(1)[0])
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    "frame", [frames(1)[0].astype(np.float32), frames(1)[0][..., 0], frames(1)[0][:0], [[1, 2, 3]]]
)
def test_what_is_no_frame_is_refused(model, frame):
    with pytest.raises(ValueError, match="expected an array of RGB, uint8 of shape H W 3"):
        VideoSegmenter(model, work_size=SIZE).push(frame)


def test_settings_that_cannot_be_are_refused(model):
    with pytest.raises(OptionError, match="every is 0"):
        VideoSegmenter(model, every=0)
    with pytest.raises(WeightsError, match="the memory would be untrained"):
        VideoSegmenter(published_state_dict(build_lmanet(LMANetConfig(baseline=True))))
