"""Settings of the C library's allocator for programs that allocate the same large blocks again and again."""

import ctypes

# Of glibc's malloc.h; with a M_TOP_PAD a long stream grew by 2 KB a frame.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
RETURNED = ((M_MMAP_MAX, 2**16), (M_MMAP_THRESHOLD, 2**16))
LARGE_RETURNED = ((M_MMAP_MAX, 2**16), (M_MMAP_THRESHOLD, 48_000_000))
LARGE_PIXELS = 16_000_000  # of a frame


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory instead of returning it to the system and requesting it again at every frame.

    Fresh pages cost a page fault each, 10,000 for the logits of one frame of 512x1024. Returns whether it could be set:
    with another C library nothing changes.
    """
    return _set(KEPT)


def return_freed_memory() -> bool:
    """Lets blocks of 64 KB and more come from the system and go back to it: what is resident is what is in use.

    To be called before much was allocated, as freed blocks of before are taken first. Returns whether it could be set.
    """
    return _set(RETURNED)


def make_room(height: int, width: int) -> None:
    """Prepares for work on a frame of that size: for a large one, free memory is returned to the system after all.

    What is kept leaves gaps where the next large block does not fit, and other threads do not use it. A network's
    blocks are seldom as large, and beside the decoding of such a frame the page faults take little time.
    """
    if height * width < LARGE_PIXELS or not _set(LARGE_RETURNED):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(values: tuple[tuple[int, int], ...]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(*pair) for pair in values)
