"""The program itself on a GPU: training, evaluation and streams, from the command line."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from main import main
from tests.conftest import PROJECT
from tests.engine.conftest import make_data_set

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def run(device, tmp_path_factory):
    """Runs a mode on the device: ``run("--training ...", "name")`` -> its folder."""
    folder = tmp_path_factory.mktemp("program")
    data = make_data_set(folder / "toytown")
    small = f"--data-root {data} --work-size 64x128 --num-workers 0 --corr-size 5 --stm-queue-size 2"

    def run(words: str, name: str, kind: str = device.type):
        words = words.format(small=small, data=data, folder=folder)
        assert main([*words.split(), "--device", kind, "--savedir", str(folder / name)]) == 0
        return folder / name

    return run


TRAIN = "--training {small} --weights none --train-encoder --train-decoder --batch-size 2 --lr-start 1e-3 --iouTrain"


@pytest.fixture(scope="module")
def trained(run):
    return run(f"{TRAIN} --num-epochs 1", "train") / "model_best.pth"


@pytest.mark.parametrize("options", ["--amp bfloat16", "--amp float16", "--accumulate 2 --mask-border"])
def test_training(device, run, options):
    if "float16" in options.split() and device.type != "cuda":
        pytest.skip("training in float16 needs CUDA")
    losses = (run(f"{TRAIN} --num-epochs 1 {options}", options.replace(" ", "")) / "automated_log.txt").read_text()
    assert "nan" not in losses.lower()


def test_a_training_is_resumed(run, trained):
    log = (run(f"{TRAIN} --num-epochs 2 --resume", "train") / "automated_log.txt").read_text()
    assert log.splitlines()[-1].split()[0] == "2"


def test_one_process_of_torchrun(gpu, run, tmp_path):
    data = make_data_set(tmp_path / "toytown")
    words = f"--training --data-root {data} --work-size 64x128 --num-workers 0 --corr-size 5 --weights none "
    words += f"--train-encoder --train-decoder --batch-size 2 --num-epochs 1 --device cuda --savedir {tmp_path}/run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "main.py"]
    done = subprocess.run([*launcher, *words.split()], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_evaluation_has_the_figures_of_the_cpu(device, run, trained):
    words = f"--eval-mode {{small}} --weights {trained} --loss --consistency"
    here, cpu = (
        json.loads((run(words, f"eval_{kind}", kind) / "report.json").read_text())["mean_iou"]
        for kind in (device.type, "cpu")
    )
    assert abs(here - cpu) < 5e-3


def test_streams_have_the_labels_of_the_cpu(device, run, trained):
    words = (
        f"--stream {{data}}/leftImg8bit_sequence/val/toytown --weights {trained} --save-labels trainIds --consistency"
    )
    runs = {"cpu": "cpu", "here": device.type, "--amp bfloat16": device.type, "--amp float16": device.type}
    if device.type == "cuda":
        runs["--compile"] = "cuda"
    found = {}
    for options, kind in runs.items():
        typed = options if options.startswith("--") else ""
        folder = run(f"{words} {typed}", f"stream{options.replace(' ', '')}", kind)
        found[options] = np.stack([cv2.imread(str(file), 0) for file in sorted((folder / "labels").iterdir())])
    for options, labels in found.items():
        assert (labels == found["cpu"]).mean() > (0.99 if options == "here" else 0.9), options
