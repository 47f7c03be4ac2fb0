"""Retries of reads from files that are temporarily unavailable, as on a network file system."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from utils.errors import UnreachableError

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

FIRST_WAIT_SECONDS, WAIT_GROWTH, LONGEST_WAIT_SECONDS = 1.0, 4.0, 64.0


def seconds_before_retry(number: int) -> float:
    """How long is waited before the first, second, ... retry: 1, 4, 16, then 64 seconds each."""
    return min(FIRST_WAIT_SECONDS * WAIT_GROWTH ** min(number - 1, 10), LONGEST_WAIT_SECONDS)


def seconds_of_retries(retries: int) -> float:
    """How long is waited before all of so many retries together."""
    return sum(map(seconds_before_retry, range(1, retries + 1)))


class RetryPolicy:
    """Retries unavailable reads up to ``retries`` times, after 1, 4, 16, then 64 seconds; not so damaged content.

    All workers of a loader, forked or spawned, log the beginning and the end of an outage only once together.
    """

    def __init__(self, retries: int = 0) -> None:
        if retries < 0:
            raise ValueError(f"{retries} retries: expected 0 or more")
        self.retries = retries
        self._waiting = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def read(self, read: Callable[[], Read]) -> Read:
        """The result of ``read()``. Raises its ``UnreachableError`` after the last attempt, other errors at once."""
        start, failures = time.monotonic(), 0
        while True:
            try:
                content = read()
            except UnreachableError as error:
                if failures == self.retries:
                    raise
                self._log_wait(error)
                failures += 1
                time.sleep(seconds_before_retry(failures))
                continue
            if failures:
                self._log_recovery(time.monotonic() - start)
            return content

    def _log_wait(self, error: UnreachableError) -> None:
        if not self._waiting:
            self._waiting.fill_(1)
            logger.warning("%s; trying again, up to %d times", error, self.retries)

    def _log_recovery(self, seconds: float) -> None:
        if self._waiting:
            self._waiting.fill_(0)
            logger.warning("the data can be read again after %.0f s", seconds)
