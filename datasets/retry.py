"""Reading again what cannot be read for a while, as from a file system on the network that went away."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from utils.errors import UnreachableError

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

FIRST_WAIT_SECONDS, WAIT_GROWTH = 1.0, 4.0


class RetryPolicy:
    """Tries up to ``retries`` times again to read what is not there, after 1, 4, 16, ... seconds.

    Damaged content is not read again. However many workers of a loader wait, forked or spawned, one line says that
    they do, and one that it is over.
    """

    def __init__(self, retries: int = 0) -> None:
        if retries < 0:
            raise ValueError(f"{retries} retries: expected 0 or more")
        self.retries = retries
        self._waiting = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def read(self, read: Callable[[], Read]) -> Read:
        """What ``read()`` gives. Raises its ``UnreachableError`` where the last attempt fails too, and all other
        errors at once."""
        start, failures = time.monotonic(), 0
        while True:
            try:
                content = read()
            except UnreachableError as error:
                if failures == self.retries:
                    raise
                self._say_that_it_waits(error)
                time.sleep(FIRST_WAIT_SECONDS * WAIT_GROWTH**failures)
                failures += 1
                continue
            if failures:
                self._say_that_it_is_over(time.monotonic() - start)
            return content

    def _say_that_it_waits(self, error: UnreachableError) -> None:
        if not self._waiting:
            self._waiting.fill_(1)
            logger.warning("%s; trying again, up to %d times", error, self.retries)

    def _say_that_it_is_over(self, seconds: float) -> None:
        if self._waiting:
            self._waiting.fill_(0)
            logger.warning("the data can be read again after %.0f s", seconds)
