"""What a weight file says of its network decides, unless it is typed otherwise: in every mode."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datasets.cityscapes import CITYSCAPES_CLASSES
from main import main
from models import BackboneTraits, build_lmanet, export_weights, register_backbone
from tests.engine.videos import moving_blocks, write_folder
from tests.networks import BACKBONES, LMANetConfig
from utils import tensor_files
from utils.class_set import ClassSet
from utils.errors import CheckpointError

FIVE = ClassSet(tuple("abcde"), ((9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 0), (0, 9, 9)), file_ids=(10, 20, 30, 40, 50))
KNOWN = {"corr_size": 5, "fusion": "sigmoid-do2", "memory_size": 2}


def written(path, classes=CITYSCAPES_CLASSES, **fields):
    torch.manual_seed(2)
    config = LMANetConfig(**fields, num_classes=classes.num_outputs)
    export_weights(build_lmanet(config, classes, (32, 64)), path)
    return path


@pytest.fixture
def run(toytown, tmp_path):
    """Runs a mode on toytown with weights that were written with ``KNOWN``; returns the exit status."""
    weights = written(tmp_path / "known.pth", **KNOWN)

    def call(*words: str, weights=weights, savedir="run") -> int:
        common = f"--data-root {toytown} --num-workers 0 --batch-size 2 --device cpu --weights {weights}"
        return main([*common.split(), "--savedir", str(tmp_path / savedir), *words])

    return call


def options_of(folder):
    return dict(line.split(": ", 1) for line in (folder / "args.txt").read_text().splitlines())


def test_an_evaluation_takes_what_was_not_typed_from_the_file_and_says_so(run, tmp_path, capsys):
    assert run("--eval-mode") == 0
    said = capsys.readouterr().err
    assert "--corr-size 5, --fusion-strategy sigmoid-do2, --stm-queue-size 2, --work-size 32x64 taken from" in said
    found = options_of(tmp_path / "run")
    assert (found["corr_size"], found["fusion_strategy"], found["stm_queue_size"]) == ("5", "sigmoid-do2", "2")
    assert found["win_size"] == "3"  # the memory and one
    assert run("--eval-mode", *["--corr-size", "5", "--fusion-strategy", "sigmoid-do2"], savedir="typed") == 0
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("run", "typed")]
    assert reports[0]["iou"] == reports[1]["iou"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--corr-size 21", ["--corr-size 21 contradicts", "known.pth", "trained with --corr-size 5"]),
        ("--mask-border", ["--mask-border contradicts", "trained without --mask-border"]),
        ("--no-local-correlation", ["--no-local-correlation contradicts", "trained with --local-correlation"]),
        ("--backbone-nobn", ["--backbone-nobn contradicts", "trained without --backbone-nobn"]),
    ],
)
@pytest.mark.parametrize("mode", ["--eval-mode", "--training"])
def test_what_contradicts_the_file_is_refused_with_the_names_of_both(run, capsys, mode, words, named):
    assert run(mode, *words.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(part in error for part in named)


def test_another_memory_size_is_no_contradiction_but_said(run, tmp_path, capsys):
    assert run("--eval-mode", "--stm-queue-size", "3") == 0
    assert "was trained with 2 frames in the memory, runs with 3 as typed" in capsys.readouterr().err
    assert options_of(tmp_path / "run")["stm_queue_size"] == "3"


def test_a_training_takes_the_memory_of_its_file_and_goes_on_by_the_same_command(run, tmp_path):
    words = ["--training", "--work-size", "32x64", "--num-epochs"]
    assert run(*words, "1") == 0
    assert run(*words, "2", "--resume") == 0
    content = tensor_files.read(tmp_path / "run" / "checkpoint.pth.tar", CheckpointError)
    assert (content["epoch"], content["network"]["corr_size"], content["network"]["fusion"]) == (2, 5, "sigmoid-do2")
    assert content["classes"]["names"] == list(CITYSCAPES_CLASSES.names)


def test_a_single_frame_file_is_evaluated_as_such_and_trained_with_a_memory(run, tmp_path, capsys):
    single = written(tmp_path / "single.pth", baseline=True)
    assert run("--eval-mode", weights=single) == 0
    assert "--baseline-mode, --work-size 32x64 taken from" in capsys.readouterr().err
    assert run("--training", *["--work-size", "32x64", "--num-epochs", "1", "--corr-size", "3"], weights=single) == 0
    content = tensor_files.read(tmp_path / "run" / "checkpoint.pth.tar", CheckpointError)
    assert not content["network"]["baseline"] and content["network"]["corr_size"] == 3


def test_weights_for_other_classes(run, tmp_path, capsys):
    five = written(tmp_path / "five.pth", FIVE, corr_size=3)
    assert run("--eval-mode", weights=five) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "five.pth: predicts 5 classes (a, b, c, ...), --dataset Cityscapes has 19 (road, " in error
    assert run("--training", *["--work-size", "32x64", "--num-epochs", "1", "--train-decoder"], weights=five) == 0
    said = capsys.readouterr().err
    assert "five.pth: is for 5 classes, among them a, b and 3 more; expected 19, among them road, sidewalk" in said
    source = write_folder(tmp_path / "frames", moving_blocks(3))
    assert run("--stream", str(source), "--save-labels", "labelIds", weights=five, savedir="stream") == 0
    shares = json.loads((tmp_path / "stream" / "stream.json").read_text())["class_shares"]
    assert shares and set(shares) <= {*"abcde", "ignored"}


def test_what_the_defaults_do_not_go_with_may_go_with_the_file(run, tmp_path, capsys):
    """A size that ERFNet does not take, with weights of a backbone that does."""
    weights = tmp_path / "lraspp.pth"
    config = LMANetConfig(backbone="torchvision/fcn_resnet50", baseline=True)
    torch.manual_seed(0)
    export_weights(build_lmanet(config, CITYSCAPES_CLASSES), weights)
    assert run("--eval-mode", "--work-size", "33x65", weights=weights) == 0
    assert "--backbone torchvision/fcn_resnet50, --baseline-mode taken from the file" in capsys.readouterr().err


def test_options_that_the_files_network_refuses_name_the_file(run, tmp_path, capsys):
    single = written(tmp_path / "single.pth", baseline=True)
    assert run("--eval-mode", "--memory-strategy", "skip_01", weights=single) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--memory-strategy skip_01" in error and "single.pth says --baseline-mode)" in error


def test_a_network_whose_backbone_no_plugin_registers(run, tmp_path, capsys):
    register_backbone("toy", BackboneTraits(8, 4, (32, 64)), Toy)
    toy = written(tmp_path / "toy.pth", backbone="toy", baseline=True)
    del BACKBONES["toy"]
    assert run("--eval-mode", weights=toy) == 2
    assert "toy.pth: its network is on --backbone toy, which is not known: add the --plugin" in capsys.readouterr().err


class Toy:
    def __init__(self, config):
        pass

    def make_encoder(self):
        return nn.Conv2d(3, 8, 5, stride=4, padding=2)

    def make_decoder(self, channels, num_classes):
        return ToyDecoder(channels, num_classes)


class ToyDecoder(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features, size):
        return F.interpolate(self.classifier(features), size)
