"""Cuts are found, motion and noise are none."""

import numpy as np

from utils.scene_cuts import SceneCuts


def cuts_in(frames) -> list[int]:
    cuts = SceneCuts()
    return [number for number, frame in enumerate(frames) if cuts.begins_scene(frame)]


def scene(seed: int, count: int, speed: int = 3) -> list[np.ndarray]:
    rs = np.random.RandomState(seed)
    blocks = rs.randint(0, 256, (6, 40, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    return [blocks[:, speed * t : speed * t + 192] for t in range(count)]


def test_cuts_between_scenes_are_found():
    assert cuts_in([*scene(0, 12), *scene(1, 1), *scene(2, 9)]) == [12, 13]


def test_motion_and_noise_are_no_cuts():
    noise = np.random.RandomState(5)
    frames = [(f + noise.randint(-20, 20, f.shape)).clip(0, 255).astype(np.uint8) for f in scene(0, 40, speed=8)]
    assert cuts_in(frames) == []


def test_an_empty_start_is_no_cut():
    assert cuts_in(scene(0, 1)) == []
