"""``--dataset Cityscapes``: the benchmark, and what data sets in its layout have in common."""

from collections.abc import Sequence
from pathlib import Path

from datasets.cityscapes import CITYSCAPES_CLASSES, Roots, find_clips, find_videos, label_coding, resolve_roots
from datasets.clips import Clip, Video
from datasets.registry import VideoDatasetBase, register_dataset
from utils.class_set import LabelCoding


class Cityscapes(VideoDatasetBase[Roots]):
    """The benchmark in its own layout; data sets in the same layout subclass it."""

    name = "Cityscapes"
    classes = CITYSCAPES_CLASSES
    summary = "the benchmark's own layout"

    def root(self, option: str | None) -> Roots:
        return resolve_roots(option)

    def clips(self, root: Roots, split: str, window: int, positions: Sequence[int] | None = None) -> list[Clip]:
        return find_clips(root, split, window, positions)

    def videos(self, root: Roots, split: str) -> list[Video]:
        return find_videos(root, split)

    def label_coding(self, label: Path) -> LabelCoding:
        return label_coding(label, self.classes)


register_dataset(Cityscapes())
