"""Signals as exceptions, so that what is open is closed on the way out."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from utils.errors import StoppedError


@contextmanager
def ended_by_sigterm(what_is_kept: str) -> Iterator[None]:
    """SIGTERM raises ``StoppedError`` inside, as Ctrl-C raises ``KeyboardInterrupt``; in the main thread only."""

    def stop(*_: object) -> None:
        raise StoppedError(what_is_kept)

    if threading.current_thread() is not threading.main_thread():  # no other one may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class NotedSignals:
    """Inside, SIGINT and SIGTERM wait until ``raise_noted`` is called; a second one acts at once.

    An exception that a handler raises between any two steps of Python can leave a queue's lock taken for ever, and then
    the thread at its other end never ends.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other one may handle signals
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.raise_noted()

    def raise_noted(self) -> None:
        """Does what the signal that came, if any, would have done at once."""
        if self._noted is not None:
            self._act(self._noted, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None:
            self._act(number, frame)
        self._noted = number

    def _act(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, before)
            signal.raise_signal(number)
