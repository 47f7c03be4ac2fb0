"""Signals: when they act, and what was before is there again."""

import signal

import pytest

from utils.errors import StoppedError
from utils.signals import NotedSignals, ended_by_sigterm


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


def test_a_second_signal_acts_at_once():
    with pytest.raises(KeyboardInterrupt), NotedSignals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was to raise")
