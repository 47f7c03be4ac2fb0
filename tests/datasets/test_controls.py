"""What the control experiments put into the place of a clip's frames and label."""

from pathlib import Path

from datasets.clips import Clip
from datasets.controls import CONTROLS
from engine.options import parser as options


def clip(letter: str) -> Clip:
    return Clip(letter, "city", tuple(Path(f"{letter}{number}") for number in range(3)), Path(f"{letter}_label"))


CLIPS = [clip(letter) for letter in "abcde"]


def frames_of(kind: str) -> list[str]:
    return [" ".join(path.name for path in clip.frames) for clip in CONTROLS[kind](CLIPS)]


def test_every_control_can_be_asked_for():
    assert tuple(CONTROLS) == options.CONTROLS


def test_a_repeated_frame_is_all_that_is_seen():
    assert frames_of("repeated-frame") == ["a2 a2 a2", "b2 b2 b2", "c2 c2 c2", "d2 d2 d2", "e2 e2 e2"]


def test_earlier_frames_come_from_another_clip_each():
    assert frames_of("other-clip") == ["c0 c1 a2", "d0 d1 b2", "e0 e1 c2", "a0 a1 d2", "b0 b1 e2"]
    assert [clip.label.name[0] for clip in CONTROLS["other-clip"](CLIPS)] == list("abcde")


def test_labels_come_from_another_clip_each():
    changed = CONTROLS["other-labels"](CLIPS)
    assert [clip.label.name[0] for clip in changed] == list("cdeab")
    assert [clip.frames for clip in changed] == [clip.frames for clip in CLIPS]
