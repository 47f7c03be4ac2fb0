"""What the frames of a source are, in which order, by which names, and how it is known that one breaks off."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from engine.streaming.sources import open_source
from engine.streaming.sources.camera import camera_number
from tests.engine.videos import moving_blocks, write_folder, write_timed_video, write_video
from utils.errors import DataError, IncompleteError


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_file_that_ends_before_its_header_says_breaks_off(tmp_path, ending):
    whole = tmp_path / f"whole{ending}"
    options = {"movflags": "faststart"} if ending == ".mp4" else {}
    whole = write_video(whole, moving_blocks(300), options=options)
    assert len(list(open_source(str(whole)))) == 300
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    names = []
    with pytest.raises(IncompleteError, match=r"cut.m.. breaks off after \d\d+ frames \(it is .* of 12.0 s long\)"):
        names.extend(iterated_into(names, open_source(str(cut))))
    assert 100 < len(names) < 299
    assert names[10] == "cut_000010"


def iterated_into(names: list[str], source) -> list:
    for frame in source:
        names.append(frame.name)
    return []


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_video_of_varying_rate_is_whole_and_keeps_its_moments(tmp_path, ending):
    moments = [0.0, 0.04, 0.08, 2.0, 2.04, 8.0, 8.04]
    frames = list(open_source(str(write_timed_video(tmp_path / f"varies{ending}", moments))))
    assert [frame.seconds for frame in frames] == pytest.approx(moments, abs=0.002)


def test_a_slow_video_is_whole(tmp_path):
    frames = list(open_source(str(write_timed_video(tmp_path / "slow.mkv", [0.0, 60.0, 120.0, 180.0]))))
    assert [frame.seconds for frame in frames] == [0.0, 60.0, 120.0, 180.0]


def test_a_video_that_an_edit_list_shortens_is_whole(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", moving_blocks(60))
    with (
        av.open(str(whole)) as given,
        av.open(str(tmp_path / "late.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as late,
    ):
        copy = late.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                shift = round(Fraction(40, 25) / packet.time_base)  # as a player's cut does: 40 frames before the start
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                late.mux(packet)
    assert len(list(open_source(str(tmp_path / "late.mp4")))) == 20


def test_a_cut_video_with_longer_sound_is_told_from_a_whole_one(tmp_path):
    def write(path: Path) -> Path:
        with av.open(str(path), "w") as container:
            picture, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=8000)
            picture.height, picture.width, picture.pix_fmt = 48, 96, "yuv420p"
            for image in moving_blocks(50):
                container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 480), np.int16), layout="stereo")
                silence.rate = 8000  # 480 samples a frame: three seconds beside two of pictures
                container.mux(sound.encode(silence))
            container.mux([*picture.encode(), *sound.encode()])
        return path

    whole = write(tmp_path / "whole.mkv")
    assert len(list(open_source(str(whole)))) == 50
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(IncompleteError, match=r"cut\.mkv breaks off after"):
        list(open_source(str(tmp_path / "cut.mkv")))


def test_a_rotated_video_stands_upright(tmp_path):
    images = moving_blocks(3)
    content = bytearray(write_video(tmp_path / "lies.mp4", images).read_bytes())
    matrix = content.index(b"tkhd") + 44
    # A quarter turn clockwise, as telephones write it that are held upright.
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (tmp_path / "stands.mp4").write_bytes(content)
    lies, stands = (next(iter(open_source(str(tmp_path / name)))).image for name in ("lies.mp4", "stands.mp4"))
    assert stands.shape == (96, 48, 3)
    assert np.array_equal(stands, np.rot90(lies, -1))


def test_rotated_photographs_stand_upright(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6  # turn by a quarter clockwise to show it
    image = moving_blocks(1)[0]
    Image.fromarray(image).save(tmp_path / "a.png", exif=tags)
    assert np.array_equal(next(iter(open_source(str(tmp_path)))).image, np.rot90(image, -1))


def test_what_is_hidden_or_a_folder_is_no_frame(tmp_path):
    write_folder(tmp_path, moving_blocks(2))
    (tmp_path / "._frame_0.png").write_bytes(b"what macOS leaves beside a file")
    (tmp_path / "more.png").mkdir()
    assert [frame.name for frame in open_source(str(tmp_path))] == ["frame_0", "frame_1"]


def test_no_two_frames_have_one_name(tmp_path):
    for drive in "ab":
        write_folder(tmp_path / drive / "camera", moving_blocks(2))
    names = [frame.name for frame in open_source(str(tmp_path / "*" / "camera" / "*.png"))]
    assert names == ["000000_frame_0", "000001_frame_1", "000002_frame_0", "000003_frame_1"]


def test_images_of_other_kinds_become_rgb_of_eight_bits(tmp_path):
    image = moving_blocks(1)[0]
    cv2.imwrite(str(tmp_path / "0.png"), image[..., 0])
    cv2.imwrite(str(tmp_path / "1.png"), image[..., 0].astype(np.uint16) * 257)
    Image.fromarray(np.dstack([image, image[..., 0]])).save(tmp_path / "2.png")
    gray, gray_16, with_alpha = (frame.image for frame in open_source(str(tmp_path)))
    assert np.array_equal(gray, image[..., :1].repeat(3, 2))
    assert np.array_equal(gray_16, gray)
    assert np.array_equal(with_alpha, image)


@pytest.mark.parametrize("number", ["77", "99999999999", "\u00b2"])
def test_a_camera_that_is_not_there_is_said(number):
    with pytest.raises(DataError, match="there is no "):
        open_source(number)


@pytest.mark.parametrize("rate", [-1.0, 0.0, float("nan"), 1e6])
def test_a_camera_that_does_not_know_its_rate_has_a_usual_one(monkeypatch, rate):
    class Camera:
        isOpened = staticmethod(lambda: True)
        get = staticmethod(lambda what: rate)

    monkeypatch.setattr(cv2, "VideoCapture", lambda number: Camera())
    assert open_source("0").fps == 17.0


def test_an_empty_folder_is_said_with_a_file_that_would_do(tmp_path):
    with pytest.raises(DataError, match=f"such as {tmp_path}/000000.png"):
        open_source(str(tmp_path))


def test_a_camera_is_known_by_its_device_too(monkeypatch, tmp_path):
    (tmp_path / "front").symlink_to("/dev/video7")
    monkeypatch.setattr(Path, "is_char_device", lambda path: "null" not in str(path))
    named = ("0", "12", "/dev/video3", str(tmp_path / "front"), "/dev/null", "video3", "rtsp://h/x")
    assert [camera_number(name) for name in named] == [0, 12, 3, 7, None, None, None]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12").write_text("a file of this name")
    assert camera_number("12") is None
