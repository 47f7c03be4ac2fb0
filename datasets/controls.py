"""Control experiments: clips whose earlier frames, or whose labels, carry no information.

The memory's gain in accuracy must vanish with them; a gain that remains has another cause.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from datasets.clips import Clip


def repeated_frame(clips: Sequence[Clip]) -> list[Clip]:
    """Clips that repeat their labeled frame: the memory holds nothing new."""
    return [replace(clip, frames=(clip.frames[-1],) * len(clip.frames)) for clip in clips]


def other_clip(clips: Sequence[Clip]) -> list[Clip]:
    """Clips with the earlier frames of a clip half the data set away: the memory holds another street."""
    return [replace(clip, frames=(*other.frames[:-1], clip.frames[-1])) for clip, other in _paired(clips)]


def other_labels(clips: Sequence[Clip]) -> list[Clip]:
    """Clips with the label of a clip half the data set away: labels are unrelated to frames."""
    return [replace(clip, label=other.label) for clip, other in _paired(clips)]


CONTROLS: dict[str, Callable[[Sequence[Clip]], list[Clip]]] = {
    "repeated-frame": repeated_frame,
    "other-clip": other_clip,
    "other-labels": other_labels,
}


def _paired(clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    half = len(clips) // 2
    return list(zip(clips, [*clips[half:], *clips[:half]], strict=True))
