"""Cityscapes: its 19 classes, where it lies on disk, and the clips in it.

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

from datasets.clips import Clip, Frame, Video
from utils.class_set import ClassSet, Color, LabelCoding
from utils.errors import DataError
from utils.system_files import is_system_file, is_visible

logger = logging.getLogger(__name__)

# Where the data lies unless an option or the environment says otherwise: relative to the working directory, or, where
# there is no such folder, to the project. The second holds leftImg8bit_sequence/, which is large and may lie elsewhere.
CITYSCAPES_ROOT = "data/cityscapes"
CITYSCAPES_SEQ_ROOT = "data/cityscapes"
CITYSCAPES_VARIABLE = "CITYSCAPES_DATASET"

_PROJECT = Path(__file__).resolve().parents[1]
_WHAT_TO_DO = f"name the folder with --data-root or {CITYSCAPES_VARIABLE}"
TRAIN_IDS_ENDING, LABEL_IDS_ENDING = "_labelTrainIds.png", "_labelIds.png"
# What follows CITY_SEQ_FRAME in a file's name, the preferred one last.
_LABEL_ENDINGS = (f"_gtFine{LABEL_IDS_ENDING}", f"_gtFine{TRAIN_IDS_ENDING}")
_FRAME_ENDINGS = ("_leftImg8bit.jpeg", "_leftImg8bit.jpg", "_leftImg8bit.png")
# A snippet of Cityscapes has 30 frames. Where so many or more numbers are missing, another snippet of the same city
# begins; where fewer are, files are missing.
_SNIPPET_FRAMES = 30


# Name, id in label files, RGB color, loss weight, and the weight where the decoder is the shallow one.
_CLASSES: tuple[tuple[str, int, Color, float, float], ...] = (
    ("road", 7, (128, 64, 128), 2.8149201869965, 2.3653597831726),
    ("sidewalk", 8, (244, 35, 232), 6.9850029945374, 4.4237880706787),
    ("building", 11, (70, 70, 70), 3.7890393733978, 2.9691488742828),
    ("wall", 12, (102, 102, 156), 9.9428062438965, 5.3442072868347),
    ("fence", 13, (190, 153, 153), 9.7702074050903, 5.2983593940735),
    ("pole", 17, (153, 153, 153), 9.5110931396484, 5.2275490760803),
    ("traffic light", 19, (250, 170, 30), 10.311357498169, 5.4394111633301),
    ("traffic sign", 20, (220, 220, 0), 10.026463508606, 5.3659925460815),
    ("vegetation", 21, (107, 142, 35), 4.6323022842407, 3.4170460700989),
    ("terrain", 22, (152, 251, 152), 9.5608062744141, 5.2414722442627),
    ("sky", 23, (70, 130, 180), 7.8698215484619, 4.7376127243042),
    ("person", 24, (220, 20, 60), 9.5168733596802, 5.2286224365234),
    ("rider", 25, (255, 0, 0), 10.373730659485, 5.455126285553),
    ("car", 26, (0, 0, 142), 6.6616044044495, 4.3019247055054),
    ("truck", 27, (0, 0, 70), 10.260489463806, 5.4264230728149),
    ("bus", 28, (0, 60, 100), 10.287888526917, 5.4331531524658),
    ("train", 31, (0, 80, 100), 10.289801597595, 5.433765411377),
    ("motorcycle", 32, (0, 0, 230), 10.405355453491, 5.4631009101868),
    ("bicycle", 33, (119, 11, 32), 10.138095855713, 5.3947434425354),
)
# Things that move and things that are thin gain most from a memory.
_SHOWN_FIRST = (
    "person", "car", "rider", "bicycle", "motorcycle", "truck", "bus", "train", "traffic sign", "traffic light", "pole",
    "fence", "wall", "terrain", "sidewalk", "building", "vegetation", "road", "sky",
)  # fmt: skip
# What the benchmark's files may hold: 0 to 33, and the license plate's -1, which 8 bits store as 255.
_FILE_IDS = frozenset((*range(34), 255))

CITYSCAPES_CLASSES = ClassSet(
    names=tuple(name for name, *_ in _CLASSES),
    colors=tuple(color for _, _, color, *_ in _CLASSES),
    file_ids=tuple(file_id for _, file_id, *_ in _CLASSES),
    ignored_file_ids=_FILE_IDS,
    written_ignored=0,  # "unlabeled"
    loss_weights=tuple(weight for *_, weight, _ in _CLASSES),
    shallow_loss_weights=tuple(weight for *_, weight in _CLASSES),
    shown_first=_SHOWN_FIRST,
)


@dataclass(frozen=True)
class Roots:
    """The folder with gtFine/ (and leftImg8bit/) and the one with leftImg8bit_sequence/."""

    root: Path
    sequence_root: Path


def resolve_roots(option: str | None = None) -> Roots:
    """Finds the data: by the option, else by the environment's CITYSCAPES_DATASET, else by the constants.

    Option and environment hold for both roots. Raises DataError where a root is no folder.
    """
    named = option or os.environ.get(CITYSCAPES_VARIABLE)
    if named:
        source = "from --data-root" if option else f"from {CITYSCAPES_VARIABLE}"
        root = Path(named).expanduser()
        return Roots(_existing_root(root, source), root)
    source = "the default"
    root, sequence_root = _default_root(CITYSCAPES_ROOT), _default_root(CITYSCAPES_SEQ_ROOT)
    return Roots(_existing_root(root, source), _existing_root(sequence_root, source))


def find_clips(roots: Roots, split: str, window: int, positions: Sequence[int] | None = None) -> list[Clip]:
    """Lists the clips of a split, sorted by city and name; each ends at a labeled frame.

    ``window`` counts the frames up to and with the labeled one; ``positions`` selects from 0..window-1, all by
    default. With a window of 1, frames come from leftImg8bit/ where they are there. Labeled frames whose window
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
        if not labels:
            continue
        frames = _CityFrames([folder / city for folder in frame_folders])
        for name in sorted(labels):
            paths = frames.before(name, [window - 1 - position for position in positions], window)
            if paths is None:
                too_early += 1
                longest = max(longest, frames.longest_window(name))
            else:
                clips.append(Clip(name, city, paths, Path(labels[name]), scene=name.rpartition("_")[0]))
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


def label_coding(label: str | Path, classes: ClassSet = CITYSCAPES_CLASSES) -> LabelCoding:
    """The coding of a label file, by the ending of its name. Raises DataError for another ending."""
    name = Path(label).name
    if name.endswith(TRAIN_IDS_ENDING):
        return classes.index_coding
    if name.endswith(LABEL_IDS_ENDING):
        return classes.file_id_coding
    raise DataError(
        f"label {label}: the name must end in {TRAIN_IDS_ENDING} or {LABEL_IDS_ENDING}, which tells its ids"
    )


def find_videos(roots: Roots, split: str) -> list[Video]:
    """The videos of a split that hold a label, each with all of its frames, sorted by name.

    Frames come from leftImg8bit_sequence/, and from leftImg8bit/ where they are not there. Raises DataError as
    ``find_clips`` does.
    """
    labeled = find_clips(roots, split, 1)
    folder = roots.sequence_root / "leftImg8bit_sequence" / split
    listed = [_named_files(folder / city, _FRAME_ENDINGS) for city in dict.fromkeys(clip.group for clip in labeled)]
    return videos_of((Path(path) for frames in listed for path in frames.values()), labeled)


def videos_of(frames: Iterable[Path], labeled: Iterable[Clip]) -> list[Video]:
    """Runs of consecutive frames that hold a label; ``labeled`` are clips of one frame each, one for every label."""
    labels = {_place(clip.frames[-1]): clip for clip in labeled}
    paths = {place: clip.frames[-1] for place, clip in labels.items()} | {_place(path): path for path in frames}
    runs: list[list[tuple[str, int]]] = []
    for place in sorted(paths):
        video, number = place
        if runs and runs[-1][-1] == (video, number - 1):
            runs[-1].append(place)
        else:
            runs.append([place])
    return [
        Video(
            run[0][0],
            tuple(paths[place] for place in run),
            tuple(labels[place].label if place in labels else None for place in run),
        )
        for run in runs
        if not labels.keys().isdisjoint(run)
    ]


def _place(frame: Frame) -> tuple[str, int]:
    """``CITY_SEQ`` and the number of a frame called ``CITY_SEQ_FRAME_leftImg8bit``."""
    video, number = frame.stem.removesuffix("_leftImg8bit").rsplit("_", 1)
    return video, int(number)


class _CityFrames:
    """The frames of one city of a split, listed once from each folder; those of the first folder are preferred."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folder = folders[0]
        self._paths: dict[str, str] = {}
        for folder in reversed(folders):
            self._paths.update(_named_files(folder, _FRAME_ENDINGS))
        self._starts: dict[str, int] | None = None

    def before(self, name: str, distances: Iterable[int], window: int) -> tuple[Path, ...] | None:
        """The frames at ``distances`` before the labeled one; None where its snippet begins later than the window.

        That is so even if the first frames of the window are not selected, so that a network without a memory is scored
        on the same labels as one with it.
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
        names = [name for name in os.listdir(folder) if not is_system_file(name)]
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
            return sorted(entry.name for entry in entries if is_visible(entry.name) and entry.is_dir())
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
