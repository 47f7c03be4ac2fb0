"""Evaluation of densely labeled videos as streams: each frame is encoded once, and all labeled frames count."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from datasets.streamed_clips import StreamedClips
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.consistency import LENGTHS, MVC
from engine.evaluation.temporal_consistency import VideoConsistency
from engine.reports.scores import iou_by_name, percent
from models.lmanet import EncodedFrame, LMANet
from models.memory import FrameMemory, RingMemory
from utils import distributed
from utils.class_set import ClassSet


def can_be_streamed(model: LMANet) -> bool:
    """Whether a frame's keys and values are the same in every clip: neither made of what was read, nor by chance."""
    return model.config.structure != "original_kv_fusion" and not model.config.picks_by_chance


def last_logits(
    model: LMANet,
    frames: Sequence[Tensor | EncodedFrame],
    memory: FrameMemory | None = None,
    remember: bool = False,
) -> tuple[Tensor, FrameMemory | None]:
    """Logits ``B 1 K H W`` of the last of the frames, ``B 3 H W`` or as they were encoded, and the memory after them.

    The others are only memorized. The logits are those of ``model(clip)``, which decodes more with ``always_decode``.
    """
    for frame in frames[:-1]:
        memory = model.memorize(frame, memory)
    logits, memory = model.step(frames[-1], memory, remember)
    return logits[:, None], memory


class ClipStream:
    """The network over streamed clips, one after the other, with the memories that later ones go on with."""

    def __init__(self, model: LMANet, clips: StreamedClips) -> None:
        self._model, self._stream = model, clips.stream
        self._memories: dict[int, FrameMemory | None] = {}
        # The last clip that needs the memory of each.
        self._last_use = {each.after: position for position, each in enumerate(self._stream) if each.after is not None}

    def logits(self, frames: Sequence[Tensor | EncodedFrame], position: int) -> Tensor:
        """Logits ``1 1 K H W`` of the last of the clip's new frames, each ``1 3 H W`` or as it was encoded."""
        after = self._stream[position].after
        memory = None if after is None else self._memories[after]
        if after is not None and self._last_use[after] == position:
            del self._memories[after]
        elif isinstance(memory, RingMemory):  # it is filled in place, and another clip goes on from it
            memory = memory.copy()
        is_needed = position in self._last_use
        logits, memory = last_logits(self._model, frames, memory, remember=is_needed)
        if is_needed:
            self._memories[position] = memory
        return logits


@dataclass
class DenseFigures:
    """Figures over all labeled frames of the videos, those included that come too early for a full memory."""

    classes: ClassSet
    frames: int = 0
    by_video: dict[str, Tensor] = field(default_factory=dict)
    consistency: VideoConsistency = field(init=False)

    def __post_init__(self) -> None:
        self.consistency = VideoConsistency(LENGTHS, self.classes.ignored)

    def update(self, video: str, follows: bool, prediction: Tensor, label: Tensor) -> None:
        """Adds a frame, class indices ``H W``; ``follows``: it is the one after the last frame that was added."""
        confusion = ConfusionMatrix(self.classes.num_outputs)
        confusion.update(prediction.cpu(), label.cpu())
        self.frames += 1
        self.by_video[video] = self.by_video.get(video, 0) + confusion.counts
        if not follows:
            self.consistency.end_video()
        self.consistency.update(prediction.cpu().numpy(), label.cpu().numpy())

    def gather(self) -> None:
        """Makes the figures those of all processes, each of which had whole videos; a collective."""
        self.consistency.end_video()
        parts = distributed.all_gather((self.frames, self.by_video, self.consistency))
        self.frames = sum(frames for frames, _, _ in parts)
        self.by_video = {video: counts for _, by_video, _ in parts for video, counts in by_video.items()}
        self.consistency = VideoConsistency.joined([consistency for _, _, consistency in parts])

    def report(self) -> dict[str, Any]:
        """Mean IoU and IoU of all frames, mean IoU of each video, mVC: plain values for JSON."""
        whole = self._confusion(list(self.by_video.values()))
        return {
            "frames": self.frames,
            "mean_iou": _or_none(whole.mean_iou()),
            "iou": iou_by_name(self.classes.names, whole.iou()),
            "videos": {
                name: _or_none(self._confusion([counts]).mean_iou()) for name, counts in sorted(self.by_video.items())
            },
            "mvc": self.consistency.means(),
            "mvc_is": MVC,
        }

    def _confusion(self, counts: list[Tensor]) -> ConfusionMatrix:
        confusion = ConfusionMatrix(self.classes.num_outputs)
        confusion.counts = torch.stack(counts).sum(0)
        return confusion


def dense_text(report: Mapping[str, Any]) -> str:
    """A report of ``DenseFigures`` as text: a line for all frames, and one for each video."""
    mvc = ", ".join(f"{name} {percent(value)} %" for name, value in report["mvc"].items())
    lines = [f"all {report['frames']} labeled frames: mean IoU {percent(report['mean_iou'])} %, {mvc}"]
    videos = report["videos"].items()
    return "\n".join([*lines, *(f"  {name}: mean IoU {percent(value)} %" for name, value in videos)])


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
