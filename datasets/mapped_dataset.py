"""A data set with other classes than its label files have: merged, renamed or dropped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.clips import Clip, Video
from datasets.registry import VideoDatasetBase, dataset_named
from utils.class_map import ClassMap
from utils.class_set import LabelCoding


class MappedDataset(VideoDatasetBase[Any]):
    """The data set ``whole``, whose label files are read by a class map. Raises ``DataError`` where it does not fit."""

    def __init__(self, whole: VideoDatasetBase[Any], class_map: ClassMap) -> None:
        self.whole, self.class_map = whole, class_map
        self.name, self.summary, self.default_root = whole.name, whole.summary, whole.default_root
        self.classes = class_map.applied(whole.classes)
        self._codings: dict[int, LabelCoding] = {}  # by the checksum of those of the files

    def root(self, option: str | None) -> Any:
        return self.whole.root(option)

    def prepare(self, option: str | None) -> None:
        self.whole.prepare(option)

    def work_size(self, option: str | None) -> tuple[int, int] | None:
        return self.whole.work_size(option)

    def videos(self, root: Any, split: str) -> list[Video]:
        return self.whole.videos(root, split)

    def clips(self, root: Any, split: str, window: int, positions: Sequence[int] | None = None) -> list[Clip]:
        return self.whole.clips(root, split, window, positions)

    def label_coding(self, label: Path) -> LabelCoding:
        coding = self.whole.label_coding(label)
        if coding.checksum not in self._codings:
            self._codings[coding.checksum] = self.class_map.mapped_coding(coding, self.whole.classes)
        return self._codings[coding.checksum]

    def __reduce__(self) -> tuple[object, ...]:
        return MappedDataset, (self.whole, self.class_map)


def dataset_of(name: str, class_map: ClassMap | None) -> VideoDatasetBase[Any]:
    """The data set that ``--dataset`` names, with other classes where there is a class map. Raises what both do."""
    dataset = dataset_named(name)
    return dataset if class_map is None else MappedDataset(dataset, class_map)
