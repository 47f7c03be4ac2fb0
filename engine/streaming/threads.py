"""Pipelines of threads with bounded queues between them, so that the slowest stage sets the pace.

An error of a thread is raised where its results are used, and a thread never outlives the one that started it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

DEPTH = 3  # items in a queue: enough to smooth the pace, few enough for the memory
REMEMBERED = 1000  # durations that are kept for medians, so that memory is bounded in an endless stream
PATIENCE = 0.1  # seconds between two checks of whether the other side still runs
_END = object()


class Prefetched(Iterable[Made], Generic[Item, Made]):
    """``make(item)`` of each item, computed ahead by one thread; ``milliseconds`` holds the duration of each."""

    def __init__(self, items: Iterable[Item], make: Callable[[Item], Made], depth: int = DEPTH):
        self.milliseconds: deque[float] = deque(maxlen=REMEMBERED)
        self.while_waiting: Callable[[], None] = lambda: None  # called every ``PATIENCE`` seconds; may raise
        self._items, self._make = items, make
        self._queue: Queue = Queue(depth)
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="reading", daemon=True)

    def __iter__(self) -> Iterator[Made]:
        self._thread.start()
        while (made := self._next()) is not _END:
            yield made
        if self._error is not None:
            raise self._error

    def _next(self) -> Made:
        while True:
            try:
                return self._queue.get(timeout=PATIENCE)
            except Empty:
                self.while_waiting()

    def stop(self) -> None:
        """Ends the thread; results that were not taken are dropped."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            items = iter(self._items)
            while True:
                start = time.perf_counter()
                try:
                    made = self._make(next(items))
                except StopIteration:
                    break
                self.milliseconds.append(1000 * (time.perf_counter() - start))
                if not _put(self._queue, made, self._stopped):
                    break
        except BaseException as error:  # raised in __iter__
            self._error = error
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()  # releases files and cameras in the thread that used them
            _put(self._queue, _END, self._stopped)


class Background(Generic[Item]):
    """Calls ``work`` for each item that is put, in order, in a thread of its own."""

    def __init__(self, work: Callable[[Item], None], name: str, depth: int = DEPTH):
        self.name = name
        self.milliseconds: deque[float] = deque(maxlen=REMEMBERED)
        self._work = work
        self._queue: Queue = Queue(depth)
        self._failed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        return self._failed.is_set()

    def put(self, item: Item) -> None:
        """Enqueues an item, as soon as there is room; raises the error of an earlier one."""
        if not _put(self._queue, item, self._failed):
            self._raise()

    def finish(self) -> None:
        """Waits for all items; raises the error of the work, if any."""
        _put(self._queue, _END, self._failed)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not _END:
                start = time.perf_counter()
                self._work(item)
                self.milliseconds.append(1000 * (time.perf_counter() - start))
        except BaseException as error:  # raised in put or finish
            self._error = error
            self._failed.set()


def _put(queue: Queue, item: object, ended: threading.Event) -> bool:
    """Enqueues an item as soon as there is room; False where the other side has ended."""
    while not ended.is_set():
        try:
            queue.put(item, timeout=PATIENCE)
            return True
        except Full:
            continue
    return False
