"""Streams that are stopped while their source does not answer: at once, with whole outputs."""

import json
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from datasets import animations
from engine.streaming.setup import calibration_frames
from engine.streaming.sources import reception
from main import main
from tests.engine.running import started, wait_for
from tests.engine.sender import Sender, free_port
from tests.engine.videos import moving_blocks, read_video, write_folder, write_video
from utils.errors import StoppedError
from utils.signals import ended_by_sigterm

CTRL_C, SIGTERM = (signal.SIGINT, 130), (signal.SIGTERM, 143)
STOPS = pytest.mark.parametrize(("number", "status"), [CTRL_C, SIGTERM])
ONE_QUICKLY = pytest.mark.parametrize(("number", "status"), [CTRL_C, pytest.param(*SIGTERM, marks=pytest.mark.slow)])
OTHER_QUICKLY = pytest.mark.parametrize(("number", "status"), [pytest.param(*CTRL_C, marks=pytest.mark.slow), SIGTERM])
AT_ONCE = 10.0  # seconds, on a machine that does other things too; the longest time-out is as long


class Stop(threading.Thread):
    """Sends a signal to this process some time after ``condition`` holds; ``seconds`` is how long ago that was."""

    def __init__(self, number: int, condition, after: float = 0.3):
        super().__init__(daemon=True)
        self._number, self._condition, self._after, self._at = number, condition, after, 0.0
        self.start()

    def run(self) -> None:
        wait_for(self._condition)
        time.sleep(self._after)
        self._at = time.monotonic()
        signal.pthread_kill(threading.main_thread().ident, self._number)

    @property
    def seconds(self) -> float:
        assert self._at, "it was not sent"
        return time.monotonic() - self._at


def stream_words(weights: Path, source: str, folder: Path) -> list[str]:
    words = f"--weights {weights} --savedir {folder} --work-size 32x64 --corr-size 3 --device cpu --save-video overlay"
    return ["--stream", source, *words.split()]


def frames_in(folder: Path) -> int:
    """Frames in the video, whose stream was stopped with all files whole."""
    summary = json.loads((folder / "stream.json").read_text())
    assert not list(folder.glob("*.partial.mp4"))
    assert len(read_video(folder / "overlay.mp4")) == summary["frames"]
    return summary["frames"]


@STOPS
def test_while_a_sender_does_not_answer(lmanet_file, tmp_path, number, status):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        accepted = []
        threading.Thread(target=lambda: accepted.append(server.accept()), daemon=True).start()
        stop = Stop(number, lambda: accepted)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/live"
        assert main(stream_words(lmanet_file, address, tmp_path)) == status
        assert stop.seconds < AT_ONCE
        assert not (tmp_path / "stream.json").exists()


@OTHER_QUICKLY
def test_while_a_sender_is_silent(lmanet_file, tmp_path, number, status):
    port = free_port()
    sender = Sender("http", port, rate=30, count=45, holds=True)
    stop = Stop(number, (tmp_path / "overlay.partial.mp4").exists, after=1.5)
    assert main(stream_words(lmanet_file, f"http://127.0.0.1:{port}/live", tmp_path)) == status
    assert stop.seconds < AT_ONCE
    assert 1 <= frames_in(tmp_path) <= 45
    sender.kill()


@ONE_QUICKLY
def test_while_a_sender_is_away(lmanet_file, tmp_path, monkeypatch, number, status):
    monkeypatch.setattr(reception, "TRY_EVERY_SECONDS", 60.0)
    port = free_port()
    sender = Sender("tcp", port, rate=30, count=10)
    words = stream_words(lmanet_file, f"tcp://127.0.0.1:{port}", tmp_path)
    stop = Stop(number, (tmp_path / "overlay.partial.mp4").exists, after=1.0)
    assert main(words) == status
    assert stop.seconds < AT_ONCE
    assert 1 <= frames_in(tmp_path) <= 10
    sender.kill()


@ONE_QUICKLY
def test_while_a_drive_hangs(lmanet_file, tmp_path, monkeypatch, number, status):
    goes_on, read = threading.Event(), animations.read_picture

    def read_or_hang(file):
        if file.name == "frame_3.png":
            goes_on.wait(60)
        return read(file)

    monkeypatch.setattr(animations, "read_picture", read_or_hang)
    source, run = write_folder(tmp_path / "in", moving_blocks(5)), tmp_path / "run"
    stop = Stop(number, (run / "overlay.partial.mp4").exists, after=1.0)
    assert main(stream_words(lmanet_file, str(source), run)) == status
    assert stop.seconds < AT_ONCE
    assert frames_in(run) == 3
    goes_on.set()


@OTHER_QUICKLY
def test_while_frames_to_be_calibrated_on_hang(tmp_path, monkeypatch, number, status):
    reading, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(animations, "read_picture", lambda file: reading.set() or goes_on.wait(60))
    settings = SimpleNamespace(int8=str(write_folder(tmp_path / "in", moving_blocks(2))))
    stop = Stop(number, reading.is_set)
    with pytest.raises((KeyboardInterrupt, StoppedError)), ended_by_sigterm(""):
        calibration_frames(settings)
    assert stop.seconds < AT_ONCE
    goes_on.set()


@pytest.mark.slow
@STOPS
def test_a_process_whose_playlist_does_not_grow(lmanet_file, tmp_path, number, status):
    write_video(tmp_path / "drive.ts", moving_blocks(50))
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", *["#EXTINF:2.0,", "drive.ts"] * 3]
    (tmp_path / "live.m3u8").write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    process = started(stream_words(lmanet_file, str(tmp_path / "live.m3u8"), run))
    wait_for((run / "overlay.partial.mp4").exists)
    time.sleep(5.0)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert frames_in(run) >= 100
