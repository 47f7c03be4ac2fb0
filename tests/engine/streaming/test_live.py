"""Live sources: real senders on loopback, and a network that is slower than they are."""

import json
import signal
import threading
import time
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.streaming.output import Output
from engine.streaming.sources import open_source
from engine.streaming.stream import Stream, stream_text
from models import VideoSegmenter, build_lmanet
from tests.engine.running import wait_for
from tests.engine.sender import Sender, free_port, number_in
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
