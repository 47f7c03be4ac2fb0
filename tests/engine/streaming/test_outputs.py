"""What a stream writes: that it plays whatever happens, at the pace of its source, and takes nothing else away."""

from functools import partial

import av
import numpy as np
import pytest

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.streaming.output import LabeledFrame
from engine.streaming.outputs import video
from tests.cityscapes import PALETTE
from tests.engine.videos import moving_blocks, read_video
from utils.errors import IncompleteError

VideoOutput = partial(video.VideoOutput, classes=CITYSCAPES_CLASSES)


def labeled(image: np.ndarray, seconds: float = 0.0) -> LabeledFrame:
    return LabeledFrame("frame", image, np.zeros(image.shape[:2], np.uint8), seconds)


def test_a_video_whose_process_is_killed_plays_up_to_the_last_second(tmp_path):
    output = VideoOutput(tmp_path, "overlay", 0.5, 25.0)
    for number, image in enumerate(moving_blocks(60)):
        output.write(labeled(image, number / 25))
    # Nothing is closed: these are the bytes that SIGKILL would leave.
    assert len(read_video(tmp_path / "overlay.partial.mp4")) >= 60 - 26
    assert not (tmp_path / "overlay.mp4").exists()
    output.close()
    assert len(read_video(tmp_path / "overlay.mp4")) == 60


@pytest.mark.parametrize("moments", [[0.0, 0.04, 2.0, 2.0, 7.5], [0.0, 3600.0, 7200.0]])
def test_frames_are_shown_when_they_were_in_the_source(tmp_path, moments):
    output = VideoOutput(tmp_path, "labels", 0.5, 1 / 3600)
    for image, moment in zip(moving_blocks(len(moments)), moments, strict=True):
        output.write(labeled(image, moment))
    output.close()
    with av.open(str(output.path)) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(moments, abs=1e-3)


def test_colours_are_of_a_kind_that_the_video_names(tmp_path):
    output = VideoOutput(tmp_path, "overlay", 0.0, 25.0)
    colors = np.zeros((64, 192, 3), np.uint8)
    colors[:, :64], colors[:, 64:128], colors[:, 128:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    output.write(labeled(colors))
    output.close()
    with av.open(str(output.path)) as container:
        frame = next(container.decode(video=0))
    assert (int(frame.colorspace), int(frame.color_range)) == (5, 1)  # BT.601, 16 to 235
    shown = frame.to_ndarray(format="rgb24")[:64].astype(int)
    for left in (0, 64, 128):
        assert np.abs(shown[8:-8, left + 8 : left + 56] - colors[0, left]).max() <= 6


@pytest.mark.parametrize("kind", ["overlay", "labels", "both"])
@pytest.mark.parametrize("size", [(47, 161), (48, 160), (48, 161), (47, 160)])
def test_each_kind_shows_the_newest_frame_at_any_size(tmp_path, kind, size):
    height, width = size
    output = VideoOutput(tmp_path, kind, 0.25, 25.0)
    images = [np.full((*size, 3), shade, np.uint8) for shade in (200, 40)]
    roads, skies = np.zeros(size, np.uint8), np.full(size, 10, np.uint8)
    for image, labels in zip(images, (roads, skies), strict=True):
        output.write(LabeledFrame("frame", image, labels, 0.0))
    output.close()
    shown = read_video(output.path)
    columns = width * (2 if kind == "both" else 1)
    assert shown[0].shape[:2] == tuple(side + side % 2 for side in (shown[0].shape[0], columns))
    for picture, image, labels in zip(shown, images, (roads, skies), strict=True):
        color = np.array(PALETTE[labels[0, 0]], float)
        mixed = 0.75 * image[0, 0] + 0.25 * color
        parts = {"overlay": [mixed], "labels": [color], "both": [mixed, color]}[kind]
        for number, expected in enumerate(parts):
            part = picture[4 : height - 4, number * width + 4 : (number + 1) * width - 4]
            assert np.abs(part - expected).max() <= 16  # what the codec loses
        assert np.abs(picture[4 : height - 4, -1] - expected).max() <= 16  # the column that an odd width lacks, too


def test_a_picture_that_no_video_can_hold_is_said(tmp_path):
    output = VideoOutput(tmp_path, "both", 0.5, 25.0)
    with pytest.raises(IncompleteError, match=r"17000x\d+, .* at most 16384x16384: try --save-video labels"):
        output.write(labeled(np.zeros((8, 8500, 3), np.uint8)))
