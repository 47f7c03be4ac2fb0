"""What sends frames at its own pace: a camera, a network stream, or a recording that is played."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from engine.streaming.display import Display
from engine.streaming.sources.source import FrameSource, SourceFrame


class Arrival(NamedTuple):
    """A frame that arrived at a moment by ``time.monotonic``; ``image()`` returns it as RGB uint8 ``H W 3``.

    ``seconds`` is the sender's time stamp, ``None`` where it has none, ``name`` the frame's own name, if it has one,
    ``display`` how its pixels are shown.
    """

    image: Callable[[], np.ndarray]
    seconds: float | None
    at: float
    name: str = ""
    display: Display = Display()


class Feed(Protocol):
    """One connection to a sender; ``names`` are as in ``FrameSource``, ``ends`` tells that it is a recording.

    ``damaged`` counts the frames that could not be decoded.
    """

    @property
    def names(self) -> Iterable[str]: ...

    @property
    def description(self) -> str: ...

    @property
    def fps(self) -> float: ...

    @property
    def count(self) -> int | None: ...

    @property
    def ends(self) -> bool: ...

    @property
    def damaged(self) -> int: ...

    def arrivals(self, stopped: threading.Event) -> Iterator[Arrival]:
        """Frames as they arrive, until the sender ends or ``stopped`` is set; the connection is closed then.

        Raises ``ConnectionError`` where the connection is lost.
        """
        ...


class Playback:
    """A recording, played at its own pace as if it came from a camera."""

    ends, damaged = True, 0

    def __init__(self, source: FrameSource):
        self._source = source
        self.description, self.fps = f"{source.description}, played at its pace", source.fps
        self.count, self.names = source.count, source.names

    def arrivals(self, stopped: threading.Event) -> Iterator[Arrival]:
        return paced(map(_arrival, self._source), stopped)


def _arrival(frame: SourceFrame) -> Arrival:
    return Arrival(lambda: frame.image, frame.seconds, time.monotonic(), frame.name, frame.display)


def paced(arrivals: Iterable[Arrival], stopped: threading.Event) -> Iterator[Arrival]:
    """The arrivals, each when it is due by its time stamp; where one is late, those after it wait for as long."""
    start = -float("inf")
    for arrival in arrivals:
        if arrival.seconds is None:
            yield arrival
            continue
        start = max(start, arrival.at - arrival.seconds)
        due = start + arrival.seconds
        if stopped.wait(max(0.0, due - time.monotonic())):
            return
        yield arrival._replace(at=due)
