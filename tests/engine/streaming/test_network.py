"""Network streams of all kinds, from servers on loopback: which are live, which are recordings, what fails and how."""

import functools
import http.server
import shutil
import socket
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import pytest

from engine.streaming.sources import network, open_source, spread_frames
from engine.streaming.sources.live import LiveSource, ReceivedSource
from engine.streaming.sources.protocols import is_network_address
from tests.engine.sender import Sender, free_port, number_in, picture
from tests.engine.videos import moving_blocks, write_folder, write_video
from utils.errors import DataError, IncompleteError

RTSP_PYTHON = "/usr/bin/python3"  # Debian's, whose packages hold GStreamer


@pytest.fixture
def files(tmp_path):
    """A folder whose files an HTTP server sends, and the server's address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("name", ["drive.mp4", "drive.ts", "drive.m3u8"])
def test_what_tells_its_length_is_a_recording_and_every_frame_is_read(files, name):
    folder, address = files
    write_video(folder / name.replace("m3u8", "ts"), moving_blocks(30))
    (folder / "drive.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\ndrive.ts\n#EXT-X-ENDLIST\n")
    source = open_source(f"{address}/{name}?token=hunter2", retries=4)
    assert type(source) is ReceivedSource
    frames = list(source)
    assert [frame.seconds for frame in frames] == pytest.approx([number / 25 for number in range(30)], abs=1e-3)
    assert "hunter2" not in source.description
    assert source.names == [frames[0].name] == ["http_000000"]


def test_a_recording_that_breaks_off_is_said(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", moving_blocks(60), options={"movflags": "faststart"}).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server, len(whole), whole[: len(whole) * 2 // 3]), daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.getsockname()[1]}/cut.mp4")
        with pytest.raises(IncompleteError, match=r"breaks off after \d+ frames \("):
            list(source)


def answer(server: socket.socket, length: int, content: bytes) -> None:
    """Answers requests with less than was announced."""
    while True:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + content)


def test_pictures_without_time_stamps_are_shown_when_they_came():
    moments = []

    def send(server):
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n")
            for number in range(12):
                content = cv2.imencode(".jpg", picture(number)[..., ::-1])[1].tobytes()
                head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(content)
                moments.append(time.monotonic())
                connection.sendall(head + content + b"\r\n")
                time.sleep(0.3 if number == 7 else 0.1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=send, args=(server,), daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.getsockname()[1]}/video.mjpg")
        frames = list(source.reader(lambda frame: frame))
    for before, after in pairwise(frames):
        between = moments[number_in(after.image)] - moments[number_in(before.image)]
        assert after.seconds - before.seconds == pytest.approx(between, abs=0.08)
    assert number_in(frames[-1].image) == 11
    assert source.reception.report(len(frames))["received"] == 12


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "401"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno video.", "invalid data"),
        (None, "connection refused"),
    ],
)
def test_what_cannot_be_opened_is_said_without_its_password(reply, reason):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    if reply is None:
        server.close()
    else:
        threading.Thread(target=reply_to_all, args=(server, reply), daemon=True).start()
    with pytest.raises(DataError, match=reason) as raised:
        open_source(f"http://user:hunter2@127.0.0.1:{port}/live?token=hunter2")
    assert f"--stream http://***@127.0.0.1:{port}/live?***: cannot be opened (" in str(raised.value)
    assert raised.value.__suppress_context__
    server.close()


def reply_to_all(server: socket.socket, reply: bytes) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(reply)


def test_addresses_are_those_of_known_protocols_that_are_no_files(tmp_path, monkeypatch):
    assert all(map(is_network_address, ("rtsp://h/x", "RTSP://h", "http://h", "https://h", "udp://h:1", "tcp://h:1")))
    assert not any(map(is_network_address, ("file:///x", "concat:a|b", "2024-05-01T12:30:00.mp4", "c:/x", "http:x")))
    monkeypatch.chdir(tmp_path)
    Path("http:").mkdir()
    write_folder(tmp_path / "http:" / "drive.org", moving_blocks(3))
    assert len(list(open_source("http://drive.org"))) == 3
    assert len(list(open_source("http://drive.org/frame_0.png"))) == 1


def test_a_network_stream_cannot_be_read_in_advance(files):
    folder, address = files
    write_video(folder / "drive.mp4", moving_blocks(3))
    with pytest.raises(DataError, match=r"^stream http://.* cannot be read in advance: expected a video or a folder"):
        spread_frames(open_source(f"{address}/drive.mp4", "--int8"), 4)


@pytest.mark.slow
def test_a_udp_stream_that_falls_silent_is_waited_for(monkeypatch):
    monkeypatch.setattr(network, "READ_SECONDS", 2.0)
    port = free_port()
    opening = threading.Thread(target=lambda: opened.append(open_source(f"udp://127.0.0.1:{port}", retries=3)))
    opened = []
    opening.start()
    time.sleep(1.0)
    first = Sender("udp", port, rate=30, count=60)
    opening.join()
    source, frames = opened[0], []
    threading.Timer(5.0, lambda: senders.append(Sender("udp", port, rate=30, count=60))).start()
    senders = [first]
    for frame in source.reader(lambda frame: frame):
        frames.append(frame)
        if len(source.reception.reconnections) and source.reception.received > 100:
            break
        time.sleep(0.1)
    source.close()
    sent = [sender.kill() for sender in senders]
    assert sent[0] == 60
    assert sent[1] > 40
    assert source.reception.report(len(frames))["reconnections"][0]["reason"] == "nothing came for 2 s"
    assert sum(frame.after_gap for frame in frames) == 1


@pytest.mark.slow
def test_an_rtsp_camera_with_a_password(tmp_path):
    has_gstreamer = (
        Path(RTSP_PYTHON).exists()
        and not subprocess.run(
            [RTSP_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"], stderr=subprocess.DEVNULL
        ).returncode
    )
    if not has_gstreamer:
        pytest.skip(
            "GStreamer's RTSP server is absent: apt install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly"
        )
    port = free_port()

    def serve() -> subprocess.Popen:
        script = shutil.copy(Path(__file__).parents[1] / "rtsp_sender.py", tmp_path)  # away from our modules
        server = subprocess.Popen([RTSP_PYTHON, script, str(port), "user", "hunter2"], stdout=subprocess.PIPE)
        server.stdout.readline()
        return server

    server = serve()
    with pytest.raises(DataError, match="401 unauthorized"):
        open_source(f"rtsp://127.0.0.1:{port}/live")
    source = open_source(f"rtsp://user:hunter2@127.0.0.1:{port}/live", retries=4)
    assert isinstance(source, LiveSource)
    assert source.fps == 30
    frames = []
    for frame in source.reader(lambda frame: frame):
        frames.append(frame)
        if len(frames) == 5:
            server.kill()
            server.wait()
            server = serve()
        if len(frames) == 10:
            break
        time.sleep(0.2)
    source.close()
    server.kill()
    report = source.reception.report(len(frames))
    assert len(report["reconnections"]) == 1
    assert report["damaged"] == 0
    assert [frame.after_gap for frame in frames].count(True) == 1
    times = [frame.seconds for frame in frames]
    assert times == sorted(set(times))
    assert times[-1] - times[0] == pytest.approx(frames[-1].captured - frames[0].captured, abs=0.5)
