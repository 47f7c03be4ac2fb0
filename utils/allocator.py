"""Settings of the C library's allocator for programs that allocate the same large blocks again and again."""

import contextlib
import ctypes
from collections.abc import Iterator

# Of glibc's malloc.h; with a M_TOP_PAD a long stream grew by 2 KB a frame.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
RETURNED = ((M_MMAP_MAX, 2**16), (M_MMAP_THRESHOLD, 2**16))


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory instead of returning it to the system and requesting it again at every frame.

    Fresh pages cost a page fault each, 10,000 for the logits of one frame of 512x1024. Returns whether it could be set:
    with another C library nothing changes.
    """
    return _set(KEPT)


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Meanwhile blocks of 64 KB and more come from the system and go back to it, so that what is resident is what is in
    use; afterwards freed memory is kept. With another C library nothing changes.
    """
    if _set(RETURNED):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        yield
    finally:
        _set(KEPT)


def _set(values: tuple[tuple[int, int], ...]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(*pair) for pair in values)
