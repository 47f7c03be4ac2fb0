"""Checkpoints written in a background thread, and requests to stop a training."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from engine.run_folder import EpochRow, RunFolder
from utils import distributed
from utils.errors import IncompleteError, TrainingError
from utils.signals import NotedSigterm

log = logging.getLogger(__name__)


class Saver:
    """Writes the files of a training in a background thread, one set at a time, on rank 0 only.

    A set that cannot be written is logged and superseded by the next one; existing files stay. ``spent_seconds`` is the
    time that the training's own thread has spent within ``counted``.
    """

    def __init__(self, folder: RunFolder):
        self.folder, self.spent_seconds = folder, 0.0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._best: tuple[EpochRow, dict] | None = None  # the best epoch, until it is written
        self._lost: list[int] = []  # epochs whose weights were to be kept and could not be written

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Context whose duration is added to ``spent_seconds``."""
        start = time.perf_counter()
        yield
        self.spent_seconds += time.perf_counter() - start

    def save_step(self, content: dict) -> None:
        """Writes a checkpoint in the middle of an epoch."""
        self._submit(lambda: self._write(content, [], None))

    def save_epoch(self, content: dict, rows: list[EpochRow], best: EpochRow, keep_weights: bool) -> None:
        """Writes log and checkpoint, and the files of the best epoch where that is the last of ``rows``."""
        self.wait()
        if best is rows[-1]:
            self._best = best, content
        kept = rows[-1].epoch if keep_weights else None
        written_rows = list(rows)
        self._submit(lambda: self._write(content, written_rows, kept))

    def finish(self) -> None:
        """Waits for the last set.

        Raises ``TrainingError`` where it could not be written, ``IncompleteError`` where weights of an epoch that were
        to be kept could not.
        """
        self.wait()
        if self._error is not None:
            raise TrainingError(
                f"{self.folder.path}: the last checkpoint could not be written ({self._error.strerror or self._error}):"
                " expected free space on the disk; free some, then go on from the one before it with --resume"
            ) from self._error
        if self._lost:
            epochs = ", ".join(map(str, self._lost))
            raise IncompleteError(
                f"{self.folder.path}: the training is complete, but the weights of epoch {epochs} could not be written"
            )

    def wait(self) -> None:
        """Waits until the set that is being written is complete, or has failed."""
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
        if keep_weights_of is not None:
            self._lost.append(keep_weights_of)  # until they are there
        # The checkpoint is last: a training killed in between resumes before this set and writes all of it again.
        if self._best is not None:
            row, best_content = self._best
            self.folder.save_best(row, best_content)
            self._best = None
        if keep_weights_of is not None:
            self.folder.save_epoch_weights(keep_weights_of, content)
            self._lost.remove(keep_weights_of)
        if rows:
            self.folder.write_log(rows)
        self.folder.save_checkpoint(content)


class StopRequest(NotedSigterm):
    """Defers SIGTERM to the next ``of_any``, in which all processes agree to stop."""

    def of_any(self) -> bool:
        """Whether any process received SIGTERM; a collective: all processes must call it."""
        return bool(distributed.all_reduce_sum(torch.tensor(float(self.noted))) > 0)
