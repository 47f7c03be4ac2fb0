"""Clips as samples of tensors: read, resized, augmented."""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.cache import FrameCache
from datasets.cache_folder import stamp_of
from datasets.clips import Clip, Frame
from datasets.feature_cache import FeatureCache
from datasets.images import read_frame
from datasets.labels import check_label_fits_frame, read_label
from datasets.registry import VideoDatasetBase
from datasets.retry import RetryPolicy
from datasets.sampling import FOR_FRAMES, seeded_generator
from datasets.transforms import Augmentation, Transform
from utils.errors import DataError
from utils.resize import resize_label_as_pillow


class Sample(NamedTuple):
    """A clip as tensors: an item of ``ClipDataset``."""

    frames: Tensor  # uint8  S 3 H W, RGB
    label: Tensor  # uint8  H W of the last frame (H and W divided by label_divisor, rounded up), as class indices
    original_label: Tensor  # uint8  H W of the file; empty without ``original_labels``
    clip_index: int  # in the data set
    # With features that are stored: they, uint8 S N, and which of the frames have them, S; the frames that do are 0.
    # Stamps, S 2, are those of the frames' files when they were read, -1 where unknown. Without, all three are empty.
    features: Tensor
    has_features: Tensor
    stamps: Tensor


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
        self._features: FeatureCache | None = None
        self._shows_last_frame = False

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

    def with_features(self, features: FeatureCache, shows_last_frame: bool = False) -> Self:
        """The same clips, whose frames are read only where their features are not stored; with ``shows_last_frame``
        the last one always."""
        clips = copy.copy(self)
        clips._features, clips._shows_last_frame = features, shows_last_frame
        return clips

    def store_features(self, features: Tensor, item: tuple[int, int], place: int, stamp: Tensor) -> None:
        """Stores the features ``N`` of the frame at a place of the item ``(epoch, index)``, as it was when its stamp
        was taken."""
        assert self._features is not None
        size, modified = stamp.tolist()
        if size >= 0:
            frame, transform = self._paths(*item)[place], self._transform(*item)
            self._features.store(features, frame, (size, modified), self.size, transform)

    def _sample(self, epoch: int, index: int) -> Sample:
        clip = self.clips[index]
        check_label_fits_frame(clip.label, clip.frames[-1])
        paths, transform = self._paths(epoch, index), self._transform(epoch, index)
        features, has_features, stamps = self._stored_features(paths, transform)
        shown = {len(paths) - 1} if self._shows_last_frame else set()
        unread = {place for place, has in enumerate(has_features.tolist()) if has} - shown
        nothing = torch.zeros(3, *self.size, dtype=torch.uint8) if unread else None
        read = (nothing if place in unread else transform(self._frame(path), 0) for place, path in enumerate(paths))
        frames = torch.stack([frame for frame in read if frame is not None])  # S 3 H W
        label, original_label = self._labels(clip.label)
        label = transform(label, self.dataset.classes.ignored)
        if self.label_divisor > 1:
            height, width = label.shape
            # Rounded up, as the encoders do.
            label = resize_label_as_pillow(label, (-(-height // self.label_divisor), -(-width // self.label_divisor)))
        return Sample(frames, label, original_label, index, features, has_features, stamps)

    def _transform(self, epoch: int, index: int) -> Transform:
        if self.augmentation is None:
            return Transform()
        generator = seeded_generator(self.seed, epoch, index)
        return self.augmentation.drawn(generator, self.size, self.clips[index].scene)

    def _stored_features(self, paths: Sequence[Frame], transform: Transform) -> tuple[Tensor, Tensor, Tensor]:
        """The last three fields of a sample."""
        if self._features is None:
            return torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.bool), torch.empty(0, dtype=torch.long)
        features, has, stamps = self._features.empty(len(paths)), [], []
        for row, path in zip(features, paths, strict=True):
            stamp = stamp_of(path)
            has.append(stamp is not None and self._features.fill(row, path, stamp, self.size, transform))
            stamps.append(stamp or (-1, -1))
        return features, torch.tensor(has), torch.tensor(stamps)

    def _paths(self, epoch: int, index: int) -> Sequence[Frame]:
        frames = self.clips[index].frames
        return frames if self.drawn_frames is None else self._drawn(frames, epoch, index)

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
