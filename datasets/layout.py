"""Where the frames and labels of a data set lie, and the videos that they make; only names are read."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.clips import Frame, Video, VideoFrame
from datasets.file_lists import files_below, read_pairs, resolver, without_ending
from datasets.label_files import VIDEO_ENDINGS, LabelFiles, ListedLabels, is_video, pattern_of
from datasets.names import NamePattern, missing_number
from utils.errors import DataError

# Where two images share a name, the frame is that of the earlier ending, and the other one its label.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".png")
LIST_ENDINGS = (".txt", ".lst")


@dataclass(frozen=True)
class Layout:
    """Folders and lists of each split; the labels' folder or pattern; the folder of other frames; the names' pattern.

    ``masks`` is ``None`` where labels lie beside frames. With ``splits_at_gaps`` a video ends where frames are missing;
    otherwise that is an error.
    """

    splits: Mapping[str, tuple[str, ...]]
    masks: Mapping[str, str | None]
    frames: str | None = None
    names: NamePattern = field(default_factory=NamePattern)
    splits_at_gaps: bool = False

    def videos(self, root: Path, split: str, what: str) -> list[Video]:
        """The videos of a split, by name; ``what`` names the data set in messages.

        Raises ``DataError`` for a split, folder or file that is missing, for frames without any label, and for frames
        that are missing in the middle of a video.
        """
        listings = self._listings(root, split, what)
        videos = [video for listing in listings for video in listing.videos()]
        if not videos:
            raise DataError(
                f"{what}: no frames in {', '.join(self.splits[split])} of {root}: expected images or videos, such as "
                "drive_1/000000.png"
            )
        if not any(label for video in videos for label in video.labels):
            raise DataError(f"{what}: no frame of split {split} has a label: {listings[0].looked_for()}")
        return sorted(videos, key=lambda video: video.name)

    def unused_labels(self, root: Path, what: str) -> list[Path]:
        """Files in the labels' folders that are the label of no frame of any split."""
        listings = [listing for split in self.splits for listing in self._listings(root, split, what)]
        for listing in listings:
            list(listing.videos())
        used = {path for listing in listings for path in listing.used_labels()}
        return sorted({Path(path) for listing in listings for path in listing.labels.unused() if path not in used})

    def _listings(self, root: Path, split: str, what: str) -> list["_Listing"]:
        if split not in self.splits:
            raise DataError(f"{what}: no split {split}: expected one of {', '.join(self.splits)}")
        if not root.is_dir():
            raise DataError(f"{what}: no data folder {root}: mend its path, or name the folder with --data-root")
        return [_Listing(self, str(root), split, entry, what) for entry in self.splits[split]]


class _Listing:
    """The videos of one folder, list or file of a split.

    Names are paths below the folder, or below the data set's root for files of a list, without ending.
    """

    def __init__(self, layout: Layout, root: str, split: str, entry: str, what: str):
        self.layout, self.root, self.split, self.what = layout, root, split, what
        self.names = layout.names
        self.files: dict[str, str] = {}  # images and videos by name
        path = os.path.normpath(os.path.join(root, os.path.expanduser(entry)))
        self.is_folder = os.path.isdir(path)
        self.base = path if self.is_folder else root  # what names are below
        listed = self._read(path, entry)
        self.mirrors = self._mirrors()
        self.labels = ListedLabels(listed) if listed else self._label_files()

    def looked_for(self) -> str:
        """Which label was expected where, and what is there."""
        return self.labels.looked_for(next(iter(self.files)))

    def used_labels(self) -> set[str]:
        return self.labels.used if isinstance(self.labels, LabelFiles) else set()

    def videos(self) -> Iterator[Video]:
        frames: dict[str, dict[int, Frame]] = defaultdict(dict)
        labels: dict[str, dict[int, Path]] = defaultdict(dict)
        for name, path in self.files.items():
            if is_video(path):
                frames[name].update(_video_frames(path))
                labels[name].update({number: Path(label) for number, label in self.labels.of_video(name).items()})
                self._refuse_late_labels(path, labels[name], frames[name])
            elif not self.labels.holds(path) and (place := self.names.place(name)):
                self._add(frames[place.video], place.number, path)
                if label := self.labels.of_image(name):
                    labels[place.video][place.number] = Path(label)
        if self.files and not frames:
            raise DataError(
                f"{self.what}: sequence {self.names.pattern!r} matches no name, such as {next(iter(self.files))!r}: "
                "expected a pattern of names without ending, such as '{video}/{frame}'"
            )
        self._add_other_frames(frames)
        shown = _common_folder(frames) if not self.is_folder else ""
        for video in frames:
            title = video.removeprefix(shown) or os.path.basename(self.base)
            yield from self._parts(title.strip("/").replace("/", "_"), frames[video], labels[video])

    def _parts(self, title: str, frames: Mapping[int, Frame], labels: Mapping[int, Path]) -> Iterator[Video]:
        """The video, or what lies between its gaps."""
        numbers, last = sorted(frames), max(labels, default=None)
        missing = None if last is None else missing_number([number for number in numbers if number <= last])
        if missing is None:
            yield Video(title, tuple(frames[n] for n in numbers), tuple(labels.get(n) for n in numbers))
            return
        before, after = max(n for n in numbers if n < missing), min(n for n in numbers if n > missing)
        if not self.layout.splits_at_gaps:
            raise DataError(
                f"{self.what}: video {title} lacks frame {missing}, between {frames[before]} and {frames[after].name}: "
                'copy it there; or write `gaps: split` where a gap ends a video, or `sequence: "{video}"` where images '
                "belong to no video"
            )
        for part in (numbers[: numbers.index(after)], numbers[numbers.index(after) :]):
            chosen = {n: labels[n] for n in part if n in labels}
            yield from self._parts(f"{title}_{part[0]}", {n: frames[n] for n in part}, chosen)

    def _add(self, frames: dict[int, Frame], number: int, path: str) -> None:
        if number in frames:
            raise DataError(
                f"{self.what}: {frames[number]} and {path} are both frame {number} of one video: expected one; say how "
                "names are made, as in `sequence: '{video}/{frame}'`"
            )
        frames[number] = Path(path)

    def _refuse_late_labels(self, path: str, labels: Mapping[int, Path], frames: Mapping[int, Frame]) -> None:
        late = max(labels, default=None)
        if late is not None and late not in frames:
            raise DataError(
                f"label {labels[late]} is of frame {late}, but {path} has the frames 0 to {len(frames) - 1}: expected "
                "numbers that count from 0"
            )

    # Files.

    def _read(self, path: str, entry: str) -> dict[str, str]:
        """Finds ``files``; returns the labels that a list names, by the name of their frame."""
        ending = os.path.splitext(path)[1].lower()
        if self.is_folder:
            self._take(files_below(path, (*IMAGE_ENDINGS, *VIDEO_ENDINGS)))
            return {}
        if not os.path.isfile(path):
            raise DataError(
                f"{self.what}: {self.split} is {entry}, but there is no {path}: expected a folder or a list"
            )
        if ending in LIST_ENDINGS:
            return self._read_list(Path(path))
        if ending not in (*IMAGE_ENDINGS, *VIDEO_ENDINGS):
            raise DataError(
                f"{self.what}: {self.split} is {entry}: expected a folder, a list of frames such as {self.split}.txt, "
                "an image or a video"
            )
        self._take([(os.path.relpath(path, self.root), path)])
        return {}

    def _read_list(self, file: Path) -> dict[str, str]:
        pairs = read_pairs(file, IMAGE_ENDINGS)
        path_of = resolver(pairs[0][0], self.root, file)
        labels = {}
        for frame, label in pairs:
            path = path_of(frame)
            name = os.path.relpath(path, self.root)
            if os.path.isdir(path):
                found = files_below(path, (*IMAGE_ENDINGS, *VIDEO_ENDINGS))
                self._take((f"{name}/{below}", each) for below, each in found)
            elif os.path.isfile(path):
                self._take([(name, path)])
            else:
                raise DataError(f"{file} lists {path}, which is not there: copy it there, or take its line out")
            if label is not None:
                labels[without_ending(name)] = path_of(label)
        return labels

    def _take(self, found: Iterable[tuple[str, str]]) -> None:
        for name, path in found:
            stem = without_ending(name)
            if stem not in self.files or _rank(path) < _rank(self.files[stem]):
                self.files[stem] = path

    def _add_other_frames(self, frames: Mapping[str, dict[int, Frame]]) -> None:
        """Adds frames that no label may belong to: those in ``frames``, or beside the files that a list names."""
        if self.layout.frames is None and self.is_folder:
            return
        others = self._beside() if self.layout.frames is None else self._below_frames(self.layout.frames)
        by_video: dict[str, dict[int, Frame]] = defaultdict(dict)
        for name, path in others:
            if is_video(path):
                by_video[name].update(_video_frames(path))
            elif place := self.names.place(name):
                by_video[place.video].setdefault(place.number, Path(path))
        mirrors = self.mirrors if self.layout.frames is not None else [lambda name: name]
        mirror = next((each for each in mirrors if any(each(video) in by_video for video in frames)), None)
        if mirror is not None:
            for video, own in frames.items():
                for number, frame in by_video.get(mirror(video), {}).items():
                    own.setdefault(number, frame)

    def _beside(self) -> Iterator[tuple[str, str]]:
        for folder in sorted({os.path.dirname(path) for path in self.files.values()}):
            for _, path in files_below(folder, IMAGE_ENDINGS, subfolders=False):
                name = without_ending(os.path.relpath(path, self.root))
                # An image beside a frame of its name is its label.
                if not self.labels.holds(path) and self.files.get(name, path) == path:
                    yield name, path

    def _below_frames(self, folder: str) -> Iterator[tuple[str, str]]:
        for name, path in files_below(self._existing(folder, "frames"), (*IMAGE_ENDINGS, *VIDEO_ENDINGS)):
            yield without_ending(name), path

    def _label_files(self) -> LabelFiles:
        masks = self.layout.masks.get(self.split)
        folder, pattern = pattern_of((masks or "{name}").replace("{split}", self.split))
        if not folder:
            return LabelFiles(self.base, pattern, self.names, self.files, True, [lambda name: name])
        found = self._existing(folder, "masks")
        amid = self.base == found or self.base.startswith(os.path.join(found, ""))
        return LabelFiles(found, pattern, self.names, self.files, amid, self.mirrors)

    def _existing(self, folder: str, key: str) -> str:
        path = os.path.normpath(os.path.join(self.root, os.path.expanduser(folder.replace("{split}", self.split))))
        if not os.path.isdir(path):
            raise DataError(f"{self.what}: {key} is {folder}, but there is no folder {path}: expected it below path")
        return path

    def _mirrors(self) -> list[Callable[[str], str]]:
        """Ways from a name to the name in another folder, such as ``masks``, that mirrors this one.

        For the frame 1/000 of ``images/train`` they are ``images/train/1/000``, ``train/1/000`` and ``1/000``.
        """
        if not self.is_folder:
            depth = max((name.count("/") for name in self.files), default=0)
            return [_dropping(skipped) for skipped in range(depth + 1)]
        below = os.path.relpath(self.base, self.root)
        parts = [] if below.startswith(os.pardir) or below == os.curdir else below.split(os.sep)
        beginnings = ["/".join([*parts[skipped:], ""]) for skipped in range(len(parts))]
        return [_beginning(each) for each in [*beginnings, "", f"{self.split}/"]]


def _beginning(start: str) -> Callable[[str], str]:
    return lambda name: start + name


def _dropping(count: int) -> Callable[[str], str]:
    return lambda name: "/".join(name.split("/")[count:])


def _common_folder(videos: Iterable[str]) -> str:
    """The folder that the names of several videos begin with, with a slash; of one video what is above it."""
    folders = {video.rpartition("/")[0] for video in videos}
    return "/".join([os.path.commonpath(folders), ""]) if all(folders) else ""


def _video_frames(path: str) -> dict[int, Frame]:
    from datasets.video_frames import frame_count  # only here: images need no decoder of videos

    return {number: VideoFrame(Path(path), number) for number in range(frame_count(Path(path)))}


def _rank(path: str) -> int:
    return (*VIDEO_ENDINGS, *IMAGE_ENDINGS).index(os.path.splitext(path)[1].lower())
