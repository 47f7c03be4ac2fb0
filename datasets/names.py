"""Which video a file belongs to, and at which number: from its name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from utils.errors import DataError

# The last digits of a name are the number of the frame; what is left of it and the folder are the video.
_LAST_DIGITS = re.compile(r"(?P<before>.*?)(?P<frame>\d+)(?P<after>\D*)", re.DOTALL)
_SEPARATORS = "/_-. "
GAP = 1.5  # of the usual step between two frames: from here on a frame is missing


@dataclass(frozen=True)
class Place:
    """The video of a frame, its number there, and the number as the name has it; '' for a still image."""

    video: str
    number: int
    digits: str


@dataclass(frozen=True)
class NamePattern:
    """A pattern of names with ``{video}``, ``{frame}`` and ``*``, without the ending; ``None``: by the last digits.

    Without ``{frame}`` each file is a video of its own, a still image; without ``{video}`` the folder is the video.
    Raises ``DataError`` for other words in braces.
    """

    pattern: str | None = None

    def __post_init__(self) -> None:
        words = set(re.findall(r"\{(.*?)\}", self.pattern or ""))
        if self.pattern is not None and (not words or words - {"video", "frame"}):
            raise DataError(
                f"sequence is {self.pattern!r}: expected {{video}} and {{frame}} in it, as in '{{video}}/{{frame}}' or "
                "'{video}_{frame}_camera'"
            )

    def place(self, name: str) -> Place | None:
        """The place of a file, by its path below the data's folder, without ending; ``None`` where it is none."""
        if self._regex is None:
            folder, slash, stem = name.rpartition("/")
            found = _LAST_DIGITS.fullmatch(stem)
            if found is None:
                return Place(name, 0, "")
            before, digits, after = found.groups()
            video = (folder + slash + before).rstrip(_SEPARATORS)
            return Place(video + after, int(digits), digits)
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        parts = found.groupdict()
        video = parts.get("video") or (parts.get("folder") or "").rstrip("/")
        return Place(video, int(parts["frame"]), parts["frame"]) if "frame" in parts else Place(video, 0, "")

    @cached_property
    def _regex(self) -> re.Pattern[str] | None:
        return None if self.pattern is None else re.compile(name_regex(self.pattern), re.DOTALL)


def name_regex(pattern: str) -> str:
    """A regular expression for a pattern, with groups ``video`` and ``frame``; ``folder`` where it names no video."""
    parts, seen = [], set()
    for part in re.split(r"(\{video\}|\{frame\}|\*)", pattern):
        word = part.strip("{}")
        if part == "*":
            parts.append(r"[^/]*")
        elif word not in ("video", "frame") or part == word:
            parts.append(re.escape(part))
        elif word in seen:
            parts.append(f"(?P={word})")
        else:
            seen.add(word)
            parts.append(r"(?P<video>.+?)" if word == "video" else r"(?P<frame>\d+)")
    has_folder = "video" not in seen and "/" not in pattern
    return (r"(?P<folder>(?:.*/)?)" if has_folder else "") + "".join(parts)


def missing_number(numbers: Iterable[int]) -> int | None:
    """The first number that is missing in the middle, by the usual step from one to the next; ``None`` for none."""
    ordered = sorted(numbers)
    steps = [after - before for before, after in pairwise(ordered)]
    step = usual_step(steps)
    gap = next((i for i, each in enumerate(steps) if each >= GAP * step), None)
    return None if gap is None else ordered[gap] + step


def usual_step(steps: Iterable[int]) -> int:
    """The lower quartile of the steps: what is lost only makes some of them longer; 1 where there is none."""
    ordered = sorted(steps)
    return ordered[len(ordered) // 4] if ordered else 1
