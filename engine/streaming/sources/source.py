"""What every source offers: frames in order, each with a name and its presentation time."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from engine.streaming.display import Display

DEFAULT_FPS = 17.0  # for sources that do not say theirs, such as image files: that of Cityscapes


class SourceFrame(NamedTuple):
    """A frame, RGB uint8 ``H W 3``, with a name that is unique in its source, and its presentation time.

    ``captured`` is when it was captured, or arrived here, by ``time.monotonic``; ``None`` for frames of a recording.
    ``after_gap`` is set where the source had gone away before it. ``duration`` is for how many seconds the frame is
    shown, where that is known; ``display`` how its pixels are.
    """

    name: str
    image: np.ndarray
    seconds: float
    captured: float | None = None
    after_gap: bool = False
    duration: float | None = None
    display: Display = Display()


class FrameSource(Protocol):
    """Frames in order. Iterating raises ``IncompleteError`` where the source is truncated, or at its end where damaged
    frames were left out."""

    @property
    def description(self) -> str:
        """The source as text, for messages and ``stream.json``."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second."""
        ...

    @property
    def count(self) -> int | None:
        """Expected number of frames; ``None`` where it is unknown."""
        ...

    @property
    def names(self) -> Iterable[str]:
        """Names of its frames, as far as they are known before they are read; else one that is as long as any."""
        ...

    def __iter__(self) -> Iterator[SourceFrame]: ...
