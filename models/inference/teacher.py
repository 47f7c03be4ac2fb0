"""A better prediction than a stream can have, for labels that a training learns from: time does not matter here.

The probabilities of a single-frame network are averaged over the frame and its mirror image, over scales, and along the
optical flow over the frames before and after it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.choices import DEFAULT_SMOOTHING_WEIGHT, SMOOTHINGS
from models.inference.labels import all_finite
from models.inference.segmenter import NOT_FINITE, Prediction, VideoSegmenter
from models.inference.smoothing import RunningAverage, Smoother
from utils.errors import ScoresError
from utils.sizes import height_width

FLOW = SMOOTHINGS[-1]
WEIGHT = DEFAULT_SMOOTHING_WEIGHT[FLOW]
AHEAD = 8  # later frames that count at least: of what is sure, the ninth would have a share of 0.002 %
CHUNK = 8  # frames that are finished together: the way back is gone once for them


@dataclass(frozen=True, eq=False)
class _Held:
    """A frame that waits for later ones: prepared, its own probabilities and those averaged up to it, in 16 bits."""

    image: Tensor
    own: Tensor
    before: Tensor
    begins: bool  # a video or a scene


class Teacher:
    """Predicts the frames of videos by a single-frame network, each from its mirror image, other scales and other
    frames too.

    ``scales`` are sides of the frame relative to the segmenter's working size, rounded to what the backbone takes. With
    ``both_directions`` memory holds 16 frames, however long a video is.
    """

    def __init__(
        self,
        segmenter: VideoSegmenter,
        flips: bool = False,
        scales: Sequence[float] = (1.0,),
        both_directions: bool = False,
    ):
        self.size, self._flips = segmenter.work_size, flips
        sizes = [_scaled(segmenter, scale) for scale in scales]
        self._segmenters = [
            segmenter if size == self.size else VideoSegmenter(segmenter.model, device=segmenter.device, work_size=size)
            for size in dict.fromkeys(sizes)
        ]
        self._prepare = segmenter.prepare
        self._directions = None
        if both_directions:
            self._directions = tuple(
                Smoother(FLOW, WEIGHT, self.size, segmenter.device, detect_cuts) for detect_cuts in (True, False)
            )

    def probabilities(self, frames: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """The probabilities ``K H W`` of each frame of a video, RGB uint8 ``H W 3``, at the working size.

        Raises ``ScoresError`` where the network's scores are not finite.
        """
        if self._directions is None:
            return (self._single(frame) for frame in frames)
        return self._over_time(frames, *self._directions)

    @torch.inference_mode()
    def _single(self, frame: np.ndarray) -> Tensor:
        found = [
            self._resized(each.step(each.prepare(view), use_memory=False), is_mirrored)
            for each in self._segmenters
            for view, is_mirrored in [(frame, False), *([(frame[:, ::-1], True)] if self._flips else [])]
        ]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def _resized(self, prediction: Prediction, is_mirrored: bool) -> Tensor:
        if not all_finite(prediction.decoded):  # no labels are wanted here
            raise ScoresError(f"{NOT_FINITE}: expected finite numbers; try other weights")
        found = prediction.probabilities
        found = found.flip(-1) if is_mirrored else found
        if height_width(found.shape) == self.size:
            return found
        return F.interpolate(found[None], size=self.size, mode="bilinear")[0]

    @torch.inference_mode()
    def _over_time(self, frames: Iterable[np.ndarray], forward: Smoother, backward: Smoother) -> Iterator[Tensor]:
        held: list[_Held] = []
        forward.reset()
        for frame in frames:
            image, own = self._prepare(frame), self._single(frame)
            motion = forward.motion(image, self.size)
            before = forward.average(own.log()[None], motion)
            held.append(_Held(image, own.half(), before.half(), motion is None))
            if len(held) == CHUNK + AHEAD:
                yield from self._finished(held, backward)[:CHUNK]
                del held[:CHUNK]
        yield from self._finished(held, backward)

    def _finished(self, held: Sequence[_Held], backward: Smoother) -> list[Tensor]:
        """The mean of both directions, of each frame that is held."""
        average, begins_later, found = RunningAverage(WEIGHT), True, []
        backward.reset()
        for each in reversed(held):
            motion = backward.motion(each.image, self.size)
            after = average.update(each.own.float().log()[None], None if begins_later else motion)
            begins_later = each.begins
            found.append((each.before + after) / 2)
        return found[::-1]


def _scaled(segmenter: VideoSegmenter, scale: float) -> tuple[int, int]:
    """The sides that the backbone takes nearest to the working size times ``scale``."""

    def nearest(axis: int) -> int:
        wanted = segmenter.work_size[axis] * scale
        return min(segmenter.traits.nearest_sides(max(1, round(wanted)), axis), key=lambda each: abs(each - wanted))

    return nearest(0), nearest(1)
