"""Threads with bounded queues: order, overlap, errors and ends."""

import signal
import threading
import time

import pytest

from engine.streaming.threads import DEPTH, Background, Prefetched, interruptible
from utils.errors import StoppedError
from utils.signals import ended_by_sigterm


def slowly(item):
    time.sleep(0.02)
    return item


def test_stages_overlap_and_keep_the_order():
    written = []
    writer = Background(lambda item: written.append(slowly(item)), "writing")
    start = time.perf_counter()
    for item in Prefetched(range(30), slowly):
        writer.put(slowly(item))
    writer.finish()
    seconds = time.perf_counter() - start
    assert written == list(range(30))
    assert seconds < 2 * 30 * 0.02  # one after the other would take three times 0.6 s
    assert len(writer.milliseconds) == 30
    assert min(writer.milliseconds) >= 20


def test_no_more_is_made_ahead_than_the_queue_holds():
    made = []
    reader = Prefetched(range(100), lambda item: made.append(item) or item)
    next(iter(reader))
    time.sleep(0.3)
    assert len(made) <= DEPTH + 2
    reader.stop()


def test_an_error_of_the_source_comes_after_what_was_made():
    def source():
        yield 1
        yield 2
        raise OSError("broken")

    got = []
    with pytest.raises(OSError, match="broken"):
        got.extend(iter_into(got, Prefetched(source(), lambda item: item)))
    assert got == [1, 2]


def iter_into(into, items):
    for item in items:
        into.append(item)
    return []


def test_an_error_of_a_writer_comes_out_once_and_frees_the_putter():
    def fail(item):
        raise OSError("full")

    writer = Background(fail, "writing")
    with pytest.raises(OSError, match="full"):
        for item in range(100):
            writer.put(item)
    assert writer.failed
    writer.finish()


def test_stopping_closes_the_source_and_ends_the_thread():
    closed = threading.Event()

    def source():
        try:
            yield from range(1000)
        finally:
            closed.set()

    reader = Prefetched(source(), lambda item: item)
    next(iter(reader))
    reader.stop()
    assert closed.is_set()
    assert "reading" not in {thread.name for thread in threading.enumerate()}


def test_stopping_does_not_wait_for_a_source_that_stalls():
    goes_on = threading.Event()

    def source():
        yield 1
        goes_on.wait(60)

    reader = Prefetched(source(), lambda item: item)
    next(iter(reader))
    start = time.monotonic()
    reader.stop()
    assert time.monotonic() - start < 5
    goes_on.set()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, StoppedError)])
def test_signals_act_while_another_thread_waits(number, error):
    goes_on = threading.Event()
    sender = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, number))
    start = time.monotonic()
    sender.start()
    with pytest.raises(error), ended_by_sigterm("nothing was read"):
        interruptible(lambda: goes_on.wait(60))
    assert time.monotonic() - start < 10
    goes_on.set()


def test_what_takes_too_long_is_given_up():
    goes_on = threading.Event()
    with pytest.raises(TimeoutError):
        interruptible(lambda: goes_on.wait(60), seconds=0.2)
    goes_on.set()
    assert interruptible(lambda: 7, seconds=60) == 7
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)
