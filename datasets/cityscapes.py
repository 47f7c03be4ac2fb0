"""Cityscapes clips: the labeled frames of a data set on disk, each with the frames before it, as samples of tensors.

On disk: ``ROOT/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelTrainIds.png`` (or ``_labelIds.png``) and
``SEQUENCE_ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png`` (or ``.jpg``). Single frames are also
taken from ``ROOT/leftImg8bit/SPLIT/...``. Frame and label belong together by their name.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.cache import FrameCache
from datasets.images import (
    LABEL_IDS_ENDING,
    TRAIN_IDS_ENDING,
    check_label_fits_frame,
    read_frame,
    read_label,
    resize_label,
)
from datasets.retry import RetryPolicy
from datasets.sampling import FOR_FRAMES, seeded_generator
from datasets.transforms import Augmentation
from utils.errors import DataError

logger = logging.getLogger(__name__)

# Where the data lies unless an option or the environment says otherwise: relative to the working directory, or, where
# there is no such folder, to the project. The second holds leftImg8bit_sequence/, which is large and may lie elsewhere.
CITYSCAPES_ROOT = "data/cityscapes"
CITYSCAPES_SEQ_ROOT = "data/cityscapes"
CITYSCAPES_VARIABLE = "CITYSCAPES_DATASET"

_PROJECT = Path(__file__).resolve().parents[1]
_WHAT_TO_DO = f"name the folder with --data-root or {CITYSCAPES_VARIABLE}"
# What follows CITY_SEQ_FRAME in a file's name, the preferred one last.
_LABEL_ENDINGS = (f"_gtFine{LABEL_IDS_ENDING}", f"_gtFine{TRAIN_IDS_ENDING}")
_FRAME_ENDINGS = ("_leftImg8bit.jpeg", "_leftImg8bit.jpg", "_leftImg8bit.png")
# A snippet of Cityscapes has 30 frames. Where so many or more numbers are missing, another snippet of the same city
# begins; where fewer are, files are missing.
_SNIPPET_FRAMES = 30


@dataclass(frozen=True)
class Roots:
    """The folder with gtFine/ (and leftImg8bit/) and the one with leftImg8bit_sequence/."""

    root: Path
    sequence_root: Path


@dataclass(frozen=True)
class Clip:
    """A labeled frame, ``CITY_SEQ_FRAME``, with the frames before it that are wanted, oldest first."""

    name: str
    city: str
    frames: tuple[Path, ...]
    label: Path


class Sample(NamedTuple):
    """What a data set gives for a clip."""

    frames: Tensor  # uint8  S 3 H W, RGB
    label: Tensor  # uint8  H W of the last frame (H and W divided by label_divisor, rounded up), 19 = ignored
    original_label: Tensor  # uint8, as large as the file; of no elements where it was not asked for
    index: int  # of the clip in the data set


def resolve_roots(option: str | None = None) -> Roots:
    """Find the data: the option wins over the environment's CITYSCAPES_DATASET, that over the constants.

    Option and environment hold for both roots. Raises DataError where a root is no folder.
    """
    variable = os.environ.get(CITYSCAPES_VARIABLE)
    if option or variable:
        source = "from --data-root" if option else f"from {CITYSCAPES_VARIABLE}"
        root = Path(option or variable).expanduser()
        return Roots(_existing_root(root, source), root)
    source = "the default"
    root, sequence_root = _default_root(CITYSCAPES_ROOT), _default_root(CITYSCAPES_SEQ_ROOT)
    return Roots(_existing_root(root, source), _existing_root(sequence_root, source))


def find_clips(roots: Roots, split: str, window: int, positions: Sequence[int] | None = None) -> list[Clip]:
    """List the clips of a split, sorted by city and name; each ends at a labeled frame.

    ``window`` counts the frames up to and with the labeled one; ``positions`` says which of 0..window-1 are wanted,
    all by default. With a window of 1, frames come from leftImg8bit/ where they are there. Labeled frames whose window
    begins before their snippet are left out, and their number is logged.

    Raises DataError for a folder that is missing or holds no labels, a label without its frame, a frame that is missing
    inside of a snippet, and a window that no snippet fills; ValueError for positions outside of the window.
    """
    positions = range(window) if positions is None else sorted(positions)
    if window < 1 or not positions or positions[0] < 0 or positions[-1] != window - 1:
        raise ValueError(f"window {window} with positions {list(positions)}: expected 0..window-1 and always the last")
    label_folder = _split_folder(roots.root, "gtFine", split)
    frame_folders = _frame_folders(roots, split, window)
    clips, too_early, longest = [], 0, 0
    for city in _subfolders(label_folder):
        labels = _named_files(label_folder / city, _LABEL_ENDINGS)
        frames = _CityFrames([folder / city for folder in frame_folders]) if labels else None
        for name in sorted(labels):
            paths = frames.before(name, [window - 1 - position for position in positions], window)
            if paths is None:
                too_early += 1
                longest = max(longest, frames.longest_window(name))
            else:
                clips.append(Clip(name, city, paths, Path(labels[name])))
    if not clips and not too_early:
        raise DataError(
            f"no labels in {label_folder}: expected CITY/CITY_SEQ_FRAME{_LABEL_ENDINGS[0]} or "
            f"*{TRAIN_IDS_ENDING}; {_WHAT_TO_DO}"
        )
    if not clips:
        raise DataError(
            f"--win-size {window}: no snippet of split {split} in {roots.sequence_root} has {window} frames up to a "
            f"labeled one; the longest window that works is {longest}"
        )
    if too_early:
        logger.info(
            "%s: %d of %d labeled frames left out, as their snippet begins later than a window of %d frames",
            split,
            too_early,
            too_early + len(clips),
            window,
        )
    return clips


class City(NamedTuple):
    """The frames of a city's snippets, and its labels, by ``CITY_SEQ_FRAME``."""

    name: str
    frames: dict[str, Path]
    labels: dict[str, Path]


def cities_of(roots: Roots, split: str) -> list[City]:
    """All cities of a split that have a label. Raises DataError for a folder that is missing, or holds no label."""
    labels_folder, frames_folder = (
        _split_folder(root, part, split)
        for root, part in ((roots.root, "gtFine"), (roots.sequence_root, "leftImg8bit_sequence"))
    )
    cities = []
    for name in _subfolders(labels_folder):
        frames, labels = (
            {key: Path(path) for key, path in sorted(_named_files(folder / name, endings).items())}
            for folder, endings in ((frames_folder, _FRAME_ENDINGS), (labels_folder, _LABEL_ENDINGS))
        )
        cities += [City(name, frames, labels)] if labels else []
    if not cities:
        raise DataError(f"no labels in {labels_folder}: {_WHAT_TO_DO}")
    return cities


class CityscapesClips(Dataset[Sample]):
    """Clips as tensors at the working resolution.

    ``size`` is (H, W) of frames and label before augmentation. An item is asked for by its index or by
    ``(epoch, index)``; the augmentation's random numbers follow from seed, epoch and index alone. With
    ``original_labels`` the full-size label comes along, not augmented. ``label_divisor`` makes the label that much
    smaller after augmentation, by nearest neighbor (8 for the shallow decoder). What cannot be read for a while is
    tried again up to ``retries`` times. With ``drawn_frames`` an item holds that many of its past frames, drawn by the
    same numbers. Items raise DataError for damaged files and for a label that is not as large as its frame.
    """

    def __init__(
        self,
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
        self.clips = list(clips)
        self.size = tuple(size)
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
            label = resize_label(label, (-(-height // self.label_divisor), -(-width // self.label_divisor)))
        return Sample(frames, label, original_label, index)

    def _drawn(self, frames: Sequence[Path], epoch: int, index: int) -> list[Path]:
        order = torch.randperm(len(frames) - 1, generator=seeded_generator(self.seed, epoch, index, FOR_FRAMES))
        return [*(frames[position] for position in sorted(order[: self.drawn_frames].tolist())), frames[-1]]

    def _frame(self, path: Path) -> Tensor:
        return read_frame(path, self.size) if self.cache is None else self.cache.frame(path, self.size)

    def _labels(self, path: Path) -> tuple[Tensor, Tensor]:
        """The label at the working resolution and at full size; the file is decoded once."""
        if self.original_labels:
            original = read_label(path, None)
            return resize_label(original, self.size), original
        label = read_label(path, self.size) if self.cache is None else self.cache.label(path, self.size)
        return label, torch.empty(0, dtype=torch.uint8)


class _CityFrames:
    """The frames of one city of a split, listed once from each folder; those of the first folder are preferred."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folder = folders[0]
        self._paths: dict[str, str] = {}
        for folder in reversed(folders):
            self._paths.update(_named_files(folder, _FRAME_ENDINGS))
        self._starts: dict[str, int] | None = None

    def before(self, name: str, distances: Iterable[int], window: int) -> tuple[Path, ...] | None:
        """The frames so many frames before the labeled one; None where its snippet begins later than the window.

        That holds also where the first frames of the window are not wanted, so that a network without a memory is
        scored on the same labels as one with it.
        """
        if name not in self._paths:
            raise DataError(
                f"no frame {self._folder / name}{_FRAME_ENDINGS[-1]} (or .jpg) for the label of that name: "
                f"copy it there, or move its label out of gtFine"
            )
        sequence, frame = _sequence_and_frame(name)
        wanted = {frame - distance: f"{sequence}_{frame - distance:06d}" for distance in distances}
        missing = [number for number, wanted_name in wanted.items() if wanted_name not in self._paths]
        first = frame - window + 1
        begins_later = f"{sequence}_{first:06d}" not in self._paths and self._snippet_start(name) > first
        if not missing and not begins_later:
            return tuple(Path(self._paths[wanted_name]) for wanted_name in wanted.values())
        gap = max(missing, default=first)
        if gap > self._snippet_start(name):
            raise DataError(
                f"frame {self._folder / wanted[gap]}{_FRAME_ENDINGS[-1]} (or .jpg) is missing inside of the snippet of "
                f"{name}: copy it there, or take a --win-size of at most {frame - gap}"
            )
        return None

    def longest_window(self, name: str) -> int:
        """Frames of the snippet up to and with the labeled one."""
        return _sequence_and_frame(name)[1] - self._snippet_start(name) + 1

    def _snippet_start(self, name: str) -> int:
        if self._starts is None:
            self._starts = _snippet_starts(self._paths)
        return self._starts[name]


def _snippet_starts(names: Iterable[str]) -> dict[str, int]:
    """The number of the first frame of each frame's snippet."""
    starts = {}
    last_sequence, last_frame, start = None, 0, 0
    for name in sorted(names):
        sequence, frame = _sequence_and_frame(name)
        if sequence != last_sequence or frame - last_frame > _SNIPPET_FRAMES:
            start = frame
        starts[name] = start
        last_sequence, last_frame = sequence, frame
    return starts


def _sequence_and_frame(name: str) -> tuple[str, int]:
    """CITY_SEQ and the number of the frame."""
    return name[:-7], int(name[-6:])


def _named_files(folder: Path, endings: Sequence[str]) -> dict[str, str]:
    """Paths by CITY_SEQ_FRAME of the files with these endings, the last of which wins; empty without the folder.

    Paths stay text: in a folder of 100,000 frames, most are never asked for.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"folder {folder} cannot be listed: {error.strerror}; {_WHAT_TO_DO}") from error
    found: dict[str, str] = {}
    for ending in endings:
        length = len(ending)
        for file in names:
            # CITY_SEQ_FRAME ends in an underscore and six digits
            if file.endswith(ending) and file[-length - 6 : -length].isdecimal() and file[: -length - 6].endswith("_"):
                found[file[:-length]] = f"{folder}{os.sep}{file}"
    return found


def _frame_folders(roots: Roots, split: str, window: int) -> list[Path]:
    """Where the frames of a split lie, the preferred folder first."""
    if window == 1:
        candidates = [roots.root / "leftImg8bit" / split, roots.sequence_root / "leftImg8bit_sequence" / split]
        folders = [folder for folder in candidates if folder.is_dir()]
        if folders:
            return folders
        if not (roots.sequence_root / "leftImg8bit_sequence").is_dir():
            return [_split_folder(roots.root, "leftImg8bit", split)]
    return [_split_folder(roots.sequence_root, "leftImg8bit_sequence", split)]


def _split_folder(root: Path, part: str, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"no data folder {root}: {_WHAT_TO_DO}")
    if not (root / part).is_dir():
        raise DataError(f"no folder {part} in {root}, which should be the root of Cityscapes: {_WHAT_TO_DO}")
    folder = root / part / split
    if not folder.is_dir():
        there = ", ".join(_subfolders(root / part)) or "nothing"
        raise DataError(f"no split {split} in {root / part} (there is: {there}): add it, or {_WHAT_TO_DO}")
    return folder


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(f"folder {folder} cannot be listed: {error.strerror}; {_WHAT_TO_DO}") from error


def _default_root(constant: str) -> Path:
    """A constant's folder: below the working directory, or else below the project."""
    folder = Path(constant)
    return folder if folder.is_dir() else _PROJECT / folder


def _existing_root(root: Path, source: str) -> Path:
    if not root.is_dir():
        raise DataError(f"no data folder {root} ({source}): {_WHAT_TO_DO}, for example --data-root ~/cityscapes")
    return root
