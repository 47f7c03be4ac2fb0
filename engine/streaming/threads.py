"""Pipelines of threads with bounded queues between them: the slowest stage sets the pace.

An error of a thread is raised in the thread that uses its results.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

from utils.errors import IncompleteError
from utils.signals import NotedSignals

Item = TypeVar("Item")
Made = TypeVar("Made")

DEPTH = 3  # items in a queue: enough to smooth the pace, and little memory
REMEMBERED = 1000  # latest durations that are kept for medians: bounded, as a stream may be endless
POLL_SECONDS = 0.1  # seconds between two checks of whether the other thread still runs
GRACE_SECONDS = 0.5  # for a thread that is to end: one that still waits for its source then is left behind


class GivenUpError(IncompleteError):
    """A thread was no longer waited for."""


def always(seconds: float) -> bool:
    """That there is room, without waiting."""
    return True


class _End:
    """Marks the end of a queue."""


_END = _End()


class Prefetched(Iterable[Made], Generic[Item, Made]):
    """Iterates over ``make(item)`` for each item, computed ahead by one thread.

    ``milliseconds`` are the latest durations of ``make`` and of reading its item; ``while_waiting`` is called every
    ``POLL_SECONDS`` seconds without a result, and may raise. An item is read once ``has_room(seconds)``, which waits
    for so long at most, says that there is room for what is made of it.
    """

    def __init__(
        self,
        items: Iterable[Item],
        make: Callable[[Item], Made],
        depth: int = DEPTH,
        has_room: Callable[[float], bool] = always,
    ):
        self.milliseconds: deque[float] = deque(maxlen=REMEMBERED)
        self.while_waiting: Callable[[], None] = lambda: None
        self._items, self._make, self._has_room = items, make, has_room
        self._queue: Queue[Made | _End] = Queue(depth)
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="reading", daemon=True)

    def __iter__(self) -> Iterator[Made]:
        self._thread.start()
        while not isinstance(made := self._next(), _End):
            yield made
            del made  # before the next one is waited for: it may be large
        if self._error is not None:
            raise self._error

    def _next(self) -> Made | _End:
        while True:
            try:
                return self._queue.get(timeout=POLL_SECONDS)
            except Empty:
                self.while_waiting()

    def stop(self) -> None:
        """Ends the thread; remaining results are dropped. A thread that waits for its source is not waited for."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(GRACE_SECONDS)

    def _run(self) -> None:
        try:
            items = iter(self._items)
            while self._waited_for_room():
                start = time.perf_counter()
                try:
                    made = self._make(next(items))
                except StopIteration:
                    break
                self.milliseconds.append(1000 * (time.perf_counter() - start))
                if not _put(self._queue, made, self._stopped.is_set):
                    break
                del made
        except BaseException as error:  # raised in __iter__
            self._error = error
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()  # releases files and cameras in the thread that used them
            _put(self._queue, _END, self._stopped.is_set)

    def _waited_for_room(self) -> bool:
        """Waits for room; returns ``False`` where the thread is stopped before."""
        while not self._stopped.is_set():
            if self._has_room(POLL_SECONDS):
                return True
        return False


class Newest(Generic[Item]):
    """Holds the newest item that a thread puts for another one, which takes each once at most; older ones are lost."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._not_before = 0.0
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: Item, wait_for_newer: float = 0.0) -> None:
        """Replaces the item; with ``wait_for_newer`` it is taken only if no other is put within so many seconds."""
        with self._changed:
            self._item, self._not_before = item, time.monotonic() + wait_for_newer
            self._changed.notify()

    def end(self, error: BaseException | None = None) -> None:
        """Says that no item follows; ``error`` is raised in the other thread once it has taken the last one."""
        with self._changed:
            self._ended, self._error, self._not_before = True, error, 0.0
            self._changed.notify()

    def take(self, seconds: float) -> Item | _End | None:
        """Returns the item, or ``None`` where there is none within so many seconds, or ``_END`` after the last."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                now = time.monotonic()
                if self._item is not None and now >= self._not_before:
                    item, self._item = self._item, None
                    return item
                if self._ended and self._error is not None:
                    raise self._error
                if self._ended or now >= deadline:
                    return _END if self._ended else None
                self._changed.wait((deadline if self._item is None else min(deadline, self._not_before)) - now)


class OnDemand(Iterable[Made], Generic[Item, Made]):
    """Iterates over ``make(item)`` for the newest item, computed when it is asked for: nothing waits in a queue.

    ``milliseconds`` are the latest durations of ``make``; ``while_waiting`` and ``has_room`` are as in ``Prefetched``.
    """

    def __init__(self, newest: Newest[Item], make: Callable[[Item], Made], has_room: Callable[[float], bool] = always):
        self.milliseconds: deque[float] = deque(maxlen=REMEMBERED)
        self.while_waiting: Callable[[], None] = lambda: None
        self._newest, self._make, self._has_room = newest, make, has_room

    def __iter__(self) -> Iterator[Made]:
        while True:
            item = self._newest.take(POLL_SECONDS) if self._has_room(POLL_SECONDS) else None
            if isinstance(item, _End):
                return
            if item is None:
                self.while_waiting()
                continue
            start = time.perf_counter()
            made = self._make(item)
            self.milliseconds.append(1000 * (time.perf_counter() - start))
            del item
            yield made
            del made

    def stop(self) -> None:
        """Does nothing: the thread that puts the items is not this one's."""


def interruptible(work: Callable[[], Made], seconds: float = math.inf) -> Made:
    """Returns ``work()``, computed in a thread of its own: Ctrl-C and SIGTERM act while ``work`` waits for a device.

    Raises ``TimeoutError`` where it takes longer than ``seconds``. The thread is then left behind, as after a signal.
    """
    deadline = time.monotonic() + seconds
    result = Prefetched((None,), lambda _: work(), depth=1)
    with NotedSignals() as signals:

        def check() -> None:
            signals.raise_noted()
            if time.monotonic() > deadline:
                raise TimeoutError

        result.while_waiting = check
        return next(iter(result))


class Background(Generic[Item]):
    """Calls ``work`` for each item, in order, in a thread of its own; ``milliseconds`` are the latest durations."""

    def __init__(self, work: Callable[[Item], None], name: str, depth: int = DEPTH):
        self.name = name
        self.milliseconds: deque[float] = deque(maxlen=REMEMBERED)
        self._work = work
        self._queue: Queue[Item | _End] = Queue(depth)
        self._failed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether ``work`` has raised."""
        return self._failed.is_set()

    def raise_failure(self) -> None:
        """Raises the error of ``work``, if any, once."""
        if self.failed:
            self._raise()

    def put(self, item: Item, gives_up: Callable[[], bool] = lambda: False) -> None:
        """Enqueues an item as soon as there is room; raises the error of an earlier item.

        ``gives_up`` is asked while there is no room; where it says so, ``GivenUpError`` is raised.
        """
        if not _put(self._queue, item, lambda: self.failed or gives_up()):
            self._raise()
            raise self._given_up()

    def finish(self, gives_up: Callable[[], bool] = lambda: False) -> None:
        """Waits for all items; raises the error of ``work``, if any.

        Raises ``GivenUpError`` where ``gives_up`` says so meanwhile; the thread is then left behind.
        """
        _put(self._queue, _END, lambda: self.failed or gives_up())
        while self._thread.is_alive():
            if gives_up():
                raise self._given_up()
            self._thread.join(POLL_SECONDS)
        self._raise()

    def _given_up(self) -> GivenUpError:
        return GivenUpError(f"{self.name} was not completed, as it took too long")

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            while not isinstance(item := self._queue.get(), _End):
                start = time.perf_counter()
                self._work(item)
                self.milliseconds.append(1000 * (time.perf_counter() - start))
                del item
        except BaseException as error:  # raised in put or finish
            self._error = error
            self._failed.set()


def _put(queue: Queue[Item | _End], item: Item | _End, has_ended: Callable[[], bool]) -> bool:
    """Enqueues an item as soon as there is room; returns ``False`` where ``has_ended`` says so before."""
    while not has_ended():
        try:
            queue.put(item, timeout=POLL_SECONDS)
            return True
        except Full:
            continue
    return False
