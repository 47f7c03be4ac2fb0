"""Standard output and error that a closed reader does not break: what goes to them is lost, the work goes on."""

import errno
import io
import os
import sys
from typing import Any, TextIO

_STDOUT, _STDERR = 1, 2


def keep_standard_streams() -> None:
    """Has standard output and error take what is printed, whatever became of their readers; for a program's start.

    One that was closed before the start becomes the null device, so that no file that is opened gets its number, to
    which libraries print. Text that its encoding lacks is escaped.
    """
    for number in range(3):
        _open_if_closed(number)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = _lasting(sys.stdout, _STDOUT), _lasting(sys.stderr, _STDERR)


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        _redirect_to_null(number)


def _redirect_to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    """The stream with a file below it that outlasts its reader; a stream that is a test's stays as it is."""
    if stream is not None and stream is not (sys.__stdout__, sys.__stderr__)[number - 1]:
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_LastingFile(number, "w", closefd=False)),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=number == _STDERR or (stream is not None and stream.line_buffering),
    )


class _LastingFile(io.FileIO):
    """A file of which the first error of writing is the last: from then on it is the null device."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _redirect_to_null(self.fileno())
            if self.fileno() == _STDOUT and error.errno not in (errno.EPIPE, errno.ECONNRESET):
                print(f"standard output cannot be written: {error.strerror}; the work goes on", file=sys.stderr)
            return memoryview(data).nbytes
