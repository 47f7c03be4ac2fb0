"""A data set of a user's, described by a YAML file: trained, resumed, evaluated, streamed under its own names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.registry import register_dataset
from main import main
from models.inference.segmenter import loaded_network
from models.normalize import network_input
from tests import farm
from tests.plugins import registries_restored

SMALL = ["--work-size", "32x64", "--corr-size", "3", "--batch-size", "2", "--num-workers", "0", "--device", "cpu"]
TRAIN = ["--training", "--weights", "none", "--train-encoder", "--train-decoder", "--lr-start", "1e-3"]


def run(*options: str) -> int:
    return main([*options, *SMALL])


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Weights that a training on a YAML file left, and the report of their evaluation in Cityscapes' layout."""
    folder = tmp_path_factory.mktemp("trained")
    file, data = farm.write_folders(folder / "yaml"), farm.write_cityscapes(folder / "cityscapes")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run(*TRAIN, "--dataset", str(file), "--num-epochs", "1", "--savedir", str(folder / "train")) == 0
    with registries_restored():
        register_dataset(farm.Farm())
        there = ("--dataset", "Farm", "--data-root", str(data), "--weights", str(folder / "train" / "model_best.pth"))
        assert run("--eval-mode", *there, "--savedir", str(folder / "eval")) == 0
    torch.set_num_threads(threads)
    return folder


def evaluate(trained: Path, file: Path, savedir: Path, *options: str) -> int:
    weights = str(trained / "train" / "model_best.pth")
    return run("--eval-mode", "--dataset", str(file), "--weights", weights, "--savedir", str(savedir), *options)


def test_figures_are_those_of_cityscapes_layout(trained, tmp_path, capsys):
    assert evaluate(trained, farm.write_folders(tmp_path), tmp_path / "eval") == 0
    found, expected = report_of(tmp_path / "eval"), report_of(trained / "eval")
    assert list(found["iou"]) == list(farm.NAMES)
    assert {name: found[name] for name in ("iou", "mean_iou", "accuracy", "clips")} == {
        name: expected[name] for name in ("iou", "mean_iou", "accuracy", "clips")
    }
    assert found["mean_iou"] > 0
    assert "barn" in capsys.readouterr().out
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "sheep" in page and "bicycle" not in page


def goes_all_the_way(file: Path, frames: Path, folder: Path) -> None:
    """Trains an epoch, resumes to the second, evaluates and streams."""
    run_folder = folder / "run"
    train = (*TRAIN, "--dataset", str(file), "--savedir", str(run_folder))
    assert run(*train, "--num-epochs", "1") == 0
    assert run(*train, "--num-epochs", "2", "--resume") == 0
    assert len((run_folder / "automated_log.txt").read_text().splitlines()) == 3
    weights = str(run_folder / "model_best.pth")
    assert run("--eval-mode", "--dataset", str(file), "--weights", weights, "--savedir", str(folder / "eval")) == 0
    assert list(report_of(folder / "eval")["iou"]) == list(farm.NAMES)
    stream = (
        "--stream",
        str(frames),
        "--weights",
        weights,
        "--save-labels",
        "labelIds",
        "--savedir",
        str(folder / "s"),
    )
    assert main([*stream, "--device", "cpu"]) == 0  # neither the file nor the network's options are needed
    assert set(json.loads((folder / "s" / "stream.json").read_text())["class_shares"]) <= {*farm.NAMES, "ignored"}
    labels = list((folder / "s" / "labels").iterdir())
    assert len(labels) == farm.FRAMES
    assert all(set(np.unique(np.asarray(Image.open(path)))) <= {*range(5), 255} for path in labels)


def frames_of(layout: str, root: Path) -> Path:
    """What is streamed of a layout's second validation video."""
    first = next(path for path in sorted(root.rglob("*")) if path.is_file() and "five" in str(path.relative_to(root)))
    if first.suffix == ".mp4":
        return first
    folder = root / "streamed"
    for number, (frame, _) in enumerate(farm.pictures("five")):
        farm.save(folder / f"{number}.png", frame)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layout", farm.LAYOUTS)
def test_every_layout_goes_all_the_way(layout, tmp_path):
    root = tmp_path / "farm"
    goes_all_the_way(farm.LAYOUTS[layout](root), frames_of(layout, root), tmp_path)


@pytest.mark.slow
def test_dense_labels_go_all_the_way(tmp_path):
    root = tmp_path / "farm"
    goes_all_the_way(farm.write_folders(root, dense=True), frames_of("dense", root), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [each for each in farm.LAYOUTS if each != "sparse"])
def test_every_layout_gives_the_same_figures(layout, trained, tmp_path):
    assert evaluate(trained, farm.LAYOUTS[layout](tmp_path / "farm"), tmp_path / "eval") == 0
    found, expected = report_of(tmp_path / "eval"), report_of(trained / "eval")
    assert (found["iou"], found["mean_iou"], found["clips"]) == (
        expected["iou"],
        expected["mean_iou"],
        expected["clips"],
    )


def last_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


def test_other_names_than_the_network_has(trained, tmp_path, capsys):
    file = farm.write_folders(tmp_path, head=farm.HEAD.replace(", sky]", "]"))
    assert evaluate(trained, file, tmp_path / "eval") == 2
    assert "predicts 5 classes (ground, barn, sheep, ...), --dataset " in last_line(capsys)


def test_another_number_of_names_than_a_file_without_names_has(tmp_path, erfnet_file, capsys):
    file = farm.write_folders(tmp_path)
    words = ("--eval-mode", "--baseline-mode", "--dataset", str(file), "--weights", str(erfnet_file))
    assert run(*words, "--savedir", str(tmp_path / "eval")) == 2
    assert "20" in last_line(capsys)


def test_what_is_wrong_ends_in_one_line_and_status_2(trained, tmp_path, capsys):
    file = farm.write_folders(tmp_path)
    pixels = farm.pictures("five")[-1][1].copy()
    pixels[3, 5:8] = 77
    farm.save(tmp_path / "masks/val/five/005.png", pixels)
    assert evaluate(trained, file, tmp_path / "eval") == 2
    assert "five/005.png holds the id 77 (3 pixels, first in row 3, column 5)" in last_line(capsys)
    (tmp_path / "frames/val/five/004.png").write_bytes(b"no picture")
    assert evaluate(trained, file, tmp_path / "eval") == 2
    assert "frames/val/five/004.png cannot be read" in last_line(capsys)
    file.write_text(farm.HEAD + "mask: masks\n")
    with pytest.raises(SystemExit) as end:
        evaluate(trained, file, tmp_path / "eval")
    assert end.value.code == 2
    assert "the key 'mask' is not known: did you mean 'masks'?" in last_line(capsys)


@pytest.mark.slow
def test_still_images_train_and_evaluate(trained, tmp_path, capsys):
    file = farm.write_folders(tmp_path, "masks: masks\nsequence: '{video}'\n")
    assert evaluate(trained, file, tmp_path / "eval") == 0
    assert report_of(tmp_path / "eval")["clips"] == 2
    train = (*TRAIN, "--dataset", str(file), "--savedir", str(tmp_path / "run"), "--num-epochs", "1")
    assert run(*train) == 0


def test_a_network_is_scored_on_groups_of_its_classes(trained, tmp_path, capsys):
    file, groups = farm.write_folders(tmp_path), tmp_path / "groups.yaml"
    groups.write_text("land: [ground, tree]\nanimal: sheep\nignored: [barn]\n")
    assert evaluate(trained, file, tmp_path / "eval", "--classes", str(groups), "--save-all-vals") == 0
    found = report_of(tmp_path / "eval")
    assert list(found["iou"]) == ["land", "animal", "sky"]
    assert found["class_map"]["classes"] == {"land": ["ground", "tree"], "animal": ["sheep"], "sky": ["sky"]}
    assert found["class_map"]["ignored"] == ["barn"]
    assert "land = ground + tree; animal = sheep; ignored: barn" in capsys.readouterr().out
    assert "land = ground + tree" in (tmp_path / "eval" / "report.html").read_text()

    model, confusion = loaded_network(str(trained / "train" / "model_best.pth")).eval(), np.zeros((4, 4), int)
    for video in farm.VIDEOS["val"]:
        shown = farm.pictures(video)[-4:]
        clip = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame, _ in shown])
        with torch.inference_mode():
            p = model(network_input(clip[None], model.config.traits, torch.device("cpu"))).softmax(2)[0, 0]
        prediction = torch.stack([p[0] + p[3], p[2], p[4], p[1] + p[5]]).argmax(0).numpy()
        label = np.array([0, 3, 1, 0, 2, *[3] * 251])[shown[-1][1]]
        np.add.at(confusion, (label[label < 3], prediction[label < 3]), 1)
    hits = np.diag(confusion)[:3]
    union = confusion.sum(1)[:3] + confusion.sum(0)[:3] - hits
    assert list(found["iou"].values()) == pytest.approx(list(hits / union), abs=1e-12)

    stream = ("--stream", str(tmp_path / "frames/val/five"), "--classes", str(groups), "--savedir", str(tmp_path / "s"))
    assert main([*stream, "--weights", str(trained / "train" / "model_best.pth"), "--device", "cpu"]) == 0
    shares = json.loads((tmp_path / "s" / "stream.json").read_text())["class_shares"]
    assert set(shares) <= {"land", "animal", "sky", "ignored"}


@pytest.mark.slow
def test_a_network_is_trained_on_groups(tmp_path):
    file, groups = farm.write_folders(tmp_path), tmp_path / "groups.yaml"
    groups.write_text("land: [ground, tree]\nignored: rest\n")
    mapped = ("--dataset", str(file), "--classes", str(groups))
    assert run(*TRAIN, *mapped, "--num-epochs", "1", "--savedir", str(tmp_path / "run")) == 0
    weights = tmp_path / "run" / "model_best.pth"
    assert torch.load(weights, weights_only=True).lmanet["classes"]["names"] == ["land"]
    assert run("--eval-mode", *mapped, "--weights", str(weights), "--savedir", str(tmp_path / "eval")) == 0
    assert list(report_of(tmp_path / "eval")["iou"]) == ["land"]


def test_groups_of_classes_that_are_not_there(trained, tmp_path, capsys):
    file, groups = farm.write_folders(tmp_path), tmp_path / "groups.yaml"
    groups.write_text("land: [ground, grass]\n")
    with pytest.raises(SystemExit) as end:
        evaluate(trained, file, tmp_path / "eval", "--classes", str(groups))
    assert end.value.code == 2
    assert "groups.yaml: there is no class 'grass'" in last_line(capsys)


def test_still_images_among_videos_need_a_batch_of_one(tmp_path, capsys):
    file = farm.write_folders(tmp_path)
    for frame in list((tmp_path / "frames/train/one").glob("00[0-4].png")):
        frame.unlink()
    train = (*TRAIN, "--dataset", str(file), "--savedir", str(tmp_path / "run"), "--num-epochs", "1")
    assert run(*train) == 2
    assert "--batch-size 2: clips of 1 and of 4 frames do not go into one batch" in last_line(capsys)
