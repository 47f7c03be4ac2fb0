"""Damaged data and weights: one line that names the file and what to do, exit status 2, and nothing lost."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from main import main

FRAMES, LABELS = "leftImg8bit_sequence/val/toytown", "gtFine/val/toytown"
LAST = "toytown_000101_000003"


def remove_root(root):
    shutil.rmtree(root)
    return "no data folder"


def remove_sequences(root):
    shutil.rmtree(root / "leftImg8bit_sequence")
    return "leftImg8bit_sequence"


def remove_labels(root):
    shutil.rmtree(root / "gtFine")
    return "gtFine"


def empty_split(root):
    for label in (root / LABELS).iterdir():
        label.unlink()
    return "no labels in"


def remove_a_middle_frame(root):
    (root / FRAMES / "toytown_000101_000002_leftImg8bit.png").unlink()
    return "toytown_000101_000002_leftImg8bit.png"


def remove_a_labelled_frame(root):
    (root / FRAMES / f"{LAST}_leftImg8bit.png").unlink()
    return f"{LAST}_leftImg8bit.png"


def truncate_a_frame(root):
    path = root / FRAMES / f"{LAST}_leftImg8bit.png"
    path.write_bytes(path.read_bytes()[:-100])
    return path.name


def replace_a_frame_by_text(root):
    (root / FRAMES / f"{LAST}_leftImg8bit.png").write_text("no picture")
    return f"{LAST}_leftImg8bit.png"


def truncate_a_label(root):
    path = root / LABELS / f"{LAST}_gtFine_labelIds.png"
    path.write_bytes(path.read_bytes()[:60])
    return path.name


def shrink_a_label(root):
    path = root / LABELS / f"{LAST}_gtFine_labelIds.png"
    Image.open(path).resize((64, 32)).save(path)
    return path.name


def label_with_unknown_ids(root):
    path = root / LABELS / f"{LAST}_gtFine_labelIds.png"
    Image.fromarray(np.full((64, 128), 34, np.uint8)).save(path)
    return path.name


DAMAGES = (
    remove_root, remove_sequences, remove_labels, empty_split, remove_a_middle_frame, remove_a_labelled_frame,
    truncate_a_frame, replace_a_frame_by_text, truncate_a_label, shrink_a_label, label_with_unknown_ids,
)  # fmt: skip


def last_error(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    assert lines[-1].startswith("main.py: error: ")
    return lines[-1]


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_data(command, own_toytown, capsys, damage, workers):
    expected = damage(own_toytown)
    assert main(command("--eval-mode", "--num-workers", workers, data=own_toytown)) == 2
    assert expected in last_error(capsys)


def test_a_window_longer_than_the_snippets(command, capsys):
    assert main(command("--eval-mode", "--win-size", "5")) == 2
    assert "the longest window that works is 4" in last_error(capsys)


def test_damaged_data_in_a_training_keep_the_last_checkpoint(command, own_toytown, tmp_path, capsys):
    assert main(command("--training", "--num-epochs", "1", data=own_toytown)) == 0
    before = (tmp_path / "run" / "checkpoint.pth.tar").read_bytes()
    truncate_a_frame(own_toytown)
    assert main(command("--training", "--num-epochs", "2", "--resume", data=own_toytown)) == 2
    assert LAST in last_error(capsys)
    assert (tmp_path / "run" / "checkpoint.pth.tar").read_bytes() == before


def cut_short(tmp_path, good):
    (tmp_path / "w.pth").write_bytes(good.read_bytes()[:5000])
    return "damaged or cut short"


def text_file(tmp_path, good):
    (tmp_path / "w.pth").write_text("hello")
    return "expected one written by torch.save"


def other_network(tmp_path, good):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    return "looks like no network that is known here"


def one_tensor_missing(tmp_path, good):
    state = torch.load(good, weights_only=True)
    del state["module.decoder.output_conv.bias"]
    torch.save(state, tmp_path / "w.pth")
    return "decoder.output_conv.bias"


def another_shape(tmp_path, good):
    state = torch.load(good, weights_only=True)
    state["module.decoder.layers.0.conv.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    return "decoder.layers.0.conv.bias has shape [3]: expected [64]"


def not_a_number(tmp_path, good):
    state = torch.load(good, weights_only=True)
    state["module.decoder.layers.0.conv.bias"][1] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    return "decoder.layers.0.conv.bias holds numbers that are not finite"


BAD_WEIGHTS = (cut_short, text_file, other_network, one_tensor_missing, another_shape, not_a_number)


@pytest.mark.parametrize("spoil", BAD_WEIGHTS, ids=lambda spoil: spoil.__name__)
def test_bad_weights(command, erfnet_file, tmp_path, capsys, spoil):
    expected = spoil(tmp_path, erfnet_file)
    assert main(command("--eval-mode", weights=tmp_path / "w.pth")) == 2
    error = last_error(capsys)
    assert expected in error
    assert str(tmp_path / "w.pth") in error


def test_a_savedir_that_cannot_be_written(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(command("--eval-mode", savedir=tmp_path / "file")) == 2
    assert "--savedir" in last_error(capsys)


def test_a_cache_that_cannot_be_written(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(command("--eval-mode", "--cache", str(tmp_path / "file"))) == 2
    assert "--cache" in last_error(capsys)


def test_a_damaged_checkpoint_is_said(command, tmp_path, capsys):
    assert main(command("--training", "--num-epochs", "1")) == 0
    path = tmp_path / "run" / "checkpoint.pth.tar"
    path.write_bytes(path.read_bytes()[:-1000])
    assert main(command("--training", "--resume", "--num-epochs", "2")) == 2
    assert str(path) in last_error(capsys)


def test_an_unreadable_baseline_report_is_said(command, tmp_path, capsys):
    (tmp_path / "report.json").write_text(json.dumps({"iou": 3}))
    assert main(command("--eval-mode", "--baseline-path", str(tmp_path))) == 2
    assert "--baseline-path" in last_error(capsys)


def test_the_cache_gives_the_same_figures(command, tmp_path):
    for run in ("first", "second"):
        options = ("--eval-mode", "--cache", str(tmp_path / "cache"))
        assert main(command(*options, savedir=tmp_path / run)) == 0
    assert main(command("--eval-mode", savedir=tmp_path / "none")) == 0
    ious = [json.loads((tmp_path / run / "report.json").read_text())["iou"] for run in ("first", "second", "none")]
    assert ious[0] == ious[1] == ious[2]
    assert any((tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate")],
    ids=["Python's", "torch's"],
)
def test_memory_that_is_not_there_is_said(command, capsys, monkeypatch, error):
    def evaluate(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("engine.modes.evaluation.evaluate", evaluate)
    assert main(command("--eval-mode")) == 2
    assert "cpu has not enough memory: try a smaller --batch-size (now 2), --work-size or --corr-size" in last_error(
        capsys
    )


def test_an_onnx_file_that_is_a_folder_is_said(command, tmp_path, capsys):
    pytest.importorskip("onnx")
    assert main(command("--export-onnx", str(tmp_path), "--baseline-mode")) == 2
    assert f"--export-onnx {tmp_path}: cannot be written (Is a directory)" in last_error(capsys)
