"""Probabilities averaged over time, still or along the motion of the video: a steadier video without any training.

    average = weight * before + (1 - weight) * now

``before`` is the average up to the frame before; with ``flow`` it is taken from where each pixel was in that frame.
There the weight falls with the probability of the most probable class: what the network is sure of changes at once,
what it guesses stays. It is 0 where that place looks different or lies outside of the frame, and where a scene begins.
Memory and time do not grow with the video.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models.choices import DEFAULT_SMOOTHING_WEIGHT, SMOOTHINGS
from models.local_attention import cpu
from utils.errors import OptionError
from utils.optical_flow import fast_flow, inside, moved
from utils.scene_cuts import SceneCuts
from utils.sizes import FLOW_SIDE, format_size

FLOW = "flow"
REDUCED = 2  # sides of frames are divided by it for the flow, where they stay large enough
UNLIKE = 14.0  # gray levels: at this difference of two matched pixels, the past counts 1/e of its weight
BLOCK = 16384  # pixels that are averaged at a time on a CPU: their probabilities fit into its cache
SURE = 2 / 3  # share of the past's weight, along the flow, that a prediction takes off by its probability


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
        is_one_pass = cpu.why_not_average(logits) is None
        average = self._in_one_pass(logits, motion) if is_one_pass else self._in_blocks(logits, motion)
        self._before = average
        return average.view(height, width, classes).permute(2, 0, 1)

    def _in_one_pass(self, logits: Tensor, motion: Motion | None) -> Tensor:
        """The average ``[h w, K]`` by the compiled library."""
        before = None if motion is None else self._before
        index, trust = (None, None) if motion is None else (motion.index, motion.trust)
        return cpu.average(logits, before, index, trust, self.weight, SURE)

    def _in_blocks(self, logits: Tensor, motion: Motion | None) -> Tensor:
        """The average ``[h w, K]`` by PyTorch's operators."""
        classes = logits.shape[1]
        # The probabilities of a pixel lie side by side, so that one index moves all of them.
        rows = logits[0].permute(1, 2, 0).reshape(-1, classes)
        average = torch.empty(rows.shape, device=rows.device)
        block = BLOCK if rows.device.type == "cpu" else len(rows)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            now = torch.softmax(rows[part], 1, dtype=torch.float32, out=average[part])
            if motion is not None and self._before is not None:
                self._blend(now, self._before, motion, part)
        return average

    def _blend(self, now: Tensor, before: Tensor, motion: Motion, part: slice) -> None:
        """Makes the probabilities ``now`` ``[n, K]`` of the frame alone, of a part of its pixels, the average."""
        if motion.index is None or motion.trust is None:
            now.lerp_(before[part], self.weight)
            return
        share = now.amax(1, keepdim=True).mul_(-SURE).add_(1).mul_(motion.trust[part]).mul_(self.weight)
        now.lerp_(before.index_select(0, motion.index[part]), share)


class Smoother:
    """Smooths the predictions of one video: finds the motion from frame to frame, and averages along it.

    ``kind`` is one of ``SMOOTHINGS``, ``weight`` the share of the past, along the flow the largest one, ``size`` height
    and width of the frames. Raises ``OptionError`` for another kind, for a weight that is not 0 or more and below 1,
    and for frames that are too small for optical flow.
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
        self._flow = fast_flow() if kind == FLOW else None
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
        flow = self._flow(self._gray, before)
        return self._motion_of(flow, _trust(self._gray, before, flow), size)

    def _motion_of(self, flow: np.ndarray, trust: np.ndarray, size: tuple[int, int]) -> Motion:
        """Flow ``H W 2`` and trust ``H W`` of the reduced frames as the motion of predictions of ``size``."""
        height, width = size
        stretch = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
        columns, rows = (torch.from_numpy(each) for each in moved(cv2.resize(flow, (width, height)) * stretch))
        index = rows.round_().clamp_(0, height - 1).int() * width + columns.round_().clamp_(0, width - 1).int()
        shares = torch.from_numpy(cv2.resize(trust, (width, height)).reshape(-1, 1))
        return Motion(index.flatten().to(self._device), shares.to(self._device))

    def _reduced(self, pixels: np.ndarray) -> np.ndarray:
        """The gray frame for the optical flow, of RGB ``H W 3``."""
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        height, width = (max(1, side // self._scale) for side in gray.shape)
        return gray if self._scale == 1 else cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)


def _trust(gray: np.ndarray, before: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """How alike the pixels of a frame are to those that they are matched with, from 0 to 1, float32 ``H W``; 0 for what
    comes from outside of the frame.

    No flow back is computed to check this one: that takes as long again, and rejects more that is right than it spares
    (docs/results.md).
    """
    columns, rows = moved(flow)
    matched = cv2.remap(before, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = cv2.blur(cv2.absdiff(gray, matched).astype(np.float32), (3, 3))
    return inside(columns, rows) * np.exp(-((difference / UNLIKE) ** 2))
