"""The program where only torch, NumPy, OpenCV, Pillow, tqdm and matplotlib are installed."""

import json
import os
import subprocess
import sys

import cv2
import pytest

from tests.engine.running import PROJECT

ABSENT = ("av", "websocket", "visdom", "tornado", "cityscapesscripts", "torchvision", "onnx", "onnxscript",
          "onnxruntime", "openvino", "cupy", "hypothesis")  # fmt: skip

# Runs command lines one after the other, with an import system that does not find these packages.
CODE = """
import json, sys

class Present:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *arguments):
        return None if name.split(".")[0] in {absent} else self.finder.find_spec(name, *arguments)

sys.meta_path[:] = [Present(finder) for finder in sys.meta_path]
from main import main

statuses = []
for words in json.loads(sys.stdin.read()):
    print("RUN", *words, file=sys.stderr)
    try:
        statuses.append(main(words))
    except SystemExit as end:
        statuses.append(end.code)
print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def runs(toytown, tmp_path_factory):
    """Exit status and messages of each command line, by its name; and the folder of their results."""
    folder = tmp_path_factory.mktemp("few")
    frames, video = toytown / "leftImg8bit_sequence" / "val" / "toytown", folder / "drive.mp4"
    video.write_bytes(b"a video")
    data = f"--data-root {toytown} --work-size 64x128 --num-workers 0 --device cpu"
    small = "--corr-size 3 --stm-queue-size 1"
    best = f"--weights {folder}/train/model_best.pth --device cpu"
    commands = {
        "help": "--help",
        "training": f"--training {data} {small} --weights none --train-encoder --train-decoder --num-epochs 1 "
        f"--savedir {folder}/train",
        "evaluation": f"--eval-mode {data} {best} --savedir {folder}/eval",
        "pictures": f"--stream {frames} {best} --save-labels trainIds --savedir {folder}/stream",
        "video": f"--stream {video} {best} --savedir {folder}/video",
        "video out": f"--stream {frames} {best} --save-video overlay --savedir {folder}/out",
        "visdom": f"--eval-mode {data} {best} --visualize --savedir {folder}/visdom",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(absent=ABSENT)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        input=json.dumps([words.split() for words in commands.values()]),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout.splitlines()[-1])
    messages = done.stderr.split("RUN ")[1:]
    found = zip(commands, statuses, messages, strict=True)
    return folder, {name: (status, message) for name, status, message in found}


def test_what_needs_none_of_them_runs(runs):
    folder, found = runs
    assert [found[name][0] for name in ("help", "training", "evaluation", "pictures")] == [0, 0, 0, 0], found
    assert 0 <= json.loads((folder / "eval" / "report.json").read_text())["mean_iou"] <= 1
    labels = sorted((folder / "stream" / "labels").glob("*.png"))
    assert len(labels) == 12 and cv2.imread(str(labels[0]), cv2.IMREAD_GRAYSCALE).shape == (64, 128)


@pytest.mark.parametrize(
    "name, needed, advice",
    [
        ("video", "drive.mp4: a video needs PyAV", "pip install av, or give a folder of frames"),
        ("video out", "--save-video writes videos by PyAV", "pip install av, or use --save-labels"),
        ("visdom", "--visualize needs websocket-client", "pip install visdom, or leave --visualize out"),
    ],
)
def test_what_needs_one_says_so_in_one_line(runs, name, needed, advice):
    status, message = runs[1][name]
    last = message.strip().splitlines()[-1]
    assert status == 2 and "Traceback" not in message
    assert needed in last and advice in last
