"""VSPW and CamVid from the command line, against figures that are counted here from the layouts' own definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.registry import dataset_named
from main import main
from models import LMANetConfig, build_lmanet
from models.normalize import network_input
from models.weights.export import published_state_dict

HEIGHT, WIDTH, FRAMES, MEMORY = 32, 64, 9, 2
OPTIONS = f"--work-size {HEIGHT}x{WIDTH} --corr-size 3 --stm-queue-size {MEMORY} --num-workers 0 --device cpu"


def network(folder: Path, name: str):
    """A fresh network for the data set's classes, and its weight file."""
    torch.manual_seed(0)
    config = LMANetConfig(
        num_classes=dataset_named(name).classes.num_outputs, corr_size=3, memory_size=MEMORY, fusion="sigmoid-do1"
    )
    model = build_lmanet(config, dataset_named(name).classes).eval()
    torch.nn.init.normal_(model.decoder.output_conv.bias, std=1e-3)  # several classes are predicted
    torch.save(published_state_dict(model), folder / "weights.pth")
    return model


def scenes(seed: int, count: int) -> list[np.ndarray]:
    rs = np.random.RandomState(seed)
    picture = rs.randint(0, 256, (HEIGHT // 8, WIDTH // 8 + 2, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    return [picture[:, t : t + WIDTH] for t in range(count)]


@torch.inference_mode()
def predictions(model, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Class indices of each frame with up to ``MEMORY`` frames before it, by the network alone."""
    found = []
    for last in range(len(frames)):
        clip = torch.from_numpy(np.stack(frames[max(0, last - MEMORY) : last + 1])).permute(0, 3, 1, 2)
        logits = model(network_input(clip[None], model.config.traits, torch.device("cpu")))
        found.append(logits[0, -1].argmax(0).numpy())
    return found


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def labels_near(predicted: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """The prediction with a wrong part, which stays in its place, and -1 where there is no label."""
    label = predicted.copy()
    label[:, 40:] = np.random.RandomState(seed).randint(0, classes, (4, 3)).repeat(8, 0).repeat(8, 1)
    label[:3] = -1
    label[label == classes] = -1  # where the network predicts that nothing counts
    return label


def evaluated(folder: Path, name: str, *options: str) -> dict:
    words = ["--eval-mode", "--dataset", name, "--data-root", str(folder), "--weights", str(folder / "weights.pth")]
    assert main([*words, "--savedir", str(folder / "eval"), *OPTIONS.split(), *options]) == 0
    return json.loads((folder / "eval" / "report.json").read_text())


def mean_iou(labels, predicted, classes: int) -> float:
    """As Cityscapes' scripts: true positives by themselves, false positives and negatives; without absent classes."""
    label, prediction = (np.concatenate([each.ravel() for each in maps]) for maps in (labels, predicted))
    found = []
    for index in range(classes):
        counted = label >= 0
        tp = (counted & (label == index) & (prediction == index)).sum()
        fp = (counted & (label != index) & (prediction == index)).sum()
        fn = (counted & (label == index) & (prediction != index)).sum()
        if tp + fp + fn:
            found.append(tp / (tp + fp + fn))
    return float(np.mean(found))


@pytest.fixture(autouse=True)
def quick(one_thread):
    pass


def test_vspw_with_ids_from_1(tmp_path):
    model, videos = network(tmp_path, "VSPW"), {}
    for seed, name in enumerate(("1_a", "2_b")):
        frames = scenes(seed, FRAMES)
        predicted = predictions(model, frames)
        labels = [labels_near(each, 124, seed) for each in predicted]
        videos[name] = (labels, predicted)
        for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
            save(tmp_path / "data" / name / "origin" / f"{number:08d}.png", frame)
            save(tmp_path / "data" / name / "mask" / f"{number:08d}.png", (label + 1).astype(np.uint8))
    (tmp_path / "val.txt").write_text("1_a\n2_b\n")
    report = evaluated(tmp_path, "VSPW")
    every = [pair for labels, predicted in videos.values() for pair in zip(labels, predicted, strict=True)]
    full = [pair for maps in videos.values() for pair in list(zip(*maps, strict=True))[MEMORY:]]
    assert report["dense"]["mean_iou"] == pytest.approx(mean_iou(*zip(*every, strict=True), 124), abs=1e-12)
    assert report["mean_iou"] == pytest.approx(mean_iou(*zip(*full, strict=True), 124), abs=1e-12)
    assert report["dense"]["videos"] == pytest.approx(
        {n: mean_iou(*maps, 124) for n, maps in videos.items()}, abs=1e-12
    )
    assert "all 18 labeled frames of 2 videos" in (tmp_path / "eval" / "report.html").read_text()
    means = []
    for labels, predicted in videos.values():
        shares = []
        for start in range(FRAMES - 7):
            label, prediction = np.stack(labels[start : start + 8]), np.stack(predicted[start : start + 8])
            steady = (label == label[0]).all(0) & (label[0] >= 0)
            shares.append(((label == prediction).all(0) & steady).sum() / steady.sum())
        means.append(np.mean(shares))
    assert 0.05 < np.mean(means) < 0.95
    assert report["dense"]["mvc"] == {"mVC8": pytest.approx(np.mean(means), abs=1e-12), "mVC16": None}


def test_camvid_with_11_classes(tmp_path):
    model = network(tmp_path, "CamVid")
    frames = scenes(3, 4)
    predicted = predictions(model, frames)
    labels, lines = [labels_near(each, 11, 1) for each in predicted], []
    for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        name = f"0016E5_{7959 + 2 * number:05d}.png"
        save(tmp_path / "val" / name, frame)
        save(tmp_path / "valannot" / name, np.where(label < 0, 11, label).astype(np.uint8))
        lines.append(f"/SegNet/CamVid/val/{name} /SegNet/CamVid/valannot/{name}")
    (tmp_path / "val.txt").write_text("\n".join(lines))
    report = evaluated(tmp_path, "CamVid")
    assert report["clips"] == 2
    assert report["mean_iou"] == pytest.approx(mean_iou(labels[2:], predicted[2:], 11), abs=1e-12)
    assert report["dense"]["mean_iou"] == pytest.approx(mean_iou(labels, predicted, 11), abs=1e-12)
    assert list(report["iou"])[:4] == ["sky", "building", "pole", "road"]
