"""Signals: raised as exceptions, noted, held back or left to the parent process."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Self

from utils.errors import StoppedError

# What ``signal.signal`` takes and returns: None stands for a handler that Python did not set.
Handler = Callable[[int, FrameType | None], object] | int | None

PATIENCE_SECONDS = 5.0


class FirstInterrupt:
    """A handler of SIGINT: the first one raises ``KeyboardInterrupt``, others do nothing, as the program is ending."""

    def __init__(self) -> None:
        self._came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._came:
            self._came = True
            raise KeyboardInterrupt


@contextmanager
def ended_by_sigterm(what_is_kept: str) -> Iterator[None]:
    """Context in which SIGTERM raises ``StoppedError``, as Ctrl-C raises ``KeyboardInterrupt``; main thread only."""

    def stop(*_: object) -> None:
        raise StoppedError(what_is_kept)

    before = _answer((signal.SIGTERM,), stop)
    try:
        yield
    finally:
        _restore(before)


class NotedSigterm:
    """Inside, SIGTERM is noted instead of ending the process; in the main thread only."""

    def __init__(self) -> None:
        self.noted = False
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        self._before = _answer((signal.SIGTERM,), self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._before)

    def _note(self, *_: object) -> None:
        self.noted = True


class NotedSignals:
    """Context in which SIGINT and SIGTERM wait until ``raise_noted`` is called, or for its end; the first one counts.

    An exception that a handler raises between two bytecodes can leave a queue's lock taken for ever, and then the
    thread at its other end never ends.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._since = 0.0
        self.insists = False  # whether another signal came PATIENCE_SECONDS after the first: what waits should give up
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        self._before = _answer((signal.SIGINT, signal.SIGTERM), self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _restore(self._before)
        if kind is None:
            self.raise_noted()

    def raise_noted(self) -> None:
        """Handles the deferred signal, if any, as if it arrived now."""
        if self._noted is not None:
            self._act(self._noted, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is None:
            self._noted, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > PATIENCE_SECONDS:
            self.insists = True

    def _act(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, before)
            signal.raise_signal(number)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits until the end of this block; processes that start inside of it never get it.

    It reaches every process of a terminal: a loader's worker that dies of it while it starts looks like a failure.
    """
    # The mask is for the processes that start: they inherit it. It does not hold back what this process receives, as
    # the kernel delivers that to any thread that does not block it, whereupon Python calls the handler in the main one.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    held_back: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    replaced = callable(handler) and threading.current_thread() is threading.main_thread()
    if replaced:
        signal.signal(signal.SIGINT, lambda number, frame: held_back.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if replaced:
            signal.signal(signal.SIGINT, handler)
        if held_back and callable(handler):
            handler(held_back[0], None)


def leave_interrupts_to_parent(*_: object) -> None:
    """For the start of a worker: Ctrl-C reaches the whole process group; only the main process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave_signals_to_parent(*_: object) -> None:
    """For the start of a worker that is needed until the main process has answered SIGTERM, and Ctrl-C, itself."""
    leave_interrupts_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _answer(numbers: Sequence[int], handler: Handler) -> dict[int, Handler]:
    """Has these signals answered by ``handler`` and returns what answered them before, for ``_restore``.

    Outside of the main thread, which alone may handle signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(before: dict[int, Handler]) -> None:
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)
