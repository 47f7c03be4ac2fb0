"""What comes from senders that go away, and what is noted of it."""

import threading
import time
import tracemalloc

import numpy as np
import pytest

from datasets.retry import seconds_before_retry, seconds_of_retries
from engine.streaming.sources import reception
from engine.streaming.sources.feed import Arrival, paced
from engine.streaming.sources.live import LiveSource, ReceivedSource, received
from utils.errors import DataError, IncompleteError


class ScriptedFeed:
    """Sends so many frames, one every 10 ms, and then ends, or is lost."""

    description, fps, count, names = "camera 7", 100.0, None, ["camera7_000000"]

    def __init__(self, frames: int, lost: str = "", ends: bool = False, damaged: int = 0):
        self.frames, self.lost, self.ends, self.damaged = frames, lost, ends, damaged

    def arrivals(self, stopped):
        for number in range(self.frames):
            time.sleep(0.01)
            yield Arrival(lambda: np.zeros((2, 2, 3), np.uint8), number / 100, time.monotonic())
        if self.lost:
            raise ConnectionError(self.lost)


def connected(*feeds):
    """A function that makes one connection after the other; ``None`` is one that fails."""
    left = list(feeds)

    def connect():
        feed = left.pop(0)
        if feed is None:
            raise DataError("nobody answers")
        return feed

    return connect


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(reception, "TRY_EVERY_SECONDS", 0.01)


def test_every_frame_comes_and_reconnections_are_noted():
    connect = connected(ScriptedFeed(3, "reset", damaged=2), None, None, ScriptedFeed(4, damaged=1), ScriptedFeed(1))
    source = received(connect, live=False, retries=3)
    frames = []
    with pytest.raises(IndexError):  # the script has ended
        frames.extend(iterated_into(frames, source))
    assert [frame.name for frame in frames] == [f"camera7_{number:06d}" for number in range(8)]
    assert [frame.after_gap for frame in frames] == [False, False, False, True, False, False, False, True]
    report = source.reception.report(labeled=6)
    assert (report["received"], report["labeled"], report["dropped"], report["damaged"]) == (11, 6, 2, 3)
    first, second = report["reconnections"]
    assert (first["received"], first["reason"]) == (3, "reset")
    assert (second["received"], second["reason"]) == (7, "its sender ended")
    assert 0.03 < first["gap_seconds"] < 5
    assert frames[3].seconds - frames[2].seconds > first["gap_seconds"] - 2e-3


def iterated_into(frames: list, source) -> list:
    for frame in source:
        frames.append(frame)
    return []


def test_a_sender_that_does_not_come_back_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(reception, "seconds_of_retries", lambda retries: 0.1 * retries)
    # While it comes back without a frame the time goes on; a frame gives it the whole time again.
    connect = connected(ScriptedFeed(3, "reset"), ScriptedFeed(0, "away"), *[None] * 1000)
    start = time.monotonic()
    with pytest.raises(IncompleteError, match=r"^camera 7 went away after 3 frames \(away\); these are kept$"):
        list(received(connect, live=False, retries=3))
    assert 0.3 < time.monotonic() - start < 5


def test_without_retries_a_stream_ends_with_its_sender():
    assert len(list(received(connected(ScriptedFeed(3)), live=False, retries=0))) == 3
    with pytest.raises(IncompleteError, match=r"went away after 3 frames \(reset\)"):
        list(received(connected(ScriptedFeed(3, "reset")), live=False, retries=0))


def test_a_recording_is_not_waited_for():
    assert len(list(received(connected(ScriptedFeed(3, ends=True)), live=None, retries=4))) == 3
    with pytest.raises(IncompleteError, match=r"camera 7 breaks off after 3 frames \(reset\)"):
        list(received(connected(ScriptedFeed(3, "reset", ends=True)), live=None, retries=4))


@pytest.mark.parametrize("live", [True, False])
def test_a_sender_without_a_frame_is_said(live):
    source = received(connected(ScriptedFeed(0, "reset"), ScriptedFeed(0)), live=live, retries=0)
    with pytest.raises(DataError, match=r"camera 7: no frame came \(reset\)"):
        list(source.reader(lambda frame: frame) if live else source)


def test_live_is_what_has_no_end():
    assert isinstance(received(connected(ScriptedFeed(1)), None, 0), LiveSource)
    assert type(received(connected(ScriptedFeed(1, ends=True)), None, 0)) is ReceivedSource
    assert type(received(connected(ScriptedFeed(1)), False, 0)) is ReceivedSource


def test_the_newest_frame_is_taken_and_the_last_one_is_never_lost():
    source = received(connected(ScriptedFeed(50, "reset"), ScriptedFeed(50)), live=True, retries=1)
    taken = []
    with pytest.raises(IndexError):
        for frame in source.reader(lambda frame: frame):
            taken.append(frame)
            time.sleep(0.1)
    numbers = [int(frame.name[-6:]) for frame in taken]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 99
    assert 3 < len(numbers) < 20
    assert [frame.after_gap for frame in taken] == [
        before < 50 <= number for before, number in zip([0, *numbers], numbers, strict=False)
    ]


def test_waiting_for_a_sender_ends_when_the_source_is_closed(monkeypatch):
    monkeypatch.setattr(reception, "TRY_EVERY_SECONDS", 60.0)
    source = received(connected(ScriptedFeed(1, "reset")), live=False, retries=1)
    threading.Timer(0.2, source.close).start()
    start = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - start < 10


def test_arrivals_are_paced_and_wait_for_late_ones():
    def arrivals():
        for number in range(4):
            if number == 2:
                time.sleep(0.5)
            yield Arrival(lambda: None, 10 + 0.1 * number, time.monotonic())

    start = time.monotonic()
    at = [arrival.at - start for arrival in paced(arrivals(), threading.Event())]
    assert at[1] - at[0] == pytest.approx(0.1, abs=1e-6)
    assert at[2] >= 0.5
    assert at[3] - at[2] == pytest.approx(0.1, abs=1e-6)


def test_retries_wait_longer_and_longer_but_not_for_days():
    assert [seconds_of_retries(number) for number in (0, 1, 4, 6)] == [0, 1, 85, 213]
    assert [seconds_before_retry(number) for number in (1, 2, 3, 4, 5, 1000)] == [1, 4, 16, 64, 64, 64]


class SlowFeed(ScriptedFeed):
    """Sends nothing for a while."""

    def arrivals(self, stopped):
        time.sleep(1.5)
        yield from super().arrivals(stopped)


def test_waiting_for_a_slow_sender_takes_no_processor_time():
    source = received(connected(SlowFeed(1)), live=True, retries=0)
    start = time.process_time()
    assert len(list(source.reader(lambda frame: frame))) == 1
    assert time.process_time() - start < 0.15  # of 1.5 seconds


class QuickFeed(ScriptedFeed):
    """Sends frames of 64 KiB as fast as it can, and is lost after every hundredth."""

    def arrivals(self, stopped):
        for number in range(100):
            image = np.zeros((128, 170, 3), np.uint8)
            yield Arrival(lambda image=image: image, number / 100, time.monotonic())


def test_memory_does_not_grow_with_the_number_of_frames(monkeypatch):
    monkeypatch.setattr(reception, "TRY_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(reception.log, "disabled", True)
    source = received(lambda: QuickFeed(100), live=False, retries=1)
    sizes = []
    tracemalloc.start()
    for number, _ in enumerate(source):
        if number % 1000 == 999:
            sizes.append(tracemalloc.get_traced_memory()[0])
        if number == 5999:
            break
    tracemalloc.stop()
    assert max(sizes[1:]) < sizes[0] + 60_000  # 50 reconnections are noted; 5000 frames would be 326 MB
