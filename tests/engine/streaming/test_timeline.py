"""Moments of frames always go on: in joined transport streams, playlists with discontinuities, and several videos."""

from itertools import pairwise
from pathlib import Path

import pytest

from engine.streaming.sources import open_source
from engine.streaming.sources.timeline import Timeline
from tests.engine.videos import moving_blocks, write_timed_video, write_video

STEP = 0.04


def moments(source: Path | str) -> list[float]:
    return [frame.seconds for frame in open_source(str(source))]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]),  # two files, joined
        ([5, 6, 9, 10], [5, 6, 9, 10]),  # a gap
        ([0, 1, 2, 50, 51, 0, 1], [0, 1, 2, 50, 51, 52, 53]),  # a gap, and back
        ([0, 1, 1, 2, 3], [0, 1, 1.5, 2, 3]),  # a moment that is said twice
        ([0, 1, 2, 1.9, 4], [0, 1, 2, 2.5, 4]),  # an imprecise clock
        ([0, 0, 0, 0], [0, 0.5, 1, 2]),  # no clock
        ([0, None, None, 3], [0, 1, 2, 3]),
        ([None, None], [0, 1]),
        ([9, 8, 7, 6], [9, 10, 11, 12]),  # each a file of its own
    ],
)
def test_times_go_on_and_gaps_stay(said, expected):
    timeline = Timeline()
    assert [timeline.moment(seconds, 1.0) for seconds in said] == expected


def part(path: Path, frames: range, start: float = 0.0) -> Path:
    images = moving_blocks(frames.stop)[frames.start :]
    return write_timed_video(path, [start + STEP * number for number in range(len(images))], images)


@pytest.mark.parametrize("ending", [".ts", ".m2ts"])
def test_joined_files_are_as_long_as_their_parts(tmp_path, ending):
    first, second = (part(tmp_path / f"{name}{ending}", range(10)) for name in "ab")
    joined = tmp_path / f"joined{ending}"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    found = moments(joined)
    assert len(found) == 20
    assert [b - a for a, b in pairwise(found)] == pytest.approx([STEP] * 19, abs=0.002)


def test_a_gap_between_joined_files_stays(tmp_path):
    parts = part(tmp_path / "a.ts", range(10)), part(tmp_path / "b.ts", range(10), start=7.0)
    (tmp_path / "joined.ts").write_bytes(b"".join(each.read_bytes() for each in parts))
    found = moments(tmp_path / "joined.ts")
    assert found[10] - found[9] == pytest.approx(moments(parts[1])[0] - moments(parts[0])[9], abs=0.002)
    assert found[10] - found[9] > 6


def test_a_playlist_with_discontinuities_is_whole(tmp_path):
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1"]
    for name in "abc":
        part(tmp_path / f"{name}.ts", range(10))
        lines += ["#EXTINF:0.4,", f"{name}.ts", "#EXT-X-DISCONTINUITY"]
    (tmp_path / "list.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST"]))
    found = moments(tmp_path / "list.m3u8")
    assert len(found) == 30
    assert found[-1] - found[0] == pytest.approx(29 * STEP, abs=0.01)


def test_several_videos_follow_each_other_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 10):
        write_video(tmp_path / f"clip{number}.mp4", moving_blocks(number))
    for pattern in ("*.mp4", "clip%d.mp4"):
        frames = list(open_source(str(tmp_path / pattern)))
        assert [frame.name for frame in frames[:4]] == [
            "clip1_000000", "clip2_000000", "clip2_000001", "clip10_000000",
        ]  # fmt: skip
        assert [frame.seconds for frame in frames] == pytest.approx([STEP * number for number in range(13)], abs=1e-3)
