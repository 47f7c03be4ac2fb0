"""Presentation times that always go on."""


class Timeline:
    """Turns a source's times into ones that increase: where they jump back, the rest follows on; gaps stay gaps.

    Times jump back where files were joined, as by dash cameras, and at a playlist's discontinuities.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._duration = 0.0  # of the last frame
        self._offset = 0.0

    def moment(self, seconds: float | None, duration: float) -> float:
        """The time of the next frame, of which the source says ``seconds`` and that it is shown for ``duration``."""
        if self._last is None:
            found = seconds or 0.0
        elif seconds is None:
            found = self._last + self._duration
        elif seconds + self._offset > self._last:
            found = seconds + self._offset
        elif seconds + self._offset > self._last - self._duration:
            # Less than a frame: the clock is imprecise, or says a time twice, and the next frame is in time again.
            found = self._last + self._duration / 2
        else:
            found = self._last + self._duration
            self._offset = found - seconds
        self._last, self._duration = found, duration
        return found
