"""Checkpoints written while training goes on, and the wish to stop."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import torch

from engine.run_folder import EpochRow, RunFolder
from utils import distributed
from utils.errors import TrainingError

log = logging.getLogger(__name__)


class Saver:
    """Writes the files of a training in the background, one set at a time; does nothing but in the first process.

    A set that cannot be written is said and tried again with the next one; the files that were there stay.
    ``spent_seconds`` counts what the training itself has spent on it, as far as it happens ``counted``.
    """

    def __init__(self, folder: RunFolder):
        self.folder, self.spent_seconds = folder, 0.0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._best: tuple[EpochRow, dict] | None = None  # the best epoch, until it is on disk

    @contextmanager
    def counted(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent_seconds += time.perf_counter() - start

    def save_step(self, content: dict) -> None:
        """A checkpoint in the middle of an epoch."""
        self._submit(lambda: self._write(content, [], None))

    def save_epoch(self, content: dict, rows: list[EpochRow], best: EpochRow, keep_weights: bool) -> None:
        """Log, checkpoint and, where the last epoch is the best so far, the files of the best one."""
        self.wait()
        if best is rows[-1]:
            self._best = best, content
        kept = rows[-1].epoch if keep_weights else None
        written_rows = list(rows)
        self._submit(lambda: self._write(content, written_rows, kept))

    def finish(self) -> None:
        """Waits for the last set. Raises ``TrainingError`` where it could not be written."""
        self.wait()
        if self._error is not None:
            raise TrainingError(
                f"{self.folder.path}: the last checkpoint could not be written ({self._error.strerror or self._error}):"
                " expected room on the disk; make some, then go on from the one before it with --resume"
            ) from self._error

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _submit(self, write: Callable[[], None]) -> None:
        self.wait()
        if distributed.is_first():
            self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint")
            self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
            self._error = None
        except OSError as error:
            self._error = error
            log.warning(
                "%s: could not be written (%s): the last checkpoint stays, training goes on",
                error.filename or self.folder.path,
                error.strerror or error,
            )

    def _write(self, content: dict, rows: list[EpochRow], keep_weights_of: int | None) -> None:
        # The checkpoint comes last: what a process that is killed in between has not written, it will write again.
        if self._best is not None:
            row, best_content = self._best
            self.folder.save_best(row, best_content)
            self._best = None
        if keep_weights_of is not None:
            self.folder.save_epoch_weights(keep_weights_of, content["state_dict"])
        if rows:
            self.folder.write_log(rows)
        self.folder.save_checkpoint(content)


class StopRequest:
    """Notes SIGTERM instead of ending at once; all processes learn of it together."""

    def __init__(self) -> None:
        self.noted = False
        self._before: object = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def of_any(self) -> bool:
        """Whether any of the processes was asked to stop; to be called by all at once."""
        return bool(distributed.all_reduce_sum(torch.tensor(float(self.noted))) > 0)

    def _note(self, *_: object) -> None:
        self.noted = True
