"""Clips and videos as paths, in order; no file is read here."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError, OptionError
from utils.system_files import is_system_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video file, by its number from 0, where images are paths; as a path it is the file."""

    video: Path
    number: int

    @property
    def stem(self) -> str:
        return f"{self.video.stem}_{self.number:06d}"

    @property
    def name(self) -> str:
        return f"{self.video.name}, frame {self.number}"

    def __str__(self) -> str:
        return f"{self.video}, frame {self.number}"

    def __fspath__(self) -> str:
        return str(self.video)


Frame = Path | VideoFrame


@dataclass(frozen=True)
class Clip:
    """A labeled frame with selected frames before it, oldest first.

    ``name`` is unique within the split and names the clip's output files; ``group`` is their folder (Cityscapes: the
    city). ``scene`` names the video that the clip is cut from (Cityscapes: the drive), the group where it is empty.
    """

    name: str
    group: str
    frames: tuple[Frame, ...]
    label: Path
    scene: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scene", self.scene or self.group)


@dataclass(frozen=True)
class Video:
    """Consecutive frames, and the label of each, or None. Raises ``DataError`` unless there are as many of both.

    Frames and labels that are files of a system, such as ``._000.png`` of macOS, are left out.
    """

    name: str
    frames: tuple[Frame, ...]
    labels: tuple[Path | None, ...]

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.labels):
            raise DataError(
                f"video {self.name} has {len(self.frames)} frames and {len(self.labels)} labels: expected a label, or "
                "None, for each frame"
            )
        pairs = [pair for pair in zip(self.frames, self.labels, strict=True) if not is_system_file(pair[0].name)]
        labels = [None if label is None or is_system_file(label.name) else label for _, label in pairs]
        object.__setattr__(self, "frames", tuple(frame for frame, _ in pairs))
        object.__setattr__(self, "labels", tuple(labels))


def clips_of_videos(videos: Iterable[Video], window: int, positions: Sequence[int], where: str) -> list[Clip]:
    """A clip for each labeled frame with ``window - 1`` frames before it: the frames at ``positions`` of 0..window-1.

    A video of one frame, a still image, has no past: its clip is that frame alone. Logs the number of labeled frames
    with fewer frames before them; ``where`` names the split in messages. Raises ``DataError`` where there is no label,
    ``OptionError`` where no video fills the window.
    """
    clips, too_early, longest = [], 0, 0
    for video in videos:
        for last, label in enumerate(video.labels):
            if label is None:
                continue
            first = last - window + 1
            is_still = len(video.frames) == 1
            if first < 0 and not is_still:
                too_early, longest = too_early + 1, max(longest, last + 1)
                continue
            frames = video.frames if is_still else tuple(video.frames[first + position] for position in positions)
            clips.append(Clip(f"{video.name}_{video.frames[last].stem}", video.name, frames, label))
    _refuse_names(clips, where)
    if not clips and not too_early:
        raise DataError(f"no labels in {where}: expected one or more labeled frames")
    if not clips:
        raise OptionError(
            f"--win-size {window}: no video in {where} has {window} frames up to a labeled one; the longest window "
            f"that works is {longest}"
        )
    if too_early:
        log.info(
            "%s: %d of %d labeled frames left out, as their video begins later than a window of %d frames",
            where,
            too_early,
            too_early + len(clips),
            window,
        )
    return clips


def _refuse_names(clips: Sequence[Clip], where: str) -> None:
    """Raises ``DataError`` for two clips of one name, and for names that are no file names: files are called so."""
    seen: set[str] = set()
    for clip in clips:
        if clip.name in seen or "/" in clip.name or clip.group in ("", ".", ".."):
            raise DataError(
                f"{where}: a labeled frame is called {clip.name}: expected names without slashes that differ, as "
                "predictions are written under them"
            )
        seen.add(clip.name)
