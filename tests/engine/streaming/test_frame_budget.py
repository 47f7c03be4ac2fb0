"""The budget of bytes for frames in flight: kept, given back whatever happens, and no reason to wait for ever."""

import signal
import threading
import time

import numpy as np
import pytest

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.streaming import stream
from engine.streaming.frame_budget import FrameBudget
from engine.streaming.output import Output
from engine.streaming.sources import open_source
from engine.streaming.stream import Stream
from engine.streaming.threads import Prefetched
from models.inference.segmenter import VideoSegmenter
from tests.engine.streaming.conftest import SIZE
from tests.engine.streaming.test_stops import Stop
from tests.engine.videos import moving_blocks, write_folder
from utils.errors import IncompleteError

FRAME = 4 * 32 * 64  # bytes of a frame of SIZE and its labels


class Watched(Output):
    """Counts frames; calls ``on_write`` with the number of each."""

    options = leaves = ()

    def __init__(self, name: str, on_write=lambda number: None):
        self.name, self.count, self._on_write = name, 0, on_write

    @classmethod
    def from_options(cls, values, stream):
        raise NotImplementedError

    def write(self, frame) -> None:
        self._on_write(self.count)
        self.count += 1


@pytest.fixture
def most_taken(monkeypatch):
    """The bytes in flight after each frame that was taken."""
    found, take = [], FrameBudget.take

    def noted(self, size, uses):
        share = take(self, size, uses)
        found.append(self.taken)
        return share

    monkeypatch.setattr(FrameBudget, "take", noted)
    return found


def stream_of(lmanet_file, folder, outputs, frames=12) -> Stream:
    source = open_source(str(write_folder(folder / "in", moving_blocks(frames, *SIZE))))
    return Stream(VideoSegmenter(lmanet_file, work_size=SIZE, corr_size=3), source, outputs, CITYSCAPES_CLASSES)


def test_there_is_room_within_the_budget_and_for_one_frame_of_any_size():
    budget = FrameBudget(100)
    assert budget.has_room(0)
    first = budget.take(40, uses=2)
    assert budget.has_room(0)
    second = budget.take(60, uses=1)
    assert not budget.has_room(0)
    second.used()
    assert budget.taken == 40
    assert budget.has_room(0)  # exactly: 40 and as many as the largest
    third = budget.take(61, uses=1)
    first.used()
    assert budget.taken == 101
    first.used()
    third.used()
    assert budget.taken == 0
    assert budget.has_room(0)
    huge = budget.take(1000, uses=1)
    assert not budget.has_room(0)
    huge.used()
    assert budget.has_room(0)


def test_room_is_told_to_who_waits_for_it():
    budget = FrameBudget(1)
    share = budget.take(5, uses=1)
    threading.Timer(0.1, share.used).start()
    start = time.monotonic()
    assert budget.has_room(60)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (FRAME, 1), (3 * FRAME - 1, 2), (3 * FRAME, 3)])
def test_frames_in_flight_stay_within_the_budget(lmanet_file, tmp_path, monkeypatch, most_taken, most, expected):
    monkeypatch.setattr(stream, "BYTES_IN_FLIGHT", most)
    outputs = [Watched("one", lambda number: time.sleep(0.02)), Watched("other")]
    streamed = stream_of(lmanet_file, tmp_path, outputs)
    streamed.run()
    assert [output.count for output in outputs] == [12, 12]
    assert max(most_taken) == expected * FRAME
    assert streamed._budget.taken == 0


def test_a_reader_does_not_read_before_there_is_room_and_stops_meanwhile():
    read, budget = [], FrameBudget(10)

    def make(number):
        read.append(number)
        return budget.take(6, uses=1)

    reader = Prefetched(range(9), make, has_room=budget.has_room)
    shares = iter(reader)
    first = next(shares)
    time.sleep(0.3)
    assert read == [0]
    first.used()
    next(shares)
    assert read == [0, 1]
    start = time.monotonic()
    reader.stop()
    assert time.monotonic() - start < 5
    assert "reading" not in {thread.name for thread in threading.enumerate()}


def test_an_output_that_fails_ends_a_stream_whose_reader_waits_for_room(lmanet_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BYTES_IN_FLIGHT", 1)

    def fail(number):
        if number == 3:
            raise OSError("no space")

    good, bad = Watched("good"), Watched("bad", fail)
    with pytest.raises(IncompleteError, match="bad cannot be written: no space"):
        stream_of(lmanet_file, tmp_path, [good, bad]).run()
    assert (good.count, bad.count) == (4, 3)


@pytest.mark.parametrize("most", [1, 10**9])
def test_a_stop_acts_while_frames_wait_for_room(lmanet_file, tmp_path, monkeypatch, most):
    monkeypatch.setattr(stream, "BYTES_IN_FLIGHT", most)
    begun, goes_on = threading.Event(), threading.Event()

    def hang(number):
        begun.set()
        goes_on.wait(60)

    stop = Stop(signal.SIGINT, begun.is_set)
    threading.Thread(target=lambda: (begun.wait(), time.sleep(0.8), goes_on.set()), daemon=True).start()
    output = Watched("hangs", hang)
    with pytest.raises(KeyboardInterrupt):
        stream_of(lmanet_file, tmp_path, [output], frames=40).run()
    assert stop.seconds < 10
    assert 1 <= output.count < 40


def test_a_live_source_drops_frames_while_there_is_no_room(lmanet_file, tmp_path, monkeypatch, most_taken):
    monkeypatch.setattr(stream, "BYTES_IN_FLIGHT", 1)
    source = open_source(str(write_folder(tmp_path / "in", moving_blocks(20, *SIZE))), live=True)
    output = Watched("slow", lambda number: time.sleep(0.3))
    segmenter = VideoSegmenter(lmanet_file, work_size=SIZE, corr_size=3)
    streamed = Stream(segmenter, source, [output], CITYSCAPES_CLASSES)
    streamed.run()
    assert set(most_taken) == {FRAME}
    live = streamed.summary()["live"]
    assert live["labeled"] == output.count < 20
    assert live["labeled"] + live["dropped"] == 20


def test_memory_of_probabilities_counts_where_they_are_written(lmanet_file, tmp_path, most_taken):
    output = Watched("probabilities")
    output.needs_probabilities = True
    stream_of(lmanet_file, tmp_path, [output], frames=1).run()
    assert most_taken == [FRAME + 2 * CITYSCAPES_CLASSES.num_outputs * 32 * 64]


def test_a_frame_is_not_held_once_its_outputs_are_written(lmanet_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BYTES_IN_FLIGHT", 1)
    alive, most = set(), []

    class Image(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    class Source:
        description, fps, count, names = "frames", 17.0, 8, ["frame"]

        def __iter__(self):
            for number, frame in enumerate(moving_blocks(8, *SIZE)):
                most.append(len(alive))  # when the next one is about to be decoded
                image = frame.view(Image)
                alive.add(id(image))
                yield stream.SourceFrame(f"frame_{number}", image, number / 17)
                del image

    segmenter = VideoSegmenter(lmanet_file, work_size=SIZE, corr_size=3)
    Stream(segmenter, Source(), [Watched("one"), Watched("other")], CITYSCAPES_CLASSES).run()
    assert most[0] == 0
    assert max(most) <= 1
