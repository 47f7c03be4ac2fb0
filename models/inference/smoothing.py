"""Probabilities averaged over time, still or along the motion of the video: a steadier video without any training.

    average = weight * before + (1 - weight) * now

``before`` is the average up to the frame before; with ``flow`` it is taken from where each pixel was in that frame.
The weight falls to 0 where the optical flow finds no such place, or one that looks different, and where a scene begins.
Memory and time do not grow with the video.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models.choices import DEFAULT_SMOOTHING_WEIGHT, SMOOTHINGS
from utils.errors import OptionError
from utils.optical_flow import OpticalFlow, moved
from utils.scene_cuts import SceneCuts
from utils.sizes import FLOW_SIDE, format_size

FLOW = "flow"
REDUCED = 2  # sides of frames are divided by it for the flow, where they stay large enough
UNLIKE = 20.0  # gray levels: at this difference of two matched pixels, the past counts 1/e of its weight


@dataclass(frozen=True, eq=False)
class Motion:
    """How a frame follows the one before it; both ``None``: every pixel stays where it is.

    ``index`` is each pixel's place in the frame before, int32 ``[h w]``; ``trust`` tells from 0 to 1 whether it is the
    same thing there, float32 ``[h w, 1]``.
    """

    index: Tensor | None = None
    trust: Tensor | None = None


STILL = Motion()


class RunningAverage:
    """The average over time of one prediction's probabilities."""

    def __init__(self, weight: float):
        self.weight = weight
        self._before: Tensor | None = None  # h w K

    @torch.inference_mode()
    def update(self, logits: Tensor, motion: Motion | None) -> Tensor:
        """The probabilities ``K h w`` averaged up to the next frame, whose logits ``1 K h w`` are given.

        ``motion`` is that since the frame before; with ``None`` the average begins with this frame.
        """
        classes, height, width = logits.shape[1:]
        # The probabilities of a pixel lie side by side, so that one index moves all of them.
        average = logits[0].permute(1, 2, 0).reshape(-1, classes).float().softmax(1)
        if motion is not None and self._before is not None:
            before = self._before if motion.index is None else self._before.index_select(0, motion.index)
            average.lerp_(before, self.weight if motion.trust is None else self.weight * motion.trust)
        self._before = average
        return average.view(height, width, classes).permute(2, 0, 1)


class Smoother:
    """Smooths the predictions of one video: finds the motion from frame to frame, and averages along it.

    ``kind`` is one of ``SMOOTHINGS``, ``weight`` the share of the past, ``size`` height and width of the frames. Raises
    ``OptionError`` for another kind, for a weight that is not 0 or more and below 1, and for frames that are too small
    for optical flow.
    """

    def __init__(
        self, kind: str, weight: float | None, size: tuple[int, int], device: torch.device, detect_cuts: bool = True
    ):
        if kind not in SMOOTHINGS:
            raise OptionError(f"smooth is {kind!r}: expected one of {', '.join(SMOOTHINGS)}")
        self.kind, self.weight = kind, DEFAULT_SMOOTHING_WEIGHT[kind] if weight is None else weight
        if not 0 <= self.weight < 1:
            raise OptionError(f"smooth_weight is {weight}: expected 0 or more and below 1, for example 0.5")
        if kind == FLOW and max(size) < FLOW_SIDE:
            raise OptionError(
                f"smooth is {kind!r}, for which frames of {format_size(size)} are too small: expected a side of "
                f"{FLOW_SIDE} or more"
            )
        self._flow = OpticalFlow(fast=True) if kind == FLOW else None
        self._scale = REDUCED if max(size) >= REDUCED * FLOW_SIDE else 1
        self._device, self._detect_cuts = device, detect_cuts
        self.reset()

    def reset(self) -> None:
        """Starts another video."""
        self._average = self.new_average()
        self._cuts = SceneCuts() if self._detect_cuts else None
        self._gray: np.ndarray | None = None
        self._follows = False

    def new_average(self) -> RunningAverage:
        """An average for another prediction of the same video."""
        return RunningAverage(self.weight)

    def average(self, logits: Tensor, motion: Motion | None) -> Tensor:
        """The smoothed probabilities ``K h w`` of the next frame; see ``RunningAverage.update``."""
        return self._average.update(logits, motion)

    def motion(self, image: Tensor, size: tuple[int, int]) -> Motion | None:
        """The motion from the frame before to the next one, uint8 ``1 3 H W``, for predictions of ``size = (h, w)``.

        ``None`` at the first frame of a video or scene.
        """
        pixels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
        is_cut = self._cuts is not None and self._cuts.begins_scene(pixels)
        follows, self._follows = self._follows and not is_cut, True
        if self._flow is None:
            return STILL if follows else None
        before, self._gray = self._gray, self._reduced(pixels)
        if not follows or before is None:
            return None
        flow, columns, rows, seen = self._flow.matches(self._gray, before)
        trust = seen * _likeness(self._gray, before, columns, rows)
        return self._motion_of(flow, trust, size)

    def _motion_of(self, flow: np.ndarray, trust: np.ndarray, size: tuple[int, int]) -> Motion:
        """Flow ``H W 2`` and trust ``H W`` of the reduced frames as the motion of predictions of ``size``."""
        height, width = size
        stretch = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
        columns, rows = moved(cv2.resize(flow, (width, height)) * stretch)
        columns, rows = np.rint(columns).astype(np.int32), np.rint(rows).astype(np.int32)
        index = rows.clip(0, height - 1) * width + columns.clip(0, width - 1)
        trust = cv2.resize(trust, (width, height))
        return Motion(*(torch.from_numpy(each).to(self._device) for each in (index.ravel(), trust.reshape(-1, 1))))

    def _reduced(self, pixels: np.ndarray) -> np.ndarray:
        """The gray frame for the optical flow, of RGB ``H W 3``."""
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        height, width = (max(1, side // self._scale) for side in gray.shape)
        return gray if self._scale == 1 else cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)


def _likeness(gray: np.ndarray, before: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How alike the pixels of a frame are to those that they are matched with, in [0, 1], float32 ``H W``."""
    matched = cv2.remap(before, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = cv2.blur(cv2.absdiff(gray, matched).astype(np.float32), (3, 3))
    return np.exp(-((difference / UNLIKE) ** 2))
