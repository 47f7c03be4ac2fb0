"""Damage of the street clips that lasts for several frames: how long, where, the same everywhere, and its option."""

import hashlib
import json

import numpy as np
import pytest

from datasets.synthetic.camera import Camera
from datasets.synthetic.clip import render_clip
from datasets.synthetic.disk import described_clips, ensure_dataset
from datasets.synthetic.lasting import _spots, _with_the_street, worn
from datasets.synthetic.options import StreetOptions
from utils.errors import DataError

TINY = StreetOptions(height=64, width=128, length=3, difficulty=1.0, seed=5, persistence=4)
STANDS = Camera(64, 128, (0.0, 1.0, 0.0))


def gray_clip(persistence, frames, difficulty=1.0):
    """A gray wall before a camera that stands, damaged: what is seen is damage alone."""
    wall = np.full((64, 128, 3), 128, np.uint8)
    return np.stack([worn(wall, difficulty, persistence, [1, 2], time, lambda _: STANDS) for time in range(frames)])


def test_a_clip_with_lasting_damage_is_the_same_on_every_machine():
    frames, train_ids = render_clip(TINY, 4)
    assert hashlib.sha256(frames.tobytes()).hexdigest()[:16] == "c3c9c0c590bdee02"
    assert (train_ids == render_clip(StreetOptions(64, 128, 3, 0.0, seed=5), 4)[1]).all()


def test_a_frame_can_be_drawn_alone_and_a_longer_clip_begins_with_the_shorter_one():
    frames = render_clip(TINY, 4)[0]
    longer = render_clip(StreetOptions(64, 128, 9, 1.0, seed=5, persistence=4), 4)[0]
    assert (longer[:3] == frames).all()
    assert (gray_clip(4, 9)[8] == worn(np.full((64, 128, 3), 128, np.uint8), 1.0, 4, [1, 2], 8, lambda _: STANDS)).all()


def coarse(frames):
    """Damage without its fine noise: the mean color of blocks of 8x8 pixels, less the frame's mean."""
    blocks = frames.reshape(len(frames), 8, 8, 16, 8, 3).astype(float).mean((2, 4))
    return (blocks - blocks.mean((1, 2), keepdims=True)).reshape(len(frames), -1)


@pytest.mark.parametrize("persistence", [3, 9])
def test_damage_lasts_as_long_as_was_asked_for(persistence):
    frames = coarse(gray_clip(persistence, 60))
    after = [np.mean([np.corrcoef(frames[t], frames[t + lag])[0, 1] for t in range(60 - lag)]) for lag in (1, 30)]
    assert after[0] > 0.6 and abs(after[1]) < 0.25  # a spot has gone after 5 persistence / 2 frames at the latest
    half = next(lag for lag in range(1, 30)
                if np.mean([np.corrcoef(frames[t], frames[t + lag])[0, 1] for t in range(60 - lag)]) < 0.5)  # fmt: skip
    assert persistence / 3 < half <= 1.5 * persistence


def test_all_spots_come_and_go():
    at = [[(s.kind, s.color) for s in _spots((64, 128), 256, 5, [1, 3], time, lambda _: STANDS)] for time in range(40)]
    life = {spot: [time for time in range(40) if spot in at[time]] for spot in {s for spots in at for s in spots}}
    assert {kind for kind, _ in life} == set(range(6))
    for times in life.values():
        assert times == list(range(times[0], times[-1] + 1))  # without a gap
        assert len(times) <= 12 and (len(times) >= 3 or times[0] == 0 or times[-1] == 39)  # 5 // 2 + 1 to + 10
    assert 3 < np.mean([len(spots) for spots in at]) < 12


def test_a_spot_on_the_street_keeps_its_place_there():
    # 10 meters ahead, 14 pixels right of the middle: after 5 meters it is twice as far from it, and twice as large.
    ahead = Camera(64, 128, (0.0, 1.0, 5.0))
    assert _with_the_street(STANDS, ahead, 29, 78, 10) == (28, 92, 512)  # 64 + 2 * 14; 29.44 - 2 * 0.44 is 28.56
    assert _with_the_street(STANDS, STANDS, 29, 78, 10) in ((29, 78, 256), (28, 77, 256))
    assert _with_the_street(STANDS, Camera(64, 128, (0.0, 1.0, 9.5)), 29, 78, 10) is None  # it is being passed
    turned = Camera(64, 128, (0.3, 1.2, 2.0), yaw=0.2, pitch=-0.1)
    points = np.array([[1.0, 0.5, 9.0], [-4.0, 2.0, 20.0]])
    assert turned.world(turned.seen(points)) == pytest.approx(points, abs=1e-7)


def test_difficulty_scales_it_and_none_leaves_the_frame_alone():
    wall = np.full((64, 128, 3), 128, np.uint8)
    assert (gray_clip(4, 2, difficulty=0.0) == wall).all()
    changed = [np.abs(gray_clip(4, 8, difficulty).astype(int) - 128).mean() for difficulty in (0.3, 1.0, 3.0)]
    assert 0 < changed[0] < changed[1] < changed[2]


def test_folders_of_the_old_kind_stay_what_they_were(tmp_path):
    old, new = StreetOptions(32, 64, 1), StreetOptions(32, 64, 1, persistence=6)
    ensure_dataset(tmp_path / "old", 1, 0, old)
    assert "persistence" not in json.loads((tmp_path / "old/dataset.json").read_text())
    ensure_dataset(tmp_path / "new", 1, 0, new)
    assert json.loads((tmp_path / "new/dataset.json").read_text())["persistence"] == 6
    assert described_clips(tmp_path / "old")[0] == old and described_clips(tmp_path / "new")[0] == new
    with pytest.raises(DataError, match="persistence 0 instead of 6"):
        ensure_dataset(tmp_path / "old", 1, 0, new)
    with pytest.raises(DataError, match="persistence 6 instead of 0"):
        ensure_dataset(tmp_path / "new", 1, 0, old)
    for wrong in (-1, 1.5, 101):
        with pytest.raises(DataError, match=f"persistence {wrong}"):
            StreetOptions(persistence=wrong)
