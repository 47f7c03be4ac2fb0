"""A lock on a folder, held by one process at a time."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from datetime import datetime
from pathlib import Path
from typing import Self

from utils.errors import OptionError
from utils.files import NOT_OFFERED, warn_once
from utils.json_text import from_json, to_json

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
# What opening says of a symbolic link, a folder and a socket.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP)
_TAKEN = (errno.EAGAIN, errno.EACCES)

# Own code although filelock exists: up to 3.20 it empties the file before it has the lock, so that the holder cannot be
# named, and processes that Python forked off hold it on; in 4.3.1 those that C code forked off still do, and the file
# stays. Locks of lockf belong to one process alone.


class FolderLock:
    """Held while a run writes to a folder; the lock file names the process that holds it.

    The kernel releases it when its process ends, in whatever way; forked processes do not keep it. On a file system
    without locks, which is warned of once, it keeps no other run out, and ``is_exclusive`` is False.
    Raises ``OptionError`` with the process named where another one holds it for longer than ``timeout`` seconds, and
    where the lock's name belongs to something else, such as a symbolic link, which is not followed.
    """

    def __init__(self, folder: Path, option: str, timeout: float = 0.0):
        self.path, self.option, self.timeout = folder / LOCK_FILE, option, timeout
        self.is_exclusive = True
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self.timeout
        while (descriptor := self._taken()) is None:
            if time.monotonic() >= deadline:
                raise OptionError(
                    f"{self.option} {self.path.parent}: in use by {self._holder()}: wait for its end, stop it, or pass "
                    f"another {self.option}"
                )
            time.sleep(0.2)
        stale = os.read(descriptor, 4096)
        if stale:
            log.info("%s: %s did not end by itself", self.path.parent, _described(stale))
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        with contextlib.suppress(OSError):  # a full disk: without its name the lock holds as well
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, to_json(holder, indent=None).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        assert self._descriptor is not None
        with contextlib.suppress(OSError):  # another run takes over what stays
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _taken(self) -> int | None:
        """The lock file's descriptor with the lock on it, or None where another process has it."""
        descriptor = self._opened()
        try:
            # The file may have been removed by its last holder between the two calls.
            if self._locked(descriptor) and os.path.samestat(os.fstat(descriptor), os.lstat(self.path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _locked(self, descriptor: int) -> bool:
        """Locks the file unless another process has; on a file system without locks there is nothing to wait for."""
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            if error.errno not in {errno.ENOLCK, *NOT_OFFERED}:
                raise
            self.is_exclusive = False
            warn_once(
                "locks",
                f"{self.option} {self.path.parent}: its file system offers no locks ({error.strerror}): going on, but "
                "nothing keeps another run out of this folder",
            )
        return True

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags, 0o644)
        except PermissionError as error:
            raise OptionError(
                f"{self.option} {self.path.parent}: its {LOCK_FILE} belongs to somebody else ({error.strerror}): "
                f"expected a folder of yours: give another {self.option}"
            ) from error
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
        else:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:  # 0: just removed by its holder
                return descriptor
            os.close(descriptor)
        raise OptionError(
            f"{self.option} {self.path.parent}: its {LOCK_FILE} is a link or something else that is no file: expected "
            f"the file of a run, or none: remove it, or give another {self.option}"
        )

    def _holder(self) -> str:
        try:
            return _described(self.path.read_bytes())
        except OSError:
            return "another run"


def _described(content: bytes) -> str:
    try:
        holder = from_json(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (ValueError, KeyError, TypeError):
        return "another run"
