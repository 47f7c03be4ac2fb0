"""Clips of densely labeled videos as a stream: each holds only the frames that none before it has brought."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets.clip_dataset import ClipDataset
from datasets.clips import Clip, Video


@dataclass(frozen=True)
class StreamedClip:
    """A labeled frame of a video, and the frames up to it that the stream has not seen yet.

    ``after`` is the position, among the streamed clips, of the one whose memory this one goes on with; ``None`` for an
    empty memory. ``number`` is the clip's position among those with a full window, ``None`` for a frame that comes too
    early for one. ``follows`` says that the frame before this one in the video is labeled too.
    """

    clip: Clip
    video: str
    number: int | None
    after: int | None
    follows: bool


class StreamedClips(ClipDataset):
    """The clips of ``clips`` in a stream, and all labeled frames that come too early for a full window."""

    def __init__(self, clips: ClipDataset, stream: Sequence[StreamedClip]) -> None:
        super().__init__(
            clips.dataset,
            [each.clip for each in stream],
            clips.size,
            cache=clips.cache,
            original_labels=clips.original_labels,
            label_divisor=clips.label_divisor,
            retries=clips.retry_policy.retries,
        )
        self.stream, self.count = list(stream), len(clips)

    def share(self, rank: int, world_size: int) -> list[int]:
        """The positions that a process takes: whole videos, as many frames in each process as that allows."""
        starts = [i for i, each in enumerate(self.stream) if i == 0 or each.video != self.stream[i - 1].video]
        ends = [*starts[1:], len(self.stream)]
        mine = (start * world_size // len(self.stream) == rank for start in starts)
        return [i for start, end, is_mine in zip(starts, ends, mine, strict=True) if is_mine for i in range(start, end)]


def streamed(
    videos: Sequence[Video], clips: Sequence[Clip], window: int, positions: Sequence[int], memory_size: int
) -> list[StreamedClip] | None:
    """The clips as a stream with a memory of ``memory_size`` frames; ``None`` where no two labels are that near.

    Each clip reads the memory that it would fill itself: where another one left a different one, it starts anew.
    """
    numbers = {clip.label: number for number, clip in enumerate(clips)}
    stream: list[StreamedClip] = []
    for video in videos:
        ends: dict[int, tuple[int, tuple[int, ...]]] = {}  # position in the stream and memory, by the last frame
        for last, label in enumerate(video.labels):
            if label is None:
                continue
            wanted = [last - window + 1 + position for position in positions]
            chosen = [last] if len(video.frames) == 1 else [each for each in wanted if each >= 0]
            number = numbers.pop(label, None)
            frames = tuple(video.frames[each] for each in chosen)
            after, new, memory = _continued(chosen, ends, memory_size)
            if number is not None and clips[number].frames != frames:  # taken from elsewhere
                after, frames, new = None, clips[number].frames, len(clips[number].frames)
            fresh = frames[len(frames) - new :]
            ends[last] = len(stream), (*memory, last)[-memory_size:] if memory_size else ()
            follows = last > 0 and video.labels[last - 1] is not None
            clip = Clip(f"{video.name}_{video.frames[last].stem}", video.name, fresh, label)
            stream.append(StreamedClip(clip, video.name, number, after, follows))
    if numbers or not any(each.follows or each.after is not None for each in stream):
        return None
    return stream


def _continued(
    chosen: Sequence[int], ends: Mapping[int, tuple[int, tuple[int, ...]]], memory_size: int
) -> tuple[int | None, int, tuple[int, ...]]:
    """What a clip goes on from, how many of its frames are new, and the memory that its last frame reads."""
    needed = tuple(chosen[:-1])[-memory_size:] if memory_size else ()
    for place in range(len(chosen) - 2, -1, -1):
        if chosen[place] in ends:
            after, before = ends[chosen[place]]
            if (*before, *chosen[place + 1 : -1])[-memory_size:] == needed:
                return after, len(chosen) - place - 1, needed
    return None, len(chosen), needed
