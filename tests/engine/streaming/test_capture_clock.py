"""Presentation times of frames that arrive, worked out by hand."""

import pytest

from engine.streaming.sources.capture_clock import CaptureClock


def seconds(clock: CaptureClock, frames: list[tuple[float | None, float]]) -> list[float]:
    return [clock.seconds(stamp, at) for stamp, at in frames]


def test_time_stamps_count_wherever_they_begin_and_arrivals_do_not():
    clock = CaptureClock()
    assert seconds(clock, [(7.0, 100.0), (7.1, 100.13), (7.2, 100.2), (7.3, 100.31)]) == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )


def test_without_time_stamps_arrivals_count():
    assert seconds(CaptureClock(), [(None, 100.0), (None, 100.5), (None, 103.0)]) == pytest.approx([0, 0.5, 3])


def test_a_gap_is_as_long_as_the_sender_was_away():
    clock = CaptureClock()
    seconds(clock, [(7.0, 100.0), (7.1, 100.1)])
    clock.restart()
    # Away from 100.1 to 104; three frames that waited come at once, the fourth one as it is captured, at 104.3.
    found = seconds(clock, [(0.0, 104.29), (0.1, 104.291), (0.2, 104.292), (0.3, 104.3), (0.4, 104.4)])
    assert found[-2:] == pytest.approx([4.3, 4.4])
    assert found == sorted(found)


def test_frames_that_waited_before_the_first_are_told_from_others():
    clock = CaptureClock()
    settled = []
    for stamp, at in [(5.0, 100.0), (5.1, 100.001), (5.2, 100.002), (5.3, 100.09), (5.4, 100.2)]:
        clock.seconds(stamp, at)
        settled.append(clock.is_settled)
    assert settled == [False, False, False, True, True]
    clock.restart()
    # The clock was set by the frame of 0.3 s, which arrived at 100.09: the first one was captured at 99.79.
    assert clock.seconds(0.0, 101.79) == pytest.approx(2.0)


def test_without_time_stamps_frames_that_come_at_once_have_waited():
    clock, settled = CaptureClock(), []
    for at in (100.0, 100.001, 100.002, 100.1, 100.101):
        clock.seconds(None, at)
        settled.append(clock.is_settled)
    assert settled == [False, False, False, True, True]


def test_a_sender_that_is_always_fast_settles_too():
    clock = CaptureClock()
    for number in range(40):
        clock.seconds(float(number), 100 + 0.1 * number)
    assert clock.is_settled


@pytest.mark.parametrize(("stamp", "at"), [(3.0, 100.2), (7.1, 100.2), (1000.0, 100.2)])
def test_time_goes_on_where_time_stamps_jump(stamp, at):
    clock = CaptureClock()
    found = seconds(clock, [(7.0, 100.0), (7.1, 100.1), (stamp, at), (stamp + 0.1, at + 0.1)])
    assert found == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_sender_that_pauses_leaves_a_gap_though_its_time_stamps_have_none():
    clock = CaptureClock()
    found = seconds(clock, [(0.0, 100.0), (0.1, 100.1), (0.2, 104.2), (0.3, 104.3)])
    assert found == pytest.approx([0, 0.1, 4.2, 4.3])


def test_what_waits_for_its_reader_has_no_gap():
    clock = CaptureClock(keeps_up=False)
    found = seconds(clock, [(0.0, 100.0), (0.1, 104.1), (0.2, 104.101), (0.0, 104.3), (0.1, 109.0)])
    assert found == pytest.approx([0, 0.1, 0.2, 4.3, 4.4])


def test_a_gap_in_time_stamps_that_passed_here_too_stays():
    assert seconds(CaptureClock(), [(0.0, 100.0), (0.1, 100.1), (60.1, 160.1)]) == pytest.approx([0, 0.1, 60.1])
