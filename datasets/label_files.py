"""Which label file belongs to which frame: by its name, by a pattern, by a list, or by the number in a video."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from datasets.file_lists import files_below, without_ending
from datasets.names import NamePattern, name_regex
from utils.errors import DataError

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg")
LABEL_ENDINGS = (".tif", ".tiff", ".bmp", ".png")  # of one name the last counts
PLAIN = "{name}"


class LabelFiles:
    """The labels in ``folder`` of frames, by the frames' names; see ``pattern_of``.

    ``frames`` are the frames' paths by name, ``amid`` says that they lie in that folder too. Names of labels mirror
    those of frames in one of the ways of ``mirrors``: the first by which some label is found.
    """

    def __init__(
        self,
        folder: str,
        pattern: str,
        names: NamePattern,
        frames: Mapping[str, str],
        amid: bool,
        mirrors: Sequence[Callable[[str], str]],
    ):
        self.folder, self.pattern, self._names = folder, pattern, names
        self._has_ending = os.path.splitext(pattern)[1].lower() in LABEL_ENDINGS
        taken = set(frames.values()) if amid else set()
        found: dict[str, str] = {}
        for name, path in sorted(self._listed(frames, amid), key=lambda each: _rank(each[1])):
            if pattern != PLAIN or path not in taken:
                found[name if self._has_ending else without_ending(name)] = path
        # By numbers, where they are those of videos' frames.
        self._by_video = self._numbered(found) if any(map(is_video, frames.values())) else {}
        self._mirror = next((each for each in mirrors if self._finds_any(found, frames, each)), mirrors[0])
        if pattern == PLAIN:
            self._paths = found
        else:  # what the pattern says of a frame is a label, also where it is an image beside frames
            wanted = {self._mirror(self._key(name)) for name in frames}
            self._paths = {key: path for key, path in found.items() if key in wanted or path not in taken}
        self._all = set(self._paths.values())
        self.used: set[str] = set()

    def holds(self, path: str) -> bool:
        """Whether a file is a label, and no frame."""
        return path in self._all

    def of_image(self, name: str) -> str | None:
        """The label of a frame, by its name; ``None`` where it has none."""
        label = self._paths.get(self._mirror(self._key(name)))
        if label is not None:
            self.used.add(label)
        return label

    def of_video(self, name: str) -> dict[int, str]:
        """The labels of a video file's frames by number: ``NAME/000012.png`` or ``NAME_12.png``, or by the pattern."""
        labels = self._by_video.get(self._mirror(name), {})
        self.used.update(labels.values())
        return labels

    def unused(self) -> list[str]:
        """Labels that no frame has asked for."""
        return sorted(self._all - self.used)

    def looked_for(self, name: str) -> str:
        """Which label was expected for a frame, and what is there."""
        wanted = self._mirror(self._key(name)) + ("" if self._has_ending else ".png")
        there = next(iter(self._paths.values()), None)
        found = f"there is {os.path.relpath(there, self.folder)}" if there else "there is no label"
        return (
            f"expected {wanted} in {self.folder}, where {found}; name the folder of labels with `masks: FOLDER`, a "
            "suffix as in `masks: FOLDER/{name}_label.png`"
        )

    def _listed(self, frames: Mapping[str, str], amid: bool) -> Iterable[tuple[str, str]]:
        if not amid or self.pattern != PLAIN:
            return files_below(self.folder, LABEL_ENDINGS)
        folders = {os.path.dirname(path) for path in frames.values()}
        return (
            (os.path.relpath(path, self.folder), path)
            for folder in sorted(folders)
            for _, path in files_below(folder, LABEL_ENDINGS, subfolders=False)
        )

    def _key(self, name: str) -> str:
        """The name of a frame's label below the folder."""
        if self.pattern == PLAIN:
            return name
        place = self._names.place(name)
        values = {"name": name, "video": place.video if place else name, "frame": place.digits if place else name}
        return re.sub(r"\{(name|video|frame)\}", lambda word: values[word[1]], self.pattern)

    def _numbered(self, files: Mapping[str, str]) -> dict[str, dict[int, str]]:
        """Labels by video and number."""
        names = NamePattern() if self.pattern == PLAIN else None
        regex = re.compile(name_regex(self.pattern.replace(PLAIN, "{video}/{frame}")))
        found: dict[str, dict[int, str]] = defaultdict(dict)
        for name, path in files.items():
            if names is not None:
                place = names.place(name)
                if place is not None and place.digits:
                    found[place.video][place.number] = path
            elif (match := regex.fullmatch(name)) and {"video", "frame"} <= match.groupdict().keys():
                found[match["video"]][int(match["frame"])] = path
        return found

    def _finds_any(self, files: Mapping[str, str], frames: Mapping[str, str], mirror: Callable[[str], str]) -> bool:
        return any(mirror(self._key(name)) in files or mirror(name) in self._by_video for name in frames)


class ListedLabels:
    """The labels that a list names, by the names of their frames."""

    def __init__(self, labels: Mapping[str, str]):
        self._labels, self._all = labels, set(labels.values())

    def holds(self, path: str) -> bool:
        return path in self._all

    def of_image(self, name: str) -> str | None:
        return self._labels.get(name)

    def of_video(self, name: str) -> dict[int, str]:
        return {}

    def unused(self) -> list[str]:
        return []

    def looked_for(self, name: str) -> str:
        return "expected `frame label` in the lines of the list"


def is_video(path: str) -> bool:
    """Whether a file is a video, by its ending."""
    return path.lower().endswith(VIDEO_ENDINGS)


def pattern_of(masks: str) -> tuple[str, str]:
    """The folder of labels, and the pattern of names in it: ``labels/{video}/{frame}.png`` as ``labels`` and the rest.

    ``{name}`` is the frame's own name, and so is a folder alone. Raises ``DataError`` for other words in braces.
    """
    words = set(re.findall(r"\{(.*?)\}", masks))
    if words - {"name", "video", "frame"}:
        raise DataError(
            f"masks is {masks!r}: expected a folder, or a pattern with {{name}}, {{video}}, {{frame}} or {{split}}"
        )
    if not words:
        return masks, PLAIN
    folder = masks.partition("{")[0].rpartition("/")[0]
    return folder, masks[len(folder) :].lstrip("/")


def _rank(path: str) -> int:
    return LABEL_ENDINGS.index(os.path.splitext(path)[1].lower())
