"""Sources that send frames at their own pace: the newest frame is taken, or every one."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from engine.streaming.sources.feed import Feed, Playback
from engine.streaming.sources.reception import ReceivedFrame, Reception
from engine.streaming.sources.source import FrameSource, SourceFrame
from engine.streaming.threads import Newest, OnDemand, always

Made = TypeVar("Made")

# A frame that comes fast after another one has waited on its way: a newer one is waited for, but no longer than this.
QUEUED_SECONDS = 0.3
STALE_SECONDS = 1.0  # a frame that was held back for longer, as the last one of a sender that fell silent, is dropped


class ReceivedSource:
    """Every frame that a feed and its followers send, in order; see ``Reception``."""

    keeps_up = False

    def __init__(self, feed: Feed, connect: Callable[[], Feed], retries: int):
        self.reception = Reception(feed, connect, retries, self.keeps_up and not feed.ends)
        self.description, self.fps, self.count = feed.description, feed.fps, feed.count
        self.names: Iterable[str] = feed.names
        self._connection = 1

    def __iter__(self) -> Iterator[SourceFrame]:
        return map(self._frame, self.reception)

    def close(self) -> None:
        """Ends the connection, or waiting for one."""
        self.reception.stopped.set()

    def _frame(self, received: ReceivedFrame) -> SourceFrame:
        after_gap, self._connection = received.connection > self._connection, received.connection
        return received.frame(after_gap)


class LiveSource(ReceivedSource):
    """The newest frame that a feed has sent, whenever one is asked for; older ones are dropped.

    Frames are received from now on, in a thread; a recording is played once its frames are asked for.
    """

    keeps_up = True

    def __init__(self, feed: Feed, connect: Callable[[], Feed], retries: int):
        super().__init__(feed, connect, retries)
        self.count = None  # how many are labeled depends on the network
        self._newest: Newest[ReceivedFrame] = Newest()
        self._thread = threading.Thread(target=self._receive, name="receiving", daemon=True)
        if not feed.ends:
            self._thread.start()

    def reader(
        self, make: Callable[[SourceFrame], Made], has_room: Callable[[float], bool] = always
    ) -> OnDemand[ReceivedFrame, Made]:
        """Iterates over ``make(frame)`` of the newest frames, as ``OnDemand`` does; to be called once."""
        if self._thread.ident is None:
            self._thread.start()
        return OnDemand(self._newest, lambda received: make(self._frame(received)), has_room)

    def _receive(self) -> None:
        has_put = False
        try:
            for received in self.reception:
                if has_put and time.monotonic() - received.arrival.at > STALE_SECONDS:
                    continue
                has_put = True
                self._newest.put(received, 0.0 if self.reception.clock.is_settled else QUEUED_SECONDS)
        except BaseException as error:  # raised where frames are taken
            self._newest.end(error)
        else:
            self._newest.end()


def received(connect: Callable[[], Feed], live: bool | None, retries: int) -> ReceivedSource:
    """The source of the feeds that ``connect`` makes; ``live`` is by default whether they have no end.

    A recording that is read live is played at its own pace. Raises what the first ``connect()`` raises.
    """
    feed = connect()
    if live is None:
        live = not feed.ends
    if live and feed.ends:
        return played(ReceivedSource(feed, connect, retries))
    return (LiveSource if live else ReceivedSource)(feed, connect, retries)


def played(source: FrameSource) -> LiveSource:
    """A recording as if it came from a camera."""
    feed = Playback(source)
    return LiveSource(feed, lambda: feed, retries=0)
