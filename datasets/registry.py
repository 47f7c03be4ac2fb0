"""The data sets that ``--dataset`` names: the classes, defaults and clips of each.

They are the files in ``datasets/sets/``, those that a ``--plugin`` registers, and YAML files of a user's.
Reading the entries needs no torch: the command line is checked before torch is imported.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from datasets.clips import Clip, Video, clips_of_videos
from utils.class_set import ClassSet, LabelCoding
from utils.errors import DataError, OptionError
from utils.modules import check_declared, import_all, load_file
from utils.yaml_files import is_yaml

SHIPPED = "datasets.sets"
DEFAULT = "Cityscapes"


Root = TypeVar("Root")


class VideoDatasetBase(ABC, Generic[Root]):
    """A data set whose files lie at a ``Root``: a folder (see ``VideoDataset``), or several of them.

    ``summary`` is its line in ``--help``; ``default_root`` is the folder where ``--data-root`` names none.
    """

    name: str
    classes: ClassSet
    summary: str = ""
    default_root: str | None = None

    @abstractmethod
    def root(self, option: str | None) -> Root:
        """Where the data set lies for this value of ``--data-root``. Raises ``DataError`` where it is not there."""

    @abstractmethod
    def videos(self, root: Root, split: str) -> list[Video]:
        """The videos of a split (``train``, ``val``), each with its frames in order and the labels that there are.

        Raises ``DataError`` where the folder is missing or not of the expected form.
        """

    def prepare(self, option: str | None) -> None:
        """Creates what is created on first use. Called before ``root``, on rank 0 only."""
        return

    def work_size(self, option: str | None) -> tuple[int, int] | None:
        """Height and width that frames are resized to where ``--work-size`` is not given; ``None``: the backbone's."""
        return None

    def clips(self, root: Root, split: str, window: int, positions: Sequence[int] | None = None) -> list[Clip]:
        """The clips of a split, each of a ``window`` of frames that ends in a labeled one.

        ``positions`` selects from 0..window-1, all by default. Raises ``DataError`` where there are no
        labels and ``OptionError`` where no video fills the window.
        """
        wanted = range(window) if positions is None else sorted(positions)
        return clips_of_videos(self.videos(root, split), window, wanted, f"split {split} of {root}")

    def labels_without_frame(self, root: Root) -> list[Path]:
        """Label files that belong to no frame, where that is no error; for ``python -m datasets.check``."""
        return []

    def label_coding(self, label: Path) -> LabelCoding:
        """The coding of a label file."""
        return self.classes.file_id_coding

    def __reduce__(self) -> tuple[object, ...]:
        """By name: a loader's worker that is spawned has not loaded the plugin that registers it."""
        module = sys.modules[type(self).__module__]
        return _unpickled, (self.name, module.__name__, module.__file__)


def _unpickled(name: str, module: str, file: str) -> VideoDatasetBase[Any]:
    if name not in dataset_names() and module not in sys.modules:
        load_file(Path(file), module)
    return dataset_named(name)


class VideoDataset(VideoDatasetBase[Path]):
    """A data set in one folder. Only ``name``, ``classes`` and ``videos`` must be given; the rest has defaults."""

    def root(self, option: str | None) -> Path:
        """The folder that ``--data-root`` names, or the default one. Raises ``DataError`` where it is none."""
        folder = Path(option or self.default_root or "").expanduser()
        if not (option or self.default_root) or not folder.is_dir():
            raise DataError(f"no data folder {folder} for --dataset {self.name}: name it with --data-root")
        return folder


_ENTRIES: dict[str, VideoDatasetBase[Any]] = {}  # each has a type of root of its own


def register_dataset(dataset: VideoDatasetBase[Any]) -> None:
    """Registers a data set as ``--dataset NAME``.

    Raises ``OptionError`` for a name that is taken, and for a data set without a name or without classes.
    """
    if not isinstance(dataset, VideoDatasetBase):
        raise OptionError(f"{dataset!r} is no data set: expected an instance of a subclass of VideoDataset")
    check_declared("data set", dataset, "name", "classes")
    if dataset.name in _ENTRIES:
        raise OptionError(f"a data set named {dataset.name!r} is registered already: expected another name")
    _ENTRIES[dataset.name] = dataset


def dataset_names() -> tuple[str, ...]:
    """Names of all data sets, the default one first."""
    import_all(SHIPPED)
    return tuple(sorted(_ENTRIES, key=lambda name: name != DEFAULT))


def dataset_named(name: str) -> VideoDatasetBase[Any]:
    """The data set of that name, or the one that a YAML file of that name describes.

    Raises ``OptionError`` where there is none, and ``DataError`` for what is wrong with the file.
    """
    if is_yaml(name):
        from datasets.yaml_dataset import YamlDataset  # only here, as it is built on this module

        return YamlDataset(name)
    if name not in dataset_names():
        raise OptionError(f"--dataset {name} is not known: expected one of {', '.join(dataset_names())}")
    return _ENTRIES[name]
