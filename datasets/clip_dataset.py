"""Clips as samples of tensors: read, resized, augmented."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.cache import FrameCache
from datasets.clips import Clip, Frame
from datasets.images import read_frame
from datasets.labels import check_label_fits_frame, read_label
from datasets.registry import VideoDatasetBase
from datasets.retry import RetryPolicy
from datasets.sampling import FOR_FRAMES, seeded_generator
from datasets.transforms import Augmentation
from utils.errors import DataError
from utils.resize import resize_label_as_pillow


class Sample(NamedTuple):
    """A clip as tensors: an item of ``ClipDataset``."""

    frames: Tensor  # uint8  S 3 H W, RGB
    label: Tensor  # uint8  H W of the last frame (H and W divided by label_divisor, rounded up), as class indices
    original_label: Tensor  # uint8  H W of the file; empty without ``original_labels``
    clip_index: int  # in the data set


class ClipDataset(Dataset[Sample]):
    """Clips of a data set as tensors at the working resolution.

    ``dataset`` supplies the coding of label files. ``size`` is (H, W) of frames and label before augmentation. Items
    are indexed by ``index`` or ``(epoch, index)``; random augmentation is a function of seed, epoch and index alone.
    With ``original_labels`` an item includes the label at full size, not augmented. ``label_divisor`` downsamples the
    label after augmentation, by nearest neighbor (8 for the shallow decoder). Reads of unavailable files are retried up
    to ``retries`` times. With ``drawn_frames`` an item holds that many of its past frames, a random subset by the same
    seeds. Items raise ``DataError`` for damaged files and for a label of another size than its frame.
    """

    def __init__(
        self,
        dataset: VideoDatasetBase,
        clips: Sequence[Clip],
        size: tuple[int, int],
        augmentation: Augmentation | None = None,
        cache: FrameCache | None = None,
        seed: int = 0,
        original_labels: bool = False,
        label_divisor: int = 1,
        retries: int = 0,
        drawn_frames: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.clips = list(clips)
        self.size = size
        self.augmentation = augmentation
        self.cache = cache
        self.seed = seed
        self.original_labels = original_labels
        self.label_divisor = label_divisor
        self.retry_policy = RetryPolicy(retries)
        self.drawn_frames = drawn_frames

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = item if isinstance(item, tuple) else (0, item)
        return self.retry_policy.read(lambda: self._sample(epoch, index))

    def check_labeled(self, split: str) -> None:
        """Raises ``DataError`` where no pixel of any label has a class; reads labels up to the first that has one."""
        for clip in self.clips:
            label, _ = self.retry_policy.read(partial(self._labels, clip.label))
            if bool((label != self.dataset.classes.ignored).any()):
                return
        raise DataError(
            f"no pixel of the {len(self.clips)} labels of split {split} has a class (the first one is "
            f"{self.clips[0].label}): expected labels of {', '.join(self.dataset.classes.names[:3])} and the like"
        )

    def _sample(self, epoch: int, index: int) -> Sample:
        clip = self.clips[index]
        check_label_fits_frame(clip.label, clip.frames[-1])
        paths = clip.frames if self.drawn_frames is None else self._drawn(clip.frames, epoch, index)
        frames = torch.stack([self._frame(path) for path in paths])  # S 3 H W
        label, original_label = self._labels(clip.label)
        if self.augmentation is not None:
            generator = seeded_generator(self.seed, epoch, index)
            frames, label = self.augmentation(frames, label, generator)
        if self.label_divisor > 1:
            height, width = label.shape
            # Rounded up, as the encoders do.
            label = resize_label_as_pillow(label, (-(-height // self.label_divisor), -(-width // self.label_divisor)))
        return Sample(frames, label, original_label, index)

    def _drawn(self, frames: Sequence[Frame], epoch: int, index: int) -> list[Frame]:
        order = torch.randperm(len(frames) - 1, generator=seeded_generator(self.seed, epoch, index, FOR_FRAMES))
        return [*(frames[position] for position in sorted(order[: self.drawn_frames].tolist())), frames[-1]]

    def _frame(self, path: Frame) -> Tensor:
        return read_frame(path, self.size) if self.cache is None else self.cache.frame(path, self.size)

    def _labels(self, path: Path) -> tuple[Tensor, Tensor]:
        """The label at the working resolution and at full size; the file is decoded once."""
        coding = self.dataset.label_coding(path)
        if self.original_labels:
            original = read_label(path, None, coding)
            return resize_label_as_pillow(original, self.size), original
        label = read_label(path, self.size, coding) if self.cache is None else self.cache.label(path, self.size, coding)
        return label, torch.empty(0, dtype=torch.uint8)
