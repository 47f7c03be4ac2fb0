"""Which files a folder or a pattern stands for: what is left out is said, and no output is taken for input."""

import json
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.streaming.sources import open_source
from tests.engine.videos import moving_blocks, write_folder, write_video
from utils.errors import DataError


def names(source: Path | str) -> list[str]:
    return [frame.name for frame in open_source(str(source))]


@pytest.mark.parametrize("pattern", ["", "*"])
def test_what_is_left_out_by_its_ending_is_said_with_the_count(tmp_path, caplog, pattern):
    write_folder(tmp_path, moving_blocks(2))
    for name in ("a.heic", "b.HEIC", "c.dng", "notes", ".hidden.heic", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    assert names(tmp_path / pattern) == ["frame_0", "frame_1"]
    assert "4 files are left out, as they are no images by their endings: 2 .heic, 1 .dng, 1 without an ending" in (
        caplog.text
    )


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, caplog):
    assert len(names(write_folder(tmp_path, moving_blocks(2)))) == 2
    assert "left out" not in caplog.text


@pytest.mark.parametrize("source", ["", "*.png", "*"])
def test_what_a_stream_wrote_beside_the_frames_is_none(tmp_path, caplog, source):
    write_folder(tmp_path, moving_blocks(2))
    plot = write_folder(tmp_path / "other", moving_blocks(1, 96, 96)) / "frame_0.png"
    for name in ("stream.png", "view_0.png"):
        (tmp_path / name).write_bytes(plot.read_bytes())
    (tmp_path / ".stream_files").write_text(f"{json.dumps('stream.png')}\n{json.dumps('view_0.png')}\n")
    assert names(tmp_path / source) == ["frame_0", "frame_1"]
    (tmp_path / ".stream_files").unlink()
    assert names(tmp_path / source) == ["frame_0", "frame_1", "stream", "view_0"]  # somebody's frames
    (tmp_path / "stream.json").write_text("{}")  # of a version that kept no list
    assert names(tmp_path / source) == ["frame_0", "frame_1", "view_0"]


def test_a_folder_of_outputs_alone_is_said_to_be_that(tmp_path):
    plot = write_folder(tmp_path / "in", moving_blocks(1)) / "frame_0.png"
    plot.rename(tmp_path / "stream.png")
    (tmp_path / "stream.json").write_text("{}")
    with pytest.raises(DataError, match="holds only what an earlier stream wrote"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("folder", "file", "pattern"),
    [
        ("clip [720p]", "1.png", "clip [720p]/*.png"),
        ("a[1]/b[2]", "1.png", "a[1]/b[2]/*.png"),
        ("in", "[a] 1.png", "in/[[]a] *.png"),
        ("in", "[front] 1.png", "in/[front] *.png"),
        ("what? *", "1.png", "what? */%d.png"),
        ("set1", "1.png", "set[0-9]/*.png"),
    ],
)
def test_brackets_of_names_are_no_pattern_where_they_match_as_they_are(tmp_path, monkeypatch, folder, file, pattern):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / folder, moving_blocks(1))
    (tmp_path / folder / "frame_0.png").rename(tmp_path / folder / file)
    assert names(pattern) == [Path(file).stem]


def test_a_folder_of_videos_is_answered_with_the_pattern_for_them(tmp_path):
    write_video(tmp_path / "a.mp4", moving_blocks(2))
    with pytest.raises(DataError, match=rf"only files of other endings \(\.mp4\).*write '{tmp_path}/\*\.mp4'"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mjpeg")])
def test_a_pipe_is_read_once_from_its_beginning(tmp_path, name, codec):
    content = write_video(tmp_path / name, moving_blocks(30), codec, "yuvj420p" if codec == "mjpeg" else "yuv420p")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content.read_bytes()))
    writer.start()
    assert len(names(tmp_path / "pipe")) == 30
    writer.join()


def test_a_pipe_that_holds_no_video_is_said_to_be_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"no video"))
    writer.start()
    with pytest.raises(DataError, match="expected one that can be read from its beginning to its end, such as MPEG-TS"):
        open_source(str(tmp_path / "pipe"))
    writer.join()


@pytest.mark.parametrize("source", ["/dev/null", "/dev/zero"])
def test_a_device_is_no_source(source):
    with pytest.raises(DataError, match="is a terminal or a device: expected a file, a folder, a pipe"):
        open_source(source)


def test_a_pipe_among_frames_is_left_out(tmp_path):
    folder = write_folder(tmp_path, moving_blocks(2))
    os.mkfifo(folder / "frame_2.png")
    assert names(folder) == ["frame_0", "frame_1"]


def test_an_image_of_floating_point_numbers_is_said_to_be_one(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((8, 16, 3), np.float32))
    with pytest.raises(DataError, match="floating-point numbers of 32 bits"):
        names(tmp_path / "a.tif")
