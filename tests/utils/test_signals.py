"""Signals: when they act, and what was before is there again."""

import multiprocessing
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest

from utils.errors import StoppedError
from utils.signals import (
    PATIENCE_SECONDS,
    FirstInterrupt,
    NotedSignals,
    NotedSigterm,
    ended_by_sigterm,
    interrupts_held_back,
    leave_interrupts_to_parent,
    leave_signals_to_parent,
)


@pytest.fixture(autouse=True)
def default_handler():
    """A shell starts what runs in its background with Ctrl-C ignored, tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_waits_until_it_is_asked_for():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), NotedSignals() as signals:
        signals.raise_noted()  # none came
        signal.raise_signal(signal.SIGINT)
        waited = True
        signals.raise_noted()
        waited = False
    assert waited and signal.getsignal(signal.SIGINT) is before


def test_what_a_signal_means_is_decided_outside():
    with pytest.raises(StoppedError, match="kept"), ended_by_sigterm("kept"), NotedSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signals.raise_noted()


def test_a_signal_that_nobody_asked_for_acts_at_the_end():
    ended = False
    with pytest.raises(KeyboardInterrupt), NotedSignals():
        signal.raise_signal(signal.SIGINT)
        ended = True
    assert ended


def test_further_signals_wait_too_and_insist_once_patience_is_over(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("utils.signals.time.monotonic", lambda: now[0])
    with pytest.raises(KeyboardInterrupt), NotedSignals() as signals:
        for later in (0, 0.3, PATIENCE_SECONDS):
            now[0] = 100 + later
            signal.raise_signal(signal.SIGTERM if later == 0.3 else signal.SIGINT)
            assert not signals.insists
        now[0] = 100 + PATIENCE_SECONDS + 0.1
        signal.raise_signal(signal.SIGINT)
        assert signals.insists


def test_only_the_first_interrupt_raises():
    signal.signal(signal.SIGINT, FirstInterrupt())
    with pytest.raises(KeyboardInterrupt), NotedSignals():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    with NotedSignals() as signals, interrupts_held_back():
        signal.raise_signal(signal.SIGINT)
    signals.raise_noted()


def test_sigterm_is_noted_and_ends_nothing():
    before = signal.getsignal(signal.SIGTERM)
    with NotedSigterm() as request:
        assert not request.noted
        signal.raise_signal(signal.SIGTERM)
        assert request.noted
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("block", [NotedSignals, NotedSigterm, lambda: ended_by_sigterm("kept")])
def test_other_threads_than_the_main_one_leave_signals_alone(block):
    handlers, seen = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], []

    def work() -> None:
        with block():
            seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == handlers


@pytest.mark.parametrize(
    ("initializer", "terminated"),
    [(leave_interrupts_to_parent, signal.SIG_DFL), (leave_signals_to_parent, signal.SIG_IGN)],
)
def test_workers_leave_signals_to_their_parent(initializer, terminated):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer) as pool:
        assert list(pool.map(signal.getsignal, [signal.SIGINT, signal.SIGTERM])) == [signal.SIG_IGN, terminated]
