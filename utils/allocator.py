"""Settings of the C library's allocator for programs that allocate the same large blocks again and again."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h; with a M_TOP_PAD a long stream grew by 2 KB a frame


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory instead of returning it to the system and requesting it again at every frame.

    Fresh pages cost a page fault each, 10,000 for the logits of one frame of 512x1024. Returns whether it could be set:
    with another C library nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(*pair) for pair in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)))
