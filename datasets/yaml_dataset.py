"""``--dataset FILE.yaml``: a data set that a YAML file describes; see docs/data.md."""

from functools import cached_property
from pathlib import Path

from datasets.clips import Video
from datasets.registry import VideoDataset, dataset_named
from datasets.yaml_description import read_description
from utils.class_set import LabelCoding
from utils.errors import DataError


class YamlDataset(VideoDataset):
    """The data set of a YAML file. Raises ``DataError`` for all that is wrong with the file."""

    def __init__(self, file: str):
        self.description = read_description(file)
        self.name, self.classes = file, self.description.classes
        self.default_root = str(self.description.root)

    def root(self, option: str | None) -> Path:
        folder = Path(option).expanduser() if option else self.description.root
        if not folder.is_dir():
            said = "--data-root is" if option else f"{self.name}: path is"
            raise DataError(f"{said} {folder}, but there is no such folder: expected the one with the frames")
        return folder

    def videos(self, root: Path, split: str) -> list[Video]:
        return self.description.layout.videos(root, split, self.name)

    def labels_without_frame(self, root: Path) -> list[Path]:
        return self.description.layout.unused_labels(root, self.name)

    def label_coding(self, label: Path) -> LabelCoding:
        return self._coding

    @cached_property
    def _coding(self) -> LabelCoding:
        description = self.description
        return self.classes.coding_of(description.indices, description.ignored, description.color_indices)

    def __reduce__(self) -> tuple[object, ...]:
        return dataset_named, (self.name,)
