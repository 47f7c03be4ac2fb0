"""Live sources: real senders on loopback, and a network that is slower than they are."""

import json
import signal
import threading
import time
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import av
import numpy as np
import pytest
import torch

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.streaming.output import Output
from engine.streaming.sources import open_source
from engine.streaming.stream import Stream, stream_text
from main import main
from models import VideoSegmenter, build_lmanet
from tests.engine.running import wait_for
from tests.engine.sender import Sender, free_port, number_in, picture
from tests.engine.videos import write_video
from tests.networks import LMANetConfig
from utils.errors import IncompleteError

SIZE = (32, 64)


class KeptFrame(NamedTuple):
    name: str
    number: int
    seconds: float


class Kept(Output):
    """Keeps name, number and moment of each frame."""

    name = "kept"
    options = leaves = ()

    def __init__(self):
        self.frames = []

    @classmethod
    def from_options(cls, values, stream):
        raise NotImplementedError

    def write(self, frame) -> None:
        self.frames.append(KeptFrame(frame.name, number_in(frame.image), frame.seconds))


class Streamed:
    """A stream from a source by a network that takes so many seconds for a frame."""

    def __init__(self, address: str, network_seconds: float, **options):
        torch.manual_seed(0)
        self.resets: list[int] = []
        segmenter = VideoSegmenter(build_lmanet(LMANetConfig(corr_size=3)).eval(), work_size=SIZE)
        self.kept, self.source = Kept(), open_source(address, **options)
        step, reset = segmenter.step, segmenter.reset
        segmenter.step = lambda image: (time.sleep(network_seconds), step(image))[1]
        segmenter.reset = lambda: (self.resets.append(len(self.kept.frames)), reset())[1]
        self.stream = Stream(segmenter, self.source, [self.kept], CITYSCAPES_CLASSES, detect_cuts=False)

    def run(self) -> dict:
        """Goes through the source; returns the summary, without what ended it."""
        with suppress(IncompleteError, KeyboardInterrupt):
            self.stream.run()
        return self.stream.summary()

    @property
    def received(self) -> int:
        return self.source.reception.received


def assert_all_counted(live: dict, sent: int, labeled: int) -> None:
    assert (live["received"], live["labeled"], live["damaged"]) == (sent, labeled, 0)
    assert live["labeled"] + live["dropped"] == sent


def assert_not_behind(summary: dict, network_milliseconds) -> None:
    """The latency stays below the network's time for two frames, and does not grow."""
    live, samples = summary["live"], summary["samples"]
    assert live["latency_milliseconds"]["median"] < 1.5 * np.median(network_milliseconds)
    assert live["latency_milliseconds"]["p95"] < 2 * np.percentile(network_milliseconds, 95)
    slope = np.polyfit(samples["frame"], samples["latency_milliseconds"], 1)[0]
    assert slope * len(network_milliseconds) < np.median(network_milliseconds)


@pytest.mark.parametrize("kind", ["http", pytest.param("tcp", marks=pytest.mark.slow)])
def test_a_slow_network_takes_the_newest_frames_and_drops_the_others(kind):
    port = free_port()
    sender = Sender(kind, port, rate=30, count=90)
    streamed = Streamed(f"{kind}://127.0.0.1:{port}/live", 0.2)
    summary = streamed.run()
    assert sender.kill() == 90
    frames = streamed.kept.frames
    assert_all_counted(summary["live"], 90, len(frames))
    assert_not_behind(summary, streamed.stream.record.network_ms)
    assert 3 <= len(frames) <= 17
    assert summary["complete"]
    assert frames[-1].number == 89  # nothing follows it
    for frame in frames:
        assert frame.name == f"{kind}_{frame.number:06d}"
        assert frame.seconds == pytest.approx(frame.number / 30, abs=1e-3)
    assert "90 frames came: " in stream_text(summary | {"device": "cpu", "threads": 1})


@pytest.mark.parametrize("restarts", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_sender_that_is_killed_is_waited_for(monkeypatch, caplog, restarts):
    monkeypatch.setattr("engine.streaming.sources.reception.TRY_EVERY_SECONDS", 0.2)
    port, sent, away = free_port(), [], []

    def kill_and_restart(sender):
        for _ in range(restarts):
            wait_for(lambda: streamed.received >= 30 * len(sent) + 28)  # the last two are known by what follows them
            time.sleep(0.3)
            start = time.monotonic()
            sent.append(sender.kill())
            time.sleep(0.5)
            sender = Sender("http", port, rate=30, count=30, holds=True)
            away.append(time.monotonic() - start)
        wait_for(lambda: streamed.received >= 30 * restarts + 28)
        sent.append(sender.kill())

    def control(sender):
        try:
            kill_and_restart(sender)
        finally:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    sender = Sender("http", port, rate=30, count=30, holds=True)
    streamed = Streamed(f"http://user:hunter2@127.0.0.1:{port}/live?key=hunter2", 0.1, retries=4)
    controller = threading.Thread(target=control, args=(sender,))
    controller.start()
    summary = streamed.run()
    controller.join()
    frames, live = streamed.kept.frames, summary["live"]
    assert summary["stopped_by"] == "Ctrl-C"
    assert sent == [30] * (restarts + 1)
    assert_all_counted(live, sum(sent), len(frames))
    assert [each["received"] for each in live["reconnections"]] == list(range(30, sum(sent), 30))
    firsts = [place for place in range(1, len(frames)) if frames[place].number < frames[place - 1].number]
    assert streamed.resets == firsts
    assert len(firsts) == restarts
    for place, gap, seconds in zip(firsts, live["reconnections"], away, strict=True):
        assert gap["gap_seconds"] > seconds
        assert frames[place].seconds - frames[place - 1].seconds > seconds  # gaps stay gaps
    for before, after in pairwise(frames):
        assert after.seconds > before.seconds
        if after.number > before.number:
            assert after.seconds - before.seconds == pytest.approx((after.number - before.number) / 30, abs=2e-3)
    assert "hunter2" not in json.dumps(summary) + caplog.text
    assert "is away (its sender ended): waiting for it" in caplog.text


def test_a_recording_is_played_as_if_it_came_from_a_camera(tmp_path):
    path = write_video(tmp_path / "drive.mp4", [picture(number) for number in range(40)])
    streamed = Streamed(str(path), 0.15, live=True)
    start = time.monotonic()
    summary = streamed.run()
    assert time.monotonic() - start > 39 / 25
    frames = streamed.kept.frames
    assert frames[0].number == 0
    assert_all_counted(summary["live"], 40, len(frames))
    assert 3 <= len(frames) <= 13
    assert summary["complete"]
    for frame in frames:
        assert frame.name == f"drive_{frame.number:06d}"
        assert frame.seconds == pytest.approx(frame.number / 25, abs=1e-3)


def test_the_video_keeps_the_moments_of_the_frames_that_are_labeled(lmanet_file, tmp_path, monkeypatch):
    step = VideoSegmenter.step
    monkeypatch.setattr(VideoSegmenter, "step", lambda self, image: (time.sleep(0.15), step(self, image))[1])
    source = write_video(tmp_path / "drive.mp4", [picture(number) for number in range(30)])
    words = f"--stream {source} --live --weights {lmanet_file} --savedir {tmp_path / 'run'} --work-size 32x64"
    words += " --corr-size 3 --device cpu --save-video overlay --alpha 0"
    assert main(words.split()) == 0
    with av.open(str(tmp_path / "run" / "overlay.mp4")) as container:
        frames = [(number_in(frame.to_ndarray(format="rgb24")[:48]), frame.time) for frame in container.decode(video=0)]
    summary = json.loads((tmp_path / "run" / "stream.json").read_text())
    assert len(frames) == summary["live"]["labeled"] < 12
    assert [moment for _, moment in frames] == pytest.approx([number / 25 for number, _ in frames], abs=2e-3)
