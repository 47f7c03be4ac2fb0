"""Small videos and folders of frames to be streamed, and what a video holds."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def moving_blocks(count: int, height: int = 48, width: int = 96) -> list[np.ndarray]:
    """Frames of coarse color blocks that move by a pixel a frame."""
    blocks = np.random.RandomState(3).randint(0, 256, (height // 8 + 2, width // 8 + 9, 3)).astype(np.uint8)
    scene = blocks.repeat(8, 0).repeat(8, 1)
    return [scene[:height, t % 64 : t % 64 + width].copy() for t in range(count)]


def write_video(
    path: Path,
    frames: list[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options=None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=codec_options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_timed_video(path: Path, seconds: list[float], frames: list[np.ndarray] | None = None) -> Path:
    """A video whose frames are shown at these moments."""
    frames = moving_blocks(len(seconds)) if frames is None else frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for moment, image in zip(seconds, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * moment), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_folder(path: Path, frames: list[np.ndarray], ending: str = ".png") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(path / f"frame_{number}{ending}"), frame[..., ::-1])
    return path


def read_video(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
