"""Signals as exceptions, so that what is open is closed on the way out."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
