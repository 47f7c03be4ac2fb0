"""Damaged sources: what cannot be decoded is left out, counted and said, and the rest is labeled."""

import random
from pathlib import Path

import av
import numpy as np
import pytest

from engine.streaming.sources import open_source
from tests.engine.videos import moving_blocks, write_folder, write_video
from utils.errors import DataError, IncompleteError

COUNT = 40


def read(source: Path, skip: bool = True) -> tuple[list, str]:
    """The frames of a source, and how it ends."""
    frames = []
    try:
        for frame in open_source(str(source), skip_damage=skip):
            frames.append(frame)
    except IncompleteError as error:
        return frames, str(error)
    return frames, ""


def damaged_video(path: Path, codec: str, packets: tuple[int, ...]) -> Path:
    """A video some packets of which hold noise from their third on."""
    write_video(path, moving_blocks(COUNT, 96, 160), codec, "yuvj420p" if codec == "mjpeg" else "yuv420p")
    content, noise = bytearray(path.read_bytes()), random.Random(1)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in packets:
        position, size = places[number]
        content[position + size // 3 : position + size - 4] = noise.randbytes(size - 4 - size // 3)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "packets"),
    [
        ("a.mp4", "libx264", (9, 20)),
        ("b.mp4", "mpeg4", (5, 30)),
        ("c.mkv", "libx264", (15,)),
        ("e.avi", "mpeg4", (0,)),
        ("d.mp4", "libx265", (9, 20)),
    ],
)
def test_broken_packets_in_the_middle_do_not_give_up_the_rest(tmp_path, caplog, name, codec, packets):
    frames, end = read(damaged_video(tmp_path / name, codec, packets))
    assert COUNT - 2 * len(packets) <= len(frames) < COUNT
    assert frames[-1].seconds == pytest.approx((COUNT - 1) * 0.04, abs=0.002)  # the gap is kept
    lost = COUNT - len(frames)
    assert end.startswith("a damaged place is left out" if lost == 1 else f"{lost} damaged places are left out")
    assert end.endswith(f"the other {len(frames)} frames are kept")
    assert "left out, and the stream goes on" in caplog.text


@pytest.mark.parametrize(("first", "last"), [(0.3, 0.32), (0.45, 0.5)])
def test_a_hole_in_a_transport_stream_does_not_give_up_the_rest(tmp_path, first, last):
    video = write_video(tmp_path / "a.ts", moving_blocks(COUNT, 96, 160))
    content = bytearray(video.read_bytes())
    begin, end = int(first * len(content)) + 600, int(last * len(content)) + 600  # behind the tables
    content[begin:end] = random.Random(2).randbytes(end - begin)
    video.write_bytes(content)
    frames, _ = read(video)  # frames of which nothing arrives are a gap, as in a video of varying rate
    assert COUNT / 2 < len(frames) < COUNT
    assert frames[-1].seconds == pytest.approx(0.08 + (COUNT - 1) * 0.04, abs=0.002)


def test_it_stops_at_the_first_damage_where_that_is_wanted(tmp_path):
    frames, end = read(damaged_video(tmp_path / "b.mp4", "mpeg4", (5, 30)), skip=False)
    assert len(frames) == 5
    assert "breaks off after 5 frames" in end
    assert "--on-damage skip" in end


def test_damaged_images_are_left_out_and_counted(tmp_path):
    folder = write_folder(tmp_path, moving_blocks(6))
    for number in (0, 3):
        (folder / f"frame_{number}.png").write_bytes((folder / f"frame_{number}.png").read_bytes()[:200])
    frames, end = read(folder)
    assert [frame.name for frame in frames] == [f"frame_{number}" for number in (1, 2, 4, 5)]
    assert end.startswith("2 damaged places are left out")
    with pytest.raises(DataError, match=r"frame_0\.png cannot be read: cut short"):
        read(folder, skip=False)
    (folder / "frame_0.png").unlink()
    frames, end = read(folder, skip=False)
    assert ([frame.name for frame in frames], "2 frames before it are kept" in end) == (["frame_1", "frame_2"], True)


def test_a_video_that_cannot_be_read_does_not_give_up_those_after_it(tmp_path):
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", moving_blocks(4))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    frames, end = read(tmp_path / "*.mp4")
    assert [frame.name[0] for frame in frames] == [*"aaaacccc"]
    assert "b.mp4: cannot be read as a video" in end
    assert frames[4].seconds == pytest.approx(0.16, abs=0.002)


def test_an_intact_video_is_whole(tmp_path):
    for name, codec in (("a.mp4", "libx264"), ("b.webm", "libvpx-vp9"), ("c.mp4", "libx265"), ("d.avi", "mpeg4")):
        frames, end = read(write_video(tmp_path / name, moving_blocks(COUNT, 96, 160), codec))
        assert (len(frames), end) == (COUNT, "")
        assert np.abs(frames[7].image.astype(int) - moving_blocks(8, 96, 160)[7]).mean() < 25
