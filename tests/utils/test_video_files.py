"""What of a video file is opened: its bytes alone, whatever its name or content says; and which stream is the video."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from datasets.clips import VideoFrame
from datasets.video_frames import video_frame, video_frame_size
from engine.streaming.sources import open_source
from tests.engine.videos import moving_blocks, write_video
from utils import limits, video_files
from utils.errors import DataError, IncompleteError
from utils.video_files import OPTIONS, decoded_bytes, opened_video, video_stream


@pytest.fixture
def listener(monkeypatch):
    """A server that must not be asked, and the folder to be in is a temporary one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "name",
    [
        "http:127.0.0.1:PORT", "tcp:127.0.0.1:PORT?listen=0", "concat:a.mp4|b.mp4", "file:a.mp4", "data:,", "crypto:a",
        "2024-05-01T12:30:00.mp4", "pipe:0.mp4", "a%03d.mp4", "-a.mp4", "stra\udcdfe.mp4", "line\nbreak.mp4",
        "a b'\".mp4", "lavfi:testsrc.mp4", "rtsp:x.mp4", "*.mp4", "[1].mp4", "~.mp4", "a?b#c.mp4",
    ],
)  # fmt: skip
def test_a_file_is_a_file_whatever_its_name_looks_like(tmp_path, monkeypatch, listener, name):
    monkeypatch.chdir(tmp_path)
    name = name.replace("PORT", str(listener))
    write_video(tmp_path / "a.mp4", moving_blocks(3)).rename(name)
    assert len(list(open_source(name))) == 3
    assert video_frame_size(VideoFrame(Path(name), 0)) == (48, 96)


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.1,\n{}\n#EXT-X-ENDLIST\n"
KEY = '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF:0.1,\na.ts\n#EXT-X-ENDLIST\n'
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 96\na=rtpmap:96 H264/90000\n"


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (HLS, "http://127.0.0.1:PORT/a.ts"),
        (HLS, "tcp://127.0.0.1:PORT"),
        (HLS, "../a.ts"),
        (HLS, "OUTSIDE/a.ts"),
        (HLS, "file:OUTSIDE/a.ts"),
        (HLS, "link.ts"),
        (HLS, "pipe.ts"),
        (HLS, "concat:a.ts|OUTSIDE/a.ts"),
        (KEY, "http://127.0.0.1:PORT/key"),
        (KEY, "OUTSIDE/key"),
        (CONCAT, "http://127.0.0.1:PORT/a.ts"),
        (CONCAT, "OUTSIDE/a.ts"),
        (CONCAT, "../a.ts"),
        (SDP, "PORT"),
    ],
)
def test_what_a_playlist_names_elsewhere_is_not_opened(tmp_path, listener, content, names):
    inside = tmp_path / "in"
    inside.mkdir()
    write_video(tmp_path / "a.ts", moving_blocks(3))
    write_video(inside / "a.ts", moving_blocks(3))
    (tmp_path / "key").write_bytes(bytes(16))
    (inside / "link.ts").symlink_to(tmp_path / "a.ts")
    os.mkfifo(inside / "pipe.ts")
    text = content.format(names.replace("PORT", str(listener)).replace("OUTSIDE", str(tmp_path)))
    ending = {HLS: "m3u8", KEY: "m3u8", CONCAT: "ffconcat", SDP: "sdp"}[content]
    (inside / f"list.{ending}").write_text(text)
    with pytest.raises(DataError, match=r"in its own folder alone|cannot be read as a video"):
        list(open_source(str(inside / f"list.{ending}")))


@pytest.mark.parametrize(("content", "ending"), [(HLS, "m3u8"), (CONCAT, "ffconcat")])
@pytest.mark.parametrize("name", ["a.ts", "sub/a.ts"])
def test_what_a_playlist_names_beside_it_is_read(tmp_path, monkeypatch, content, ending, name):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    write_video(tmp_path / "in" / name, moving_blocks(3))
    (tmp_path / "in" / f"list.{ending}").write_text(content.format(name))
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source(f"in/list.{ending}"))) == 3


def with_streams(path: Path, *streams: tuple[str, tuple[int, int], int, dict]) -> Path:
    """A file of several streams of codec, size (H, W), number of frames, and attributes."""
    with av.open(str(path), "w") as container:
        made = []
        for codec, (height, width), count, attributes in streams:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = height, width
            stream.pix_fmt = {"ffv1": "gray16le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            stream.metadata.update(attributes.get("metadata", {}))
            if "disposition" in attributes:
                stream.disposition = attributes["disposition"]
            made.append((stream, count))
        for stream, count in made:
            for _ in range(count):
                gray = np.zeros((stream.height, stream.width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
            container.mux(stream.encode())
    return path


SMALL, LARGE = (48, 96), (96, 192)
NONE, DEFAULT = Disposition(0), Disposition.default


@pytest.mark.parametrize(
    ("streams", "video"),
    [
        ([("ffv1", LARGE, 5, {}), ("mpeg4", SMALL, 5, {})], 1),  # depth
        ([("mpeg4", SMALL, 5, {"metadata": {"title": "DEPTH"}}), ("mpeg4", SMALL, 5, {})], 1),
        ([("mpeg4", SMALL, 5, {"metadata": {"title": "IR"}}), ("mpeg4", SMALL, 5, {"metadata": {"title": "x"}})], 1),
        ([("mpeg4", SMALL, 5, {}), ("mpeg4", LARGE, 5, {})], 1),  # thumbnails, and the video
        ([("mpeg4", SMALL, 5, {"disposition": DEFAULT}), ("mpeg4", SMALL, 5, {"disposition": DEFAULT})], 0),
        ([("ffv1", SMALL, 5, {})], 0),  # where nothing else is there
    ],
)
def test_which_stream_is_the_video(tmp_path, streams, video):
    with opened_video(with_streams(tmp_path / "a.mkv", *streams)) as container:
        assert video_stream(container, "a").index == video
    size = streams[video][1]
    frames = list(open_source(str(tmp_path / "a.mkv")))
    assert (len(frames), frames[0].image.shape[:2]) == (5, size)
    assert video_frame(VideoFrame(tmp_path / "a.mkv", 2)).shape[1:] == size


def told(size=SMALL, disposition=NONE, frames=0, pixels="yuv420p", title=""):
    """A stream as its header tells it."""
    context = SimpleNamespace(format=av.VideoFormat(pixels, *reversed(size)))
    named = {"metadata": {"title": title}, "frames": frames, "disposition": disposition}
    return SimpleNamespace(height=size[0], width=size[1], codec_context=context, **named)


@pytest.mark.parametrize(
    ("streams", "video"),
    [
        ([told(LARGE, Disposition.attached_pic), told()], 1),
        ([told(LARGE, Disposition.attached_pic | Disposition.default), told()], 1),
        ([told(), told(LARGE, Disposition.attached_pic | Disposition.timed_thumbnails)], 0),
        ([told(LARGE, Disposition.still_image), told()], 1),
        ([told(LARGE, Disposition.dependent), told()], 1),
        ([told(LARGE, frames=1), told(frames=50)], 1),
        ([told(LARGE, pixels="gray16le"), told(pixels="pal8")], 1),
        ([told(LARGE), told(disposition=Disposition.default)], 1),
        ([told(title="thumbnails"), told(title="mirror")], 1),
        ([told(LARGE, Disposition.still_image)], 0),
    ],
)
def test_which_stream_is_the_video_by_what_the_header_tells(streams, video):
    for index, stream in enumerate(streams):
        stream.index = index
    container = SimpleNamespace(streams=SimpleNamespace(video=streams))
    assert video_stream(container, "a").index == video


def test_covers_alone_are_no_video():
    container = SimpleNamespace(streams=SimpleNamespace(video=[told(LARGE, Disposition.attached_pic)]))
    with pytest.raises(DataError, match="a: holds no video, a picture such as a cover at most"):
        video_stream(container, "a")


def test_too_large_frames_are_refused_by_the_header(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", moving_blocks(2))
    monkeypatch.setattr(limits, "MAX_PIXELS", 48 * 96 - 1)
    for read in (open_source, lambda path: video_frame(VideoFrame(Path(path), 0))):
        with pytest.raises(DataError, match=r"a\.mp4: its frames have 96x48 \(width x height\) pixels; at most "):
            read(str(tmp_path / "a.mp4"))


def test_frames_that_become_too_large_on_the_way_are_not_decoded(tmp_path, monkeypatch):
    parts = [write_video(tmp_path / f"{size}.ts", moving_blocks(6, size, 2 * size)) for size in (48, 96)]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [frame.image.shape[0] for frame in open_source(str(tmp_path / "a.ts"))] == [48] * 6 + [96] * 6
    monkeypatch.setitem(OPTIONS, "max_pixels", "15000")  # padding counts
    frames = []
    with pytest.raises(IncompleteError, match="damaged places are left out"):
        for frame in open_source(str(tmp_path / "a.ts")):
            frames.append(frame)
    assert len(frames) >= 3
    assert {frame.image.shape[0] for frame in frames} == {48}


def test_frames_of_too_many_bytes_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "deep.mp4", moving_blocks(2, 48, 96), pixels="yuv444p10le")
    with opened_video(path) as container:
        assert decoded_bytes(container.streams.video[0]) == 48 * 96 * 3 * 2
        monkeypatch.setattr(video_files, "MAX_DECODED_BYTES", 48 * 96 * 6)
        assert video_stream(container, "here").width == 96
        monkeypatch.setattr(video_files, "MAX_DECODED_BYTES", 48 * 96 * 6 - 1)
        with pytest.raises(DataError, match=r"here: its frames, 96x48 of yuv444p10le, take 0 MB each: at most .* MB"):
            video_stream(container, "here")


@pytest.mark.parametrize(("pixels", "size"), [("yuv420p", 96 * 48 * 3 // 2), ("yuv422p", 96 * 48 * 2)])
def test_bytes_of_a_decoded_frame_are_those_of_its_planes(tmp_path, pixels, size):
    with opened_video(write_video(tmp_path / "a.mp4", moving_blocks(1, 48, 96), pixels=pixels)) as container:
        assert decoded_bytes(container.streams.video[0]) == size
