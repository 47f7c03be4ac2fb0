"""Receives the frames of a sender, waits for it where it goes away, and counts what came."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from datasets.retry import seconds_of_retries
from engine.streaming.sources.capture_clock import CaptureClock
from engine.streaming.sources.feed import Arrival, Feed
from engine.streaming.sources.source import SourceFrame
from utils.errors import DataError, IncompleteError

log = logging.getLogger(__name__)

TRY_EVERY_SECONDS = 1.0
REMEMBERED_RECONNECTIONS = 1000  # the latest, since a stream may be endless


class ReceivedFrame(NamedTuple):
    """An arrival, with its name, its presentation time, and the number of the connection that it came by."""

    arrival: Arrival
    name: str
    seconds: float
    connection: int

    def frame(self, after_gap: bool) -> SourceFrame:
        """The same as a source's frame; only now is its image made."""
        arrival = self.arrival
        return SourceFrame(self.name, arrival.image(), self.seconds, arrival.at, after_gap, display=arrival.display)


class Reconnection(NamedTuple):
    """After how many frames, and at which presentation time, the sender was away for how long, and why."""

    received: int
    seconds: float
    gap_seconds: float
    reason: str


class Reception:
    """Iterates over the frames of a feed and of those that follow it, as ``connect`` makes them.

    A feed that is lost is waited for, as long as ``retries`` of reading data take, but tried every second. ``keeps_up``
    is as in ``CaptureClock``.
    Iterating raises ``IncompleteError`` where a feed does not come back, ``DataError`` where no frame ever came.
    """

    def __init__(self, feed: Feed, connect: Callable[[], Feed], retries: int, keeps_up: bool):
        self.feed, self.clock = feed, CaptureClock(keeps_up)
        self.stopped = threading.Event()
        self.received = self.damaged = 0
        self.reconnections: deque[Reconnection] = deque(maxlen=REMEMBERED_RECONNECTIONS)
        self._connect, self._patience = connect, seconds_of_retries(retries)
        self._deadline: float | None = None  # until which a sender that is away is waited for
        self._connections = 1
        self._last: ReceivedFrame | None = None
        self._reason = ""
        self._name = next(iter(feed.names)).removesuffix("_000000")

    def report(self, labeled: int) -> dict:
        """What came and what became of it, as plain values: all that came were labeled, dropped or damaged."""
        received, damaged = self.received, self.damaged
        return {
            "received": received + damaged,
            "labeled": labeled,
            "dropped": received - labeled,
            "damaged": damaged,
            "reconnections": [
                each._asdict() | {"seconds": round(each.seconds, 3), "gap_seconds": round(each.gap_seconds, 3)}
                for each in list(self.reconnections)
            ],
        }

    def __iter__(self) -> Iterator[ReceivedFrame]:
        feed: Feed | None = self.feed
        while feed is not None:
            lost = ""
            try:
                for arrival in feed.arrivals(self.stopped):
                    yield self._noted(arrival)
            except ConnectionError as error:
                lost = str(error)
            self.damaged += feed.damaged
            feed = self._next_feed(feed.ends, lost)
        if not (self.received or self.stopped.is_set()):
            raise DataError(f"{self.feed.description}: no frame came ({self._reason or 'it is empty'})")

    def _noted(self, arrival: Arrival) -> ReceivedFrame:
        seconds = self.clock.seconds(arrival.seconds, arrival.at)
        name = arrival.name or f"{self._name}_{self.received:06d}"
        frame = ReceivedFrame(arrival, name, seconds, self._connections)
        if self._last is not None and self._last.connection < self._connections:
            away = arrival.at - self._last.arrival.at
            self.reconnections.append(Reconnection(self.received, self._last.seconds, away, self._reason))
            log.warning("%s is back after %.1f s", self.feed.description, away)
        self.received += 1
        self._deadline, self._last = None, frame
        return frame

    def _next_feed(self, ended: bool, lost: str) -> Feed | None:
        """The feed that follows one that has ended, or was lost; ``None`` where none is to follow."""
        if self.stopped.is_set() or (not lost and (ended or not self._patience)):
            return None
        self._reason = lost or "its sender ended"
        if not ended:
            feed = self._reconnected()
            if feed is not None or self.stopped.is_set():
                return feed
        if not self.received:
            return None
        breaks = "breaks off" if ended else "went away"
        raise IncompleteError(
            f"{self.feed.description} {breaks} after {self.received} frames ({self._reason}); these are kept"
        )

    def _reconnected(self) -> Feed | None:
        """The feed of a sender that was away; ``None`` where it stays away for too long."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._patience
            if self._patience:
                log.warning("%s is away (%s): waiting for it", self.feed.description, self._reason)
        while (left := self._deadline - time.monotonic()) > 0:
            if self.stopped.wait(min(left, TRY_EVERY_SECONDS)):
                break
            try:
                feed = self._connect()
            except DataError:
                continue
            self.clock.restart()
            self._connections += 1
            return feed
        return None
