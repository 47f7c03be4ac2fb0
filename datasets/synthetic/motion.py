"""Ground-truth motion in a set of clips, from their streets, which are built again."""

from pathlib import Path

import numpy as np

from .camera import moved
from .disk import clip_seed, described_clips
from .options import StreetOptions
from .scene import street


def clip_motion(options: StreetOptions, seed: int) -> np.ndarray:
    """Length of the optical flow into a clip's last frame from the one before, H x W float32 in pixels.

    Zeros in a clip of one frame; NaN where a point was behind the earlier camera.
    """
    last = options.length - 1
    if last == 0:
        return np.zeros((options.height, options.width), np.float32)
    scene = street(options, seed)
    now, before = (scene.path.camera(options, time) for time in (last, last - 1))
    return moved(scene.surfaces, now, before, last)


def median_motion(out: Path | str) -> float:
    """Median of ``clip_motion`` over a folder's validation clips, in pixels per frame.

    Raises DataError for a folder without street clips.
    """
    options, clips = described_clips(out)
    return float(np.nanmedian([clip_motion(options, clip_seed("val", clip)) for clip in range(clips["val"])]))
