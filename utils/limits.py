"""How large inputs may be. Checked before they are decoded or unpacked, so that no small file takes all memory."""

from utils.sizes import format_size

# Of an image, and of a frame of a video: with every output, a stream of the largest takes about 2 GB.
MAX_PIXELS = 50_000_000
MAX_DECODED_BYTES = 200_000_000  # of a frame of a video as its decoder keeps several: 8K in 4:4:4 with 10 bits
MAX_SCANNED = 4_000_000_000  # pixels of a JPEG times the scans that refine them, each of which visits all of them
# What a file of tensors may unpack to: so many times its own size, or so many bytes if that is more.
UNPACKED_TIMES, UNPACKED_BYTES = 4, 256 << 20
AT_MOST = f"pixels; at most {MAX_PIXELS // 1_000_000} million are read (Cityscapes: 2048x1024)"
# Of the frames of a stream between decoder and output; one frame of any size is always let through. Two of 8192x4320
# fit, so that one is decoded while the other is written; of those below MAX_PIXELS the largest go one by one.
BYTES_IN_FLIGHT = 288 << 20
DECODER_BYTES = 128 << 20  # of the frames that a decoder's threads work at, in addition to those it refers to


def too_many_pixels(height: int, width: int) -> str:
    """What is wrong with an image of that size; empty where it is not too large."""
    return "" if height * width <= MAX_PIXELS else f"{format_size((width, height))} (width x height) {AT_MOST}"


def unpacks_to_too_much(size: int, unpacked: int) -> str:
    """What is wrong with a file of ``size`` bytes that unpacks to so many; empty where that is not too much."""
    if unpacked <= max(UNPACKED_BYTES, UNPACKED_TIMES * size):
        return ""
    return f"its {size / 1e6:.1f} MB would unpack to {unpacked / 1e6:.0f} MB: expected the size of a network's numbers"
