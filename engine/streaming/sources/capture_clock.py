"""Presentation times of frames that arrive: time always goes on, and gaps stay gaps."""

LATE_SECONDS = 1.0  # a frame that is later than this, compared with the one before it, is another beginning
EARLY_SECONDS = 10.0  # and so is one whose time stamp is as much ahead of its arrival
LONGEST_SETTLING = 3.0  # seconds, for a sender that is always faster than its time stamps
QUEUED_STEP = 0.005  # seconds: frames without time stamps that come faster have waited in a queue
LEAST_STEP = 1e-3


class CaptureClock:
    """Turns time stamps of a sender into seconds since its first frame.

    Time stamps begin anew where the sender does, and may jump; from one beginning to the next the time counts that has
    passed here. The first frames after a beginning may have waited in a queue on their way. Therefore each of them sets
    the clock, until they come as slowly as they were captured; ``is_settled`` is ``True`` from then on. Where the
    reader is what frames wait for (``keeps_up`` is ``False``) the first one sets it.
    """

    def __init__(self, keeps_up: bool = True):
        self.is_settled = not keeps_up
        self._keeps_up = keeps_up
        self._start = self._first_stamp = 0.0
        self._offset: float | None = None  # from time stamps to seconds
        self._last: tuple[float, float] | None = None  # time stamp and arrival of the frame before
        self._last_seconds = -LEAST_STEP
        self._began_at: float | None = None
        self._is_first_beginning = True

    def restart(self) -> None:
        """Says that the sender was away before the next frame."""
        self.is_settled = not self._keeps_up
        self._offset = self._last = self._began_at = None
        self._is_first_beginning = False

    def seconds(self, stamp: float | None, at: float) -> float:
        """The presentation time of the next frame, by its time stamp, if it has one, and the moment of its arrival."""
        if self._last_seconds < 0:
            self._start, self._first_stamp = at, stamp or 0.0
        if stamp is None:
            found = at - self._start
            self.is_settled |= self._last is not None and at - self._last[1] > QUEUED_STEP
            self._last = at, at
        else:
            found = self._by_stamp(stamp, at)
        self._last_seconds = max(found, self._last_seconds + LEAST_STEP)
        return self._last_seconds

    def _by_stamp(self, stamp: float, at: float) -> float:
        if self._last is not None and self._jumps(stamp, at):
            self.restart()
        if self._began_at is None:
            self._began_at = at
        if self._offset is None or not self.is_settled:
            self._offset = self._set_by(stamp, at)
        if self._last is not None:
            waited_for = at - self._last[1] >= (stamp - self._last[0]) / 2
            self.is_settled |= waited_for or at - self._began_at > LONGEST_SETTLING
        self._last = stamp, at
        return stamp + self._offset

    def _jumps(self, stamp: float, at: float) -> bool:
        assert self._last is not None
        step, passed = stamp - self._last[0], at - self._last[1]
        return step <= 0 or step > passed + EARLY_SECONDS or (self._keeps_up and passed > step + LATE_SECONDS)

    def _set_by(self, stamp: float, at: float) -> float:
        if self._is_first_beginning:
            self._start = at - (stamp - self._first_stamp)
            return -self._first_stamp
        return max(at - self._start, self._last_seconds + LEAST_STEP) - stamp
