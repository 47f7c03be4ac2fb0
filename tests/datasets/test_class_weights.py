"""Class weights, worked out by hand and against those that were published."""

import math

import numpy as np
import pytest
from PIL import Image

from datasets import class_weights as module
from datasets.class_weights import class_weights, main
from datasets.synthetic.disk import ensure_dataset
from datasets.synthetic.options import StreetOptions
from tests.cityscapes import LOSS_WEIGHTS, LOSS_WEIGHTS_SHALLOW, NUM_CLASSES, pixel_counts, weights_table


def label_of(tree, name, rows):
    """A label of 16x32 pixels: label ids of the benchmark and how many of the 16 rows each fills."""
    path = tree.label(name)
    pixels = np.repeat([label_id for label_id, _ in rows], [count for _, count in rows])
    Image.fromarray(np.tile(pixels.astype(np.uint8)[:, None], (1, 32))).save(path)
    return path


@pytest.fixture
def labels(tree):
    """Road (7) fills 8 + 12 rows of 32, sky (23) 6, bicycle (33) 2; what is none of the 19 classes fills 4."""
    tree.frames("a_000000", [19])
    tree.frames("b_000001", [19])
    return [
        label_of(tree, "a_000000_000019", [(7, 8), (23, 6), (0, 2)]),
        label_of(tree, "b_000001_000019", [(7, 12), (33, 2), (4, 2)]),
    ]


def test_counts_and_weights_worked_out_by_hand(labels):
    expected = np.zeros(NUM_CLASSES, np.int64)
    expected[[0, 10, 18, 19]] = 20 * 32, 6 * 32, 2 * 32, 4 * 32
    for processes in (1, 2):
        counts = pixel_counts(labels, processes)
        assert counts.tolist() == expected.tolist()
    weights = class_weights(counts.tolist())
    assert weights[0] == pytest.approx(1 / 0.5452271, rel=1e-6)  # ln(1.10 + 20/32) = ln 1.725
    assert weights[10] == pytest.approx(1 / 0.2527024, rel=1e-6)  # ln(1.10 + 6/32) = ln 1.2875
    assert weights[18] == pytest.approx(1 / 0.1505729, rel=1e-6)  # ln(1.10 + 2/32) = ln 1.1625
    assert weights[1] == pytest.approx(1 / 0.0953102, rel=1e-6)  # does not occur: ln 1.10
    assert weights[19] == 0.0
    shallow = class_weights(counts.tolist(), 1.20)
    assert shallow[0] == pytest.approx(1 / 0.6015800, rel=1e-6)  # ln(1.20 + 20/32) = ln 1.825
    assert shallow[1] == pytest.approx(1 / 0.1823216, rel=1e-6)  # ln 1.20


def test_synthetic_set(tmp_path, capsys):
    """One weight from the label files as they lie there, counted anew: road has the label id 7."""
    ensure_dataset(tmp_path, 2, 1, StreetOptions(height=64, width=128, length=2), 1)
    files = list((tmp_path / "gtFine" / "train").rglob("*_gtFine_labelIds.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    share = (pixels == 7).sum() / pixels.size
    assert len(files) >= 2 and 0.01 < share < 0.9
    assert main(["--data-root", str(tmp_path), "--num-workers", "1"]) == 0
    road = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("road "))
    assert road.split()[2:] == [f"{1 / math.log(1.10 + share):.6f}", f"{1 / math.log(1.20 + share):.6f}"]


def test_published_weights_follow_from_shares_of_all_pixels():
    """The published weights, turned back into shares, leave room for the pixels of no class that Cityscapes has."""
    for weights, constant in ((LOSS_WEIGHTS, 1.10), (LOSS_WEIGHTS_SHALLOW, 1.20)):
        counts = [round(1e9 * (math.exp(1 / weight) - constant)) for weight in weights[:-1]]
        ignored = 10**9 - sum(counts)
        assert 0.11 < ignored / 1e9 < 0.12
        assert class_weights([*counts, ignored], constant) == pytest.approx(weights, rel=1e-6)


def test_command_prints_the_table(labels, tree, capsys):
    assert main(["--data-root", str(tree.root), "--num-workers", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 labels of split train, 1,024 pixels\n")
    rows = {line[:16].strip(): line[16:].split() for line in out.splitlines()}
    assert rows["road"] == ["62.5000", "1.834098", "1.662289"]
    assert rows["sidewalk"] == ["0.0000", "10.492059", "5.484815", "does", "not", "occur"]
    assert rows["ignored"] == ["12.5000", "0.000000", "0.000000"]
    assert len(weights_table([1] * NUM_CLASSES).splitlines()) == 1 + NUM_CLASSES


def test_wrong_input_is_one_line(tmp_path, tree, labels, capsys):
    assert main(["--data-root", str(tmp_path / "absent")]) == 2
    assert main(["--data-root", str(tree.root), "--split", "val"]) == 2
    assert main(["--data-root", str(tree.root), "--num-workers", "0"]) == 2
    labels[1].write_bytes(labels[1].read_bytes()[:60])
    assert main(["--data-root", str(tree.root), "--num-workers", "2"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all(": error: " in line for line in errors)
    assert labels[1].name in errors[3]


def test_ctrl_c_ends_it_quietly(labels, tree, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "pixel_counts", interrupted)
    assert main(["--data-root", str(tree.root)]) == 130
    assert capsys.readouterr().err == "python -m datasets.class_weights: stopped by Ctrl-C\n"
