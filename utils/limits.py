"""How large inputs may be. Checked before they are decoded or unpacked, so that no small file takes all memory."""

from utils.sizes import format_size

MAX_PIXELS = 50_000_000  # of an image, and of a frame of a video, a stream of which takes up to 3.4 GB
MAX_SCANNED = 4_000_000_000  # pixels of a JPEG times the scans that refine them, each of which visits all of them
# What a file of tensors may unpack to: so many times its own size, or so many bytes if that is more.
UNPACKED_TIMES, UNPACKED_BYTES = 4, 256 << 20
AT_MOST = f"pixels; at most {MAX_PIXELS // 1_000_000} million are read (Cityscapes: 2048x1024)"
QUEUED_BYTES = 128 << 20  # of what waits between two threads; one item may always wait


def too_many_pixels(height: int, width: int) -> str:
    """What is wrong with an image of that size; empty where it is not too large."""
    return "" if height * width <= MAX_PIXELS else f"{format_size((width, height))} (width x height) {AT_MOST}"


def unpacks_to_too_much(size: int, unpacked: int) -> str:
    """What is wrong with a file of ``size`` bytes that unpacks to so many; empty where that is not too much."""
    if unpacked <= max(UNPACKED_BYTES, UNPACKED_TIMES * size):
        return ""
    return f"its {size / 1e6:.1f} MB would unpack to {unpacked / 1e6:.0f} MB: expected the size of a network's numbers"
