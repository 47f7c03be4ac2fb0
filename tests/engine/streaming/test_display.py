"""The written video is shown as its source: shape of pixels, rotation, colors, and for how long."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.streaming.display import Display
from engine.streaming.output import LabeledFrame
from engine.streaming.sources import open_source
from engine.streaming.video_pictures import yuv420p
from engine.streaming.video_writer import VideoWriter
from tests.engine.videos import moving_blocks

RED_AND_BLUE = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # 5, 6: BT.601


def coded(color: tuple[int, int, int], matrix: int, full_range: bool) -> list[float]:
    """Brightness and color differences of a color, by the formulas of ITU-R BT.601 and those after it."""
    (red, green, blue), (of_red, of_blue) = (each / 255 for each in color), RED_AND_BLUE[matrix]
    bright = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    differences = [(blue - bright) / (2 - 2 * of_blue), (red - bright) / (2 - 2 * of_red)]
    if full_range:
        return [255 * bright, *(128 + 255 * each for each in differences)]
    return [16 + 219 * bright, *(128 + 224 * each for each in differences)]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", RED_AND_BLUE)
@pytest.mark.parametrize("color", [(200, 30, 60), (0, 255, 0), (255, 255, 255), (17, 40, 250)])
def test_colors_are_coded_by_the_source_s_matrix(color, matrix, full_range):
    planes = yuv420p(np.full((4, 8, 3), color, np.uint8), Display(matrix=matrix, full_range=full_range))
    expected = np.clip(coded(color, matrix, full_range), 0, 255)
    found = [planes[:4], planes[4:].ravel()[:8], planes[4:].ravel()[8:]]
    assert all(np.abs(plane - value).max() <= 1 for plane, value in zip(found, expected, strict=True))


def write(path: Path, color, matrix=5, full_range=False, aspect=Fraction(1), size=(48, 96), seconds=(0, 0.04)) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        context = stream.codec_context
        context.time_base, context.sample_aspect_ratio = Fraction(1, 1000), aspect
        context.colorspace, context.color_range = matrix, 2 if full_range else 1
        context.color_primaries = context.color_trc = 1
        for moment in seconds:
            planes = np.empty((3, *size), np.uint8)
            planes[:] = np.round(np.clip(coded(color, matrix, full_range), 0, 255)).reshape(3, 1, 1)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
            frame.pts, frame.time_base = round(1000 * moment), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def streamed(source: Path, folder: Path, kind: str = "overlay", alpha: float = 0.0) -> Path:
    """Writes a source's frames as a stream does; returns the video."""
    folder.mkdir()
    given = open_source(str(source))
    writer = VideoWriter(folder, kind, alpha, given.fps, CITYSCAPES_CLASSES)
    for frame in given:
        labels = np.zeros(frame.image.shape[:2], np.uint8)
        writer.write(LabeledFrame(frame.name, frame.image, labels, frame.seconds, None, frame.duration, frame.display))
    writer.close()
    return writer.path


@pytest.mark.parametrize(("matrix", "full_range"), [(1, False), (1, True), (5, True), (6, False), (9, False)])
def test_matrix_range_and_colors_survive(tmp_path, matrix, full_range):
    color = (200, 30, 60)
    with av.open(str(streamed(write(tmp_path / "a.mp4", color, matrix, full_range), tmp_path / "run"))) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (int(context.colorspace), int(context.color_range)) == (matrix, 2 if full_range else 1)
        assert (int(context.color_primaries), int(context.color_trc)) == (1, 1)
        frame = next(container.decode(video=0))
    assert np.abs(frame.to_ndarray(format="rgb24")[8:40, 8:88].astype(int) - color).max() <= 4


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(16, 15), Fraction(8, 9)])
def test_the_shape_of_pixels_survives(tmp_path, aspect):
    source = write(tmp_path / "a.mp4", (9, 9, 9), aspect=aspect)
    with av.open(str(streamed(source, tmp_path / "run"))) as container:
        assert container.streams.video[0].sample_aspect_ratio == aspect


@pytest.mark.parametrize("quarters", [1, 3])
def test_a_turned_video_has_turned_pixels(tmp_path, quarters):
    content = bytearray(write(tmp_path / "a.mp4", (9, 9, 9), aspect=Fraction(4, 3)).read_bytes())
    sign = 1 if quarters == 1 else -1
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, sign << 16, 0, -sign << 16, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content)
    with av.open(str(streamed(tmp_path / "a.mp4", tmp_path / "run"))) as container:
        stream, frame = container.streams.video[0], next(container.decode(video=0))
        assert (stream.width, stream.sample_aspect_ratio, frame.rotation) == (48, Fraction(3, 4), 0)


@pytest.mark.parametrize("last", [0.5, 2.0])
def test_the_last_frame_is_shown_as_long_as_in_the_source(tmp_path, last):
    first, *rest = map(Image.fromarray, moving_blocks(3))
    first.save(tmp_path / "a.png", save_all=True, append_images=rest, duration=[100, 200, 1000 * last])
    with av.open(str(streamed(tmp_path / "a.png", tmp_path / "run"))) as container:
        assert container.duration / av.time_base == pytest.approx(0.3 + last, abs=0.002)
    video = streamed(write(tmp_path / "b.mp4", (9, 9, 9), seconds=(0, 0.04, 0.08, 3.0)), tmp_path / "other")
    with av.open(str(video)) as container:
        assert container.duration / av.time_base == pytest.approx(3.04, abs=0.002)
