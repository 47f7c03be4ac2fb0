"""Synthetic street clips: what is drawn, how it moves, how it is spoiled, and what is on disk."""

import hashlib
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from datasets.synthetic import disk as on_disk
from datasets.synthetic.__main__ import main
from datasets.synthetic.camera import Camera, moved, render
from datasets.synthetic.clip import render_clip
from datasets.synthetic.corruption import enlarged, spoiled
from datasets.synthetic.disk import ensure_dataset, write_dataset
from datasets.synthetic.mesh import ALONG_X, STREET, UPWARDS, Mesh
from datasets.synthetic.motion import clip_motion, median_motion
from datasets.synthetic.options import StreetOptions
from datasets.synthetic.parts import ID, disc, rectangle
from datasets.synthetic.raster import filled, fixed
from datasets.synthetic.textures import SIZE, material
from tests.cityscapes import CLASSES
from utils.errors import DataError

SKY = material((90, 140, 220), (90, 140, 220))
NO_FOG = np.zeros((128, 4), np.int32)
SMALL = StreetOptions(height=32, width=64, length=2)
TINY = StreetOptions(height=64, width=128, length=2, difficulty=0.7, seed=5)


def square(mesh, z, paint, train_id, x=0.0, velocity=(0.0, 0.0, 0.0)):
    """A square of one meter with its lower left corner at (x, 1, z)."""
    group = mesh.group((x, 1.0, z), STREET, velocity)
    group.add(rectangle(0, 0, 1, 1), (x, 1.0, z), ALONG_X, UPWARDS, paint, "brick", train_id, (1.0, 1.0))


def drawn(mesh, time=0.0):
    """The mesh as a camera at a height of one meter sees it: focal length 281.6, principal point (128, 58.88)."""
    return render(mesh.surfaces(), Camera(128, 256, (0.0, 1.0, 0.0)), time, SKY, NO_FOG, ID["sky"])


def test_a_world_point_is_seen_where_the_camera_model_says():
    camera = Camera(128, 256, (0.0, 1.5, 0.0))
    # 128 + 281.6 * 1 / 10 and 58.88 + 281.6 * 1.5 / 10
    assert camera.project(np.array([1.0, 0.0, 10.0])) == pytest.approx([156.16, 101.12])
    # half a meter on: divided by 9.5
    assert Camera(128, 256, (0.0, 1.5, 0.5)).project(np.array([1.0, 0.0, 10.0])) == pytest.approx(
        [157.64211, 103.34316]
    )
    # turned to the right by 30 degrees, what lies in that direction is in the middle
    turned = Camera(128, 256, (0.0, 1.5, 0.0), yaw=np.pi / 6)
    assert turned.project(np.array([5.0, 1.5, 5 * 3**0.5])) == pytest.approx([128, 58.88], abs=1e-5)
    # pitched down by 45 degrees, so is what lies as far below as ahead
    pitched = Camera(128, 256, (0.0, 1.5, 0.0), pitch=np.pi / 4)
    assert pitched.project(np.array([0.0, -0.5, 2.0])) == pytest.approx([128, 58.88], abs=1e-5)


def test_a_square_covers_the_pixels_that_perspective_gives_it():
    mesh = Mesh()
    square(mesh, 10.0, mesh.paint((200, 30, 30)), ID["car"])
    image, train_ids = drawn(mesh)
    # x from 128 to 156.16, y from 58.88 - 28.16 = 30.72 to 58.88: pixels most of whose four samples are inside
    there = train_ids == ID["car"]
    assert there[31:59, 128:156].all()
    assert there.sum() == 28 * 28
    # and the image shows it there: only the edge's pixels may mix
    red = image[..., 0].astype(int) > image[..., 2]
    assert red[31:58, 128:156].all()
    assert not red[:30].any() and not red[60:].any() and not red[:, :127].any() and not red[:, 158:].any()
    assert set(np.unique(train_ids)) == {ID["car"], ID["sky"]}


def test_motion_is_that_of_camera_and_things():
    mesh = Mesh()
    square(mesh, 10.0, mesh.paint((200, 30, 30)), ID["car"])  # stands still
    square(mesh, 10.0, mesh.paint((200, 30, 30)), ID["bus"], x=-2.0, velocity=(0.5, 0.0, 0.0))  # keeps up
    surfaces, here = mesh.surfaces(), (1.0, 1.0, 0.0)
    camera, before = Camera(128, 256, here), Camera(128, 256, (0.5, 1.0, 0.0))
    _, train_ids = render(surfaces, camera, 1, SKY, NO_FOG, ID["sky"])
    motion = moved(surfaces, camera, before, 1)
    assert motion[train_ids == ID["car"]] == pytest.approx(281.6 * 0.5 / 10)
    assert motion[train_ids == ID["bus"]] == pytest.approx(0, abs=1e-4)
    assert motion[train_ids == ID["sky"]] == pytest.approx(0, abs=1e-4)
    # The camera has turned by 0.1: in the middle even the sky has moved by 281.6 * tan(0.1).
    turned = moved(surfaces, Camera(128, 256, here, yaw=0.1), Camera(128, 256, here), 0)
    assert turned[100, 127] == pytest.approx(281.6 * np.tan(0.1), rel=0.02)
    # Driven past: what was 9 meters behind the camera then was never in the image.
    assert np.isnan(moved(surfaces, camera, Camera(128, 256, (1.0, 1.0, 19.0)), 0)[train_ids == ID["car"]]).all()


def test_the_motion_of_a_set_grows_with_its_speed(tmp_path):
    medians = []
    for speed in (0.0, 1.0, 2.0):
        options = StreetOptions(height=64, width=128, length=2, speed=speed)
        write_dataset(tmp_path / str(speed), 0, 2, options)
        medians.append(median_motion(tmp_path / str(speed)))
    assert medians[0] == pytest.approx(0, abs=1e-3)
    assert 0.2 < medians[1] < medians[2] < 10
    with pytest.raises(DataError, match="holds no street clips"):
        median_motion(tmp_path)
    (tmp_path / "0.0/dataset.json").write_text(
        (tmp_path / "1.0/dataset.json").read_text().replace('"format": 1', '"format": 0')
    )
    with pytest.raises(DataError, match="format 0 instead of 1"):
        median_motion(tmp_path / "0.0")
    assert not clip_motion(StreetOptions(height=32, width=64, length=1), 3).any()


def test_what_moves_takes_its_texture_along():
    mesh = Mesh()
    # 8 pixels a frame: 8 * 10 / 281.6 meters
    square(mesh, 10.0, mesh.paint((200, 30, 30)), ID["car"], velocity=(80 / 281.6, 0.0, 0.0))
    (before, ids_before), (after, ids_after) = drawn(mesh), drawn(mesh, 1.0)
    assert (ids_after[:, 8:] == ids_before[:, :-8]).all()
    moved = np.abs(after[32:58, 138:162].astype(int) - before[32:58, 130:154])
    unmoved = np.abs(after[32:58, 138:154].astype(int) - before[32:58, 138:154])
    assert moved.mean() < 1 < 5 < unmoved.mean()


def test_the_nearer_thing_hides_the_farther_one_whatever_was_built_first():
    for nearer_first in (True, False):
        mesh = Mesh()
        things = [(5.0, "person"), (10.0, "car")]
        for z, name in things if nearer_first else things[::-1]:
            square(mesh, z, mesh.paint((80, 80, 80)), ID[name])
        _, train_ids = drawn(mesh)
        assert train_ids[50, 130] == ID["person"]
        assert not (train_ids == ID["car"]).any()  # it covers a quarter of what is before it


def test_polygons_fill_the_samples_whose_middles_they_hold():
    triangle = [(0, 0), (4, 0), (0, 4)]  # its slanted edge takes 4, 3, 2 and 1 samples of the first four rows
    ring = [(4.5, 2.5), (7.5, 2.5), (7.5, 4.5), (4.5, 4.5), (4.5, 2.5), (5.5, 3.5), (5.5, 4.5), (6.5, 4.5), (6.5, 3.5),
            (5.5, 3.5)]  # fmt: skip
    beyond = [(-9, 4.5), (1.5, 4.5), (1.5, 99), (-9, 99)]
    sizes = np.array([len(triangle), len(ring), len(beyond)])
    buffer = filled(fixed(np.array(triangle + ring + beyond)), sizes, 6, 8)
    assert buffer.tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 2, 2, 2],
        [0, 0, 0, 0, 0, 2, 0, 2],
        [3, 3, 0, 0, 0, 0, 0, 0],
    ]


def test_things_behind_the_camera_and_through_its_plane():
    mesh = Mesh()
    square(mesh, -3.0, mesh.paint((80, 80, 80)), ID["car"])
    ground = mesh.group((0.0, 0.0, 0.0), STREET)
    ground.add(rectangle(-500, -50, 500, 500), (0, 0, 0), ALONG_X, (0, 0, 1.0), mesh.paint((9, 9, 9)), "plain", 0)
    _, train_ids = drawn(mesh)
    # the ground ends at y = 58.88 + 281.6 * 1 / 500 = 59.44
    assert (train_ids[:59] == ID["sky"]).all() and (train_ids[60:] == 0).all()


def test_a_wheel_drawn_on_its_side_is_round():
    assert np.hypot(*(np.array(disc(2.0, 3.0, 0.5)) - (2.0, 3.0)).T) == pytest.approx(0.5)


def test_a_clip_is_the_same_on_every_machine():
    frames, train_ids = render_clip(TINY, 4)
    assert frames.shape == (2, 64, 128, 3) and frames.dtype == np.uint8
    assert train_ids.shape == (2, 64, 128) and train_ids.dtype == np.uint8
    assert hashlib.sha256(train_ids.tobytes()).hexdigest()[:16] == "9a1135c88034e85b"
    assert hashlib.sha256(frames.tobytes()).hexdigest()[:16] == "4b421d30e9db88d7"


def test_all_classes_occur_and_none_but_them():
    options = StreetOptions(height=64, width=128, length=1, difficulty=0.0)
    counts = sum(np.bincount(render_clip(options, 2 * clip + 1)[1].ravel(), minlength=256) for clip in range(20))
    assert len(CLASSES) == 19 and counts[19:].sum() == 0
    assert counts[:19].min() > 150, dict(zip(ID, counts[:19], strict=True))


def test_seeds_difficulty_length_and_size_change_what_they_should():
    clean = StreetOptions(height=64, width=128, length=2, difficulty=0.0)
    frames, train_ids = render_clip(clean, 3)
    assert (render_clip(StreetOptions(64, 128, 2, 1.0), 3)[1] == train_ids).all()  # as hard as can be, the same street
    assert (render_clip(StreetOptions(64, 128, 4, 0.0), 3)[0][:2] == frames).all()
    assert (render_clip(StreetOptions(64, 128, 2, 0.0, seed=2), 3)[1] != train_ids).mean() > 0.2
    assert (render_clip(clean, 4)[1] != train_ids).mean() > 0.2
    large = render_clip(StreetOptions(128, 256, 1, 0.0), 3)[1][0, ::2, ::2]
    assert (large == train_ids[0]).mean() > 0.9


def test_at_speed_nought_only_the_damage_changes():
    frames, train_ids = render_clip(StreetOptions(64, 128, 3, difficulty=0.0, speed=0.0), 7)
    assert (frames == frames[0]).all() and (train_ids == train_ids[0]).all()
    frames, train_ids = render_clip(StreetOptions(64, 128, 3, difficulty=1.0, speed=0.0), 7)
    assert (train_ids == train_ids[0]).all()
    assert np.abs(frames[0].astype(int) - frames[1]).mean() > 10
    assert (render_clip(StreetOptions(64, 128, 3, difficulty=0.0), 7)[1][2] != train_ids[0]).mean() > 0.02


def test_each_frame_is_spoiled_in_its_own_way():
    gray = np.full((128, 256, 3), 128, np.uint8)
    first, second = (spoiled(gray, 1.0, [1, 2, frame]).astype(float) for frame in (0, 1))
    fine = [np.diff(noisy, axis=1).ravel() for noisy in (first, second)]
    assert min(f.std() for f in fine) > 5
    assert abs(np.corrcoef(*fine)[0, 1]) < 0.02  # three deviations of unrelated noise: 3 / sqrt(98 000) is 0.01
    assert (spoiled(gray, 1.0, [1, 2, 0]) == first).all()
    assert (spoiled(gray, 0.0, [1, 2, 0]) == gray).all()


def test_coarse_noise_is_interpolated_linearly():
    grid = np.array([[0, 8], [16, 24]])[..., None]
    expected = [[0, 2, 4, 6], [4, 6, 8, 10], [8, 10, 12, 14], [12, 14, 16, 18]]
    assert enlarged(grid, 2)[..., 0].tolist() == expected


def test_a_material_mixes_its_two_colors():
    colors = material((140, 70, 0), (0, 70, 210))
    neutral, dark, bright = 16 << 3, 8 << 3, 31 << 3
    assert colors[neutral].tolist() == [140, 70, 0, 0]
    assert colors[neutral | 7].tolist() == [0, 70, 210, 0]
    assert colors[neutral | 3].tolist() == [80, 70, 90, 0]
    assert colors[dark].tolist() == [70, 35, 0, 0]
    assert colors[bright | 7].tolist() == [0, 135, 255, 0]
    assert colors.shape == (256, 4) and SIZE == 128


def test_the_layout_on_disk_is_that_of_cityscapes(tmp_path):
    out = ensure_dataset(tmp_path / "streets", 2, 1, SMALL)
    assert out == tmp_path / "streets"
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    expected = ["dataset.json"]
    for split, clips in (("train", 2), ("val", 1)):
        for clip in range(clips):
            for frame in range(2):
                name = f"{split}/street/street_00000{clip}_00000{frame}"
                expected += [f"leftImg8bit_sequence/{name}_leftImg8bit.png", f"gtFine/{name}_gtFine_labelIds.png"]
    assert found == sorted(expected)
    assert json.loads((out / "dataset.json").read_text()) == {
        "format": 1, "train_clips": 2, "val_clips": 1, "height": 32, "width": 64, "length": 2, "difficulty": 1.5,
        "seed": 1, "speed": 1.0,
    }  # fmt: skip
    # the second training clip has seed 2, the only validation clip seed 1
    for split, clip, seed in (("train", 1, 2), ("val", 0, 1)):
        frames, train_ids = render_clip(SMALL, seed)
        image, label = on_disk.frame_files(out, split, clip, 1)
        assert (cv2.imread(str(image))[..., ::-1] == frames[1]).all()
        label_ids = np.array([c.label_id for c in CLASSES])[train_ids[1]]
        assert (cv2.imread(str(label), cv2.IMREAD_UNCHANGED) == label_ids).all()


def test_training_and_validation_never_share_a_seed():
    seeds = [{on_disk.clip_seed(split, clip) for clip in range(500)} for split in ("train", "val")]
    assert len(seeds[0]) == len(seeds[1]) == 500 and not seeds[0] & seeds[1]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_writing_goes_on(tmp_path, monkeypatch):
    whole = contents(ensure_dataset(tmp_path / "whole", 2, 1, SMALL))

    def interrupted(options, seed):
        if seed == 2:
            raise KeyboardInterrupt
        return render_clip(options, seed)

    out = tmp_path / "parts"
    with monkeypatch.context() as patched:
        patched.setattr(on_disk, "render_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_dataset(out, 2, 1, SMALL)
    assert not (out / "dataset.json").exists() and (out / "dataset.json.partial").exists()
    with pytest.raises(DataError, match=r"seed 1 instead of 2"):
        ensure_dataset(out, 2, 1, StreetOptions(32, 64, 2, seed=2))
    ensure_dataset(out, 2, 1, SMALL)
    assert contents(out) == whole


def test_what_is_there_is_not_drawn_again(tmp_path, monkeypatch):
    out = ensure_dataset(tmp_path / "streets", 1, 0, SMALL)
    monkeypatch.setattr(on_disk, "render_clip", None)
    assert ensure_dataset(out, 1, 0, SMALL) == out


def test_what_can_be_chosen_is_known_without_what_draws():
    check = "import sys, datasets.synthetic.options; sys.exit(bool({'numpy', 'torch', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_several_processes_write_the_same(tmp_path):
    one, two = ensure_dataset(tmp_path / "one", 2, 1, SMALL), ensure_dataset(tmp_path / "two", 2, 1, SMALL, workers=2)
    assert contents(one) == contents(two)


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    out = ensure_dataset(tmp_path / "streets", 1, 0, SMALL)
    before = contents(out)
    other = StreetOptions(32, 64, 2, difficulty=0.25, speed=2.0)
    with pytest.raises(DataError, match=r"difficulty 1\.5 instead of 0\.25, speed 1\.0 instead of 2\.0"):
        ensure_dataset(out, 1, 0, other)
    with pytest.raises(DataError, match="train_clips 1 instead of 3"):
        write_dataset(out, 3, 0, SMALL)
    assert contents(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match=r"no dataset\.json"):
        ensure_dataset(tmp_path / "mine", 1, 0, SMALL)
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]
    (out / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        ensure_dataset(out, 1, 0, SMALL)
    with pytest.raises(DataError, match=r"letter\.txt"):
        ensure_dataset(tmp_path / "mine" / "letter.txt", 1, 0, SMALL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "128"], "128x256"),
        (["--size", "8x256"], "height 8"),
        (["--difficulty", "3.5"], "difficulty 3.5"),
        (["--difficulty", "nan"], "difficulty nan"),
        (["--speed", "-1"], "speed -1"),
        (["--length", "0"], "length 0"),
        (["--seed", "-3"], "seed -3"),
        (["--workers", "0"], "0 workers"),
        (["--train-clips", "-1"], "-1 training"),
        (["--train-clips", "0", "--val-clips", "0"], "0 training"),
    ],
)
def test_wrong_options_end_with_status_2_and_leave_nothing(tmp_path, capsys, arguments, said):
    try:
        status = main([str(tmp_path / "streets"), *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "streets").exists()


def test_the_command_writes_and_refuses(tmp_path):
    command = [
        sys.executable,
        "-m",
        "datasets.synthetic",
        str(tmp_path / "s"),
        "--train-clips",
        "1",
        "--val-clips",
        "0",
    ]
    command += ["--size", "32x64", "--length", "1", "--workers", "1"]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "s" / "dataset.json").exists()
    refused = subprocess.run([*command, "--seed", "9"], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1 and "seed 1 instead of 9" in refused.stderr
