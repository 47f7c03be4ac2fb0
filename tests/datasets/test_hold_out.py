"""Clips that are held out of a training: whole scenes, drawn by the seed."""

from pathlib import Path

import pytest

from datasets.cityscapes import Roots, find_clips
from datasets.clips import Clip
from datasets.hold_out import split_by_scene
from utils.errors import OptionError


def clips_of(**counts: int) -> list[Clip]:
    return [
        Clip(f"{scene}_{number}", scene, (Path("frame"),), Path("label"))
        for scene, count in counts.items()
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_whole_scenes_of_about_the_share_are_held_out(seed):
    clips = clips_of(**{f"video{number}": 4 for number in range(25)})
    rest, held = split_by_scene(clips, 0.1, seed)
    assert sorted((*rest, *held), key=clips.index) == clips
    assert not {clip.scene for clip in rest} & {clip.scene for clip in held}
    assert len(held) in (8, 12)  # 10 clips are half of a video away from both
    assert rest == [clip for clip in clips if clip in rest]
    assert split_by_scene(clips, 0.1, seed) == (rest, held)


def test_seeds_draw_other_scenes():
    clips = clips_of(**{f"video{number}": 1 for number in range(20)})
    assert len({tuple(clip.name for clip in split_by_scene(clips, 0.1, seed)[1]) for seed in range(10)}) > 5


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_neither_side_is_empty(share):
    for clips in (clips_of(a=1, b=1), clips_of(a=50, b=3), clips_of(a=9, b=9, c=9)):
        for seed in range(5):
            rest, held = split_by_scene(clips, share, seed)
            assert rest and held


def test_a_large_scene_is_not_taken_for_a_small_share():
    clips = clips_of(large=80, a=5, b=5, c=5, d=5)
    for seed in range(10):
        assert len(split_by_scene(clips, 0.05, seed)[1]) == 5


def test_one_video_cannot_be_split():
    with pytest.raises(OptionError, match=r"one alone \(a\): expected two or more"):
        split_by_scene(clips_of(a=7), 0.1, 0)


def test_scenes_of_cityscapes_are_its_drives(tmp_path):
    names = ["aachen_000000_000019", "aachen_000001_000019", "hanover_000000_000712", "hanover_000000_001057"]
    for name in names:
        for part, ending in (("leftImg8bit_sequence", "_leftImg8bit.png"), ("gtFine", "_gtFine_labelIds.png")):
            path = tmp_path / part / "train" / name.split("_")[0] / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    clips = find_clips(Roots(tmp_path, tmp_path), "train", 1)
    assert [clip.scene for clip in clips] == ["aachen_000000", "aachen_000001", "hanover_000000", "hanover_000000"]
