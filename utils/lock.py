"""One process at a time for a folder."""

import fcntl
import json
import logging
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Self

from utils.errors import OptionError

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"


class FolderLock:
    """Held while a run writes to a folder; the file in it names the process that holds it.

    The kernel lets go of it when its process ends, in whatever way; processes that were forked off do not hold it on.
    Raises ``OptionError`` with the process named where another one holds it for longer than ``patience`` seconds.
    """

    def __init__(self, folder: Path, option: str, patience: float = 0.0):
        self.path, self.option, self.patience = folder / LOCK_FILE, option, patience
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self.patience
        while (descriptor := self._taken()) is None:
            if time.monotonic() >= deadline:
                raise OptionError(
                    f"{self.option} {self.path.parent}: in use by {self._holder()}: wait for its end, stop it, or give "
                    f"another {self.option}"
                )
            time.sleep(0.2)
        stale = os.read(descriptor, 4096)
        if stale:
            log.info("%s: %s did not end by itself", self.path.parent, _described(stale))
        os.ftruncate(descriptor, 0)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _taken(self) -> int | None:
        """The lock file's descriptor with the lock on it, or None where another process has it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed by its last holder between the two calls.
            if os.fstat(descriptor).st_ino == os.stat(self.path).st_ino:
                return descriptor
        except (BlockingIOError, PermissionError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def _holder(self) -> str:
        try:
            return _described(self.path.read_bytes())
        except OSError:
            return "another run"


def _described(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (ValueError, KeyError, TypeError):
        return "another run"
