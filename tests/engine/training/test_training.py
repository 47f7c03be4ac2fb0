"""Training from the command line: its files, its resume, and what stops it."""

import itertools
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from main import main
from models.losses import WeightedCrossEntropy
from tests.engine.running import started, wait_for
from utils import tensor_files
from utils.errors import CheckpointError


def read(path):
    return tensor_files.read(path, CheckpointError)


def assert_same(first, second):
    """Equal to the last bit, through dicts and lists."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def test_a_training_leaves_all_files_under_their_published_names(command, tmp_path, capsys):
    assert main(command("--training", "--num-epochs", "2", "--epochs-save", "1", "--iouTrain")) == 0
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        *("args.txt", "lmanet.py", "model.txt", "automated_log.txt", "best.txt"),
        *("checkpoint.pth.tar", "model_best.pth.tar", "model_best.pth", "model-001.pth", "model-002.pth"),
        *("curves.png", "iou.png", "confusion.png"),
    }
    header, *rows = (run / "automated_log.txt").read_text().splitlines()
    assert header.split() == ["Epoch", "Train-loss", "Test-loss", "Train-IoU", "Test-IoU", "learningRate"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert [row.split()[-1] for row in rows] == ["0.00005000", f"{5e-5 * 0.5**0.9:.8f}"]
    assert all(float(row.split()[3]) > 0 for row in rows)
    content = read(run / "checkpoint.pth.tar")
    assert content["epoch"] == 2
    assert content["arch"].startswith("LMANet(")
    assert {"state_dict", "best_acc", "optimizer"} <= content.keys()
    best = max(range(2), key=lambda i: float(rows[i].split()[4]))
    assert f"epoch is {best + 1}" in (run / "best.txt").read_text()
    assert_same(read(run / "model_best.pth"), read(run / f"model-{best + 1:03d}.pth"))
    assert "mIoU" in capsys.readouterr().out


def test_only_the_memory_parts_are_trained_unless_asked_otherwise(command, tmp_path, erfnet_file):
    assert main(command("--training", "--num-epochs", "1", "--lr-start", "1e-3")) == 0
    before, after = read(erfnet_file), read(tmp_path / "run" / "model_best.pth")
    learned = [name for name in before if "running_" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in learned)
    # Batch norms of the frozen parts follow the train mode, as published.
    assert not torch.equal(
        before["module.encoder.initial_block.bn.running_mean"], after["module.encoder.initial_block.bn.running_mean"]
    )


def test_eval_mode_of_a_part_keeps_its_batch_norms(command, tmp_path, erfnet_file):
    assert main(command("--training", "--num-epochs", "1", "--encoder-eval-mode", "--train-decoder")) == 0
    before, after = read(erfnet_file), read(tmp_path / "run" / "model_best.pth")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("module.encoder."))
    assert not torch.equal(before["module.decoder.output_conv.weight"], after["module.decoder.output_conv.weight"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_two_and_two_epochs_give_bit_for_bit_what_four_give(command, tmp_path, workers):
    options = ("--training", "--lr-strategy", "plateau_08", "--train-decoder", "--num-workers", workers)
    assert main(command(*options, "--num-epochs", "4", savedir=tmp_path / "whole")) == 0
    assert main(command(*options, "--num-epochs", "2", savedir=tmp_path / "parts")) == 0
    assert main(command(*options, "--num-epochs", "4", "--resume", savedir=tmp_path / "parts")) == 0
    for name in ("checkpoint.pth.tar", "model_best.pth.tar", "model_best.pth"):
        assert_same(read(tmp_path / "whole" / name), read(tmp_path / "parts" / name))
    for name in ("automated_log.txt", "best.txt"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text()


def test_resume_needs_a_checkpoint(command, capsys):
    assert main(command("--training", "--resume")) == 2
    assert "--resume: there is no" in capsys.readouterr().err


def test_resume_of_another_network_names_the_fields(command, capsys):
    assert main(command("--training", "--num-epochs", "1")) == 0
    assert main(command("--training", "--num-epochs", "2", "--resume", "--stm-queue-size", "2")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "memory_size is 3, asked for 2" in error
    assert "corr_size" not in error


def test_resume_with_other_trained_parts_is_refused(command, capsys):
    assert main(command("--training", "--num-epochs", "1")) == 0
    assert main(command("--training", "--num-epochs", "2", "--resume", "--train-encoder")) == 2
    assert "give the same --train-encoder" in capsys.readouterr().err


def test_a_new_training_sets_the_old_one_aside(command, tmp_path):
    assert main(command("--training", "--num-epochs", "1")) == 0
    first = read(tmp_path / "run" / "checkpoint.pth.tar")
    assert main(command("--training", "--num-epochs", "1", "--seed", "1")) == 0
    assert_same(first, read(tmp_path / "run" / "previous_1" / "checkpoint.pth.tar"))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(command, tmp_path, monkeypatch, capsys):
    right, calls = WeightedCrossEntropy.forward, itertools.count(1)

    def wrong_in_the_second_epoch(self, logits, label, *of_all):
        return right(self, logits, label, *of_all) * (float("nan") if next(calls) == 11 else 1)

    monkeypatch.setattr(WeightedCrossEntropy, "forward", wrong_in_the_second_epoch)
    # An epoch is five training clips, two a step, and three validation clips: this is step 2 of epoch 2.
    assert main(command("--training", "--num-epochs", "3", "--train-decoder")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the loss became nan at epoch 2, step 2 (toytown_" in error
    assert read(tmp_path / "run" / "checkpoint.pth.tar")["epoch"] == 1


def test_ctrl_c_ends_with_130_and_a_valid_checkpoint(command, tmp_path):
    process = started(command("--training", "--num-epochs", "1000", "--num-workers", "2"))
    wait_for((tmp_path / "run" / "checkpoint.pth.tar").exists)
    # As a terminal does: to every process of the group, the loader's workers too.
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in error
    assert "stopped by Ctrl-C; go on with --resume" in error.splitlines()[-1]
    assert read(tmp_path / "run" / "checkpoint.pth.tar")["epoch"] >= 1


def test_the_single_frame_network_and_its_shallow_decoder_train_from_scratch(command, tmp_path):
    options = ("--training", "--baseline-mode", "--train-encoder", "--shallow-dec", "--train-erfnet-shallow-dec")
    assert main(command(*options, "--num-epochs", "1", weights="none")) == 0
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        *("args.txt", "lmanet.py", "model_encoder.txt", "automated_log_encoder.txt", "best_encoder.txt"),
        *("checkpoint_enc.pth.tar", "model_best_enc.pth.tar", "model_best_encoder.pth"),
        *("curves_encoder.png", "iou_encoder.png", "confusion_encoder.png"),
    }
    # A full decoder is trained afterwards from that encoder.
    weights = run / "model_best_encoder.pth"
    options = command("--training", "--baseline-mode", "--train-decoder", "--num-epochs", "1", weights=weights)
    assert main(options) == 0
    encoder, full = read(weights), read(run / "model_best.pth")
    name = "module.encoder.initial_block.conv.weight"
    assert torch.equal(encoder[name], full[name])


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_without_a_class_are_refused_before_the_training_starts(command, own_toytown, tmp_path, capsys, split):
    for label in own_toytown.glob(f"gtFine/{split}/*/*.png"):
        Image.fromarray(np.zeros((64, 128), np.uint8)).save(label)
    assert main(command("--training", "--num-epochs", "1", data=own_toytown)) == 2
    assert f"labels of split {split} has a class" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "args.txt").exists()
