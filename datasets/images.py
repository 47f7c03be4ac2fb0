"""Frames from files, at the working resolution: decoding and resizing.

Frames are decoded by OpenCV and resized by torch, which computes what Pillow's BILINEAR does (its antialiased resize of
uint8 is the same filter in the same fixed-point numbers): the published weights were trained on that. The choice comes
from measurement, ``python -m datasets.images FOLDER`` repeats it. torchvision decodes as fast, but a PNG with one wrong
byte ends the whole process there (a segmentation fault); OpenCV reports it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.clips import Frame, VideoFrame
from datasets.image_files import FORMATS, check_pixels, content, damaged, opened
from utils.command import height_x_width, module_parser, run_command, run_program, whole_number
from utils.errors import DataError
from utils.modules import check_importable
from utils.resize import resize_frames
from utils.sizes import format_size
from utils.system_files import is_visible

# The workers of a loader share the processors already; threads of OpenCV on top of them only get in each other's way.
cv2.setNumThreads(0)


def image_size(path: str | Frame) -> tuple[int, int]:
    """Height and width of an image, from its header alone, or of a frame of a video.

    Raises DataError where the file is no image or of more than MAX_PIXELS, its child UnreachableError where it is
    missing or its file system does not answer; so do the other readers here.
    """
    if isinstance(path, VideoFrame):
        return _videos().video_frame_size(path)
    with opened(path) as image:
        return image.height, image.width


def read_frame(path: str | Frame, size: tuple[int, int]) -> Tensor:
    """Reads a frame from an image or a video file, resized as Pillow's BILINEAR filter does.

    Returns RGB, uint8 3 x H x W with ``size = (H, W)``. Gray, palette and 16-bit files become RGB of 8 bits;
    orientation tags are ignored, as the labels have none. A JPEG has no checksum: its pixels are taken as decoded.
    Raises DataError where the file is missing, damaged or too large.
    """
    if isinstance(path, VideoFrame):
        return _resized(_videos().video_frame(path), size)
    return _resized(_decoded_frame(path), size)


def _videos() -> ModuleType:
    check_importable("av", "frames of video files need PyAV", "pip install av, or give the frames as images")
    from datasets import video_frames  # here, as images are read without PyAV

    return video_frames


def read_picture(path: str | Path) -> Tensor:
    """Reads an image in its own size, rotated by its orientation tag as viewers do: RGB, uint8 3 x H x W.

    Raises what ``read_frame`` does.
    """
    return _decoded_frame(path, upright=True)


def _decoded_frame(path: str | Path, upright: bool = False) -> Tensor:
    """The frame as in the file, with ``upright`` rotated by its orientation tag.

    RGB, uint8 3 x H x W, a view of H x W x 3.
    """
    with opened(path) as image:
        check_pixels(path, image)
        data = content(path, image)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION))
    except cv2.error as error:
        raise damaged(path, error.err) from error
    if pixels is None:
        raise damaged(path, "its content cannot be decoded")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _resized(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """The frame at that size, its three planes one after the other in memory."""
    return resize_frames(frame[None], size)[0].contiguous()


def _benchmark(folder: Path, size: tuple[int, int], count: int) -> None:
    """Prints frames per second, from file to resized tensor in one thread, of each way to decode and to resize."""
    import io
    import itertools
    import time

    from torchvision.io import ImageReadMode, decode_image

    torch.set_num_threads(1)
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg") and is_visible(p.name))[:count]
    if not paths:
        raise DataError(f"no .png or .jpg below {folder}: name a folder with frames, such as data/cityscapes")
    contents: dict[str, list[bytes]] = {"PNG": [], "JPEG": []}
    for kind, path in itertools.product(contents, paths):
        Image.open(path, formats=FORMATS).convert("RGB").save(buffer := io.BytesIO(), kind, quality=90)
        contents[kind].append(buffer.getvalue())

    def opencv(data: bytes) -> Tensor:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def pillow(data: bytes) -> Tensor:
        return torch.from_numpy(np.array(Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB"))).permute(2, 0, 1)

    def torchvision(data: bytes) -> Tensor:
        return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)

    def pillow_resize(frame: Tensor) -> Tensor:
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        resized = image.resize(size[::-1], Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()

    def seconds_per_frame(
        frames: list[bytes], decode: Callable[[bytes], Tensor], resize: Callable[[Tensor], Tensor]
    ) -> float:
        start = time.perf_counter()
        for data in frames:
            resize(decode(data))
        return (time.perf_counter() - start) / len(frames)

    print(f"{len(paths)} frames, resized to {format_size(size)}: frames per second in one thread")
    for kind, frames in contents.items():
        for decode in (opencv, pillow, torchvision):
            for label, resize in (("torch", lambda frame: _resized(frame, size)), ("pillow", pillow_resize)):
                best = min(seconds_per_frame(frames, decode, resize) for _ in range(3))
                print(f"{kind:5s} decode {decode.__name__:12s} resize {label:7s} {1 / best:7.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures how fast frames are decoded and resized; returns the exit status."""
    parser = module_parser("datasets.images", "Measure how fast frames are decoded and resized.")
    parser.add_argument("folder", type=Path, help="searched for .png and .jpg files, subfolders included")
    parser.add_argument("--size", type=height_x_width, default=(512, 1024), metavar="HxW", help="resize to (512x1024)")
    parser.add_argument("--count", type=whole_number(1), default=6, metavar="N", help="files to take (6)")
    return run_command(parser, argv, lambda options: _benchmark(options.folder, options.size, options.count))


if __name__ == "__main__":
    run_program(main)
