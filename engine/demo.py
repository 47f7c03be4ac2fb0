"""``make demo``: the whole program on synthetic street clips, on any machine, in minutes.

Generates the clips, evaluates the shipped single-frame network, trains LMANet from it and evaluates that too, then the
shipped LMANet, which was trained for longer. Prints the IoU and the gain, and writes a picture. All networks are scored
on the same frames.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.registry import dataset_named
from utils.command import run_program
from utils.png import write_png
from utils.system_files import is_visible
from utils.visualize import legend, side_by_side, stacked

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = Path("save/demo")
PICTURE = FOLDER / "demo.png"
SHOWN_CLIPS = 4

SINGLE_WEIGHTS, LONGER_WEIGHTS = "trained_models/erfnet_street.pth", "trained_models/lmanet_erf_street.pth"
SYNTHETIC = "--dataset Synthetic --num-workers 1"
# As a share of the features' 16x32, a window of 5 is one of 21 of the published networks' 64x128.
LMANET = f"{SYNTHETIC} --fusion-strategy sigmoid-do2 --corr-size 5"
# The clips' length for LMANet, so that the single frame is scored on the same frames.
SINGLE_FRAME = f"{SYNTHETIC} --baseline-mode --win-size 4"
COMMANDS = (
    (
        "1. How good is the single frame?",
        f"{SINGLE_FRAME} --eval-mode --save-images --weights {SINGLE_WEIGHTS} --savedir {FOLDER}/eval_erfnet",
    ),
    (
        "2. LMANet: the same network with a memory of three frames, trained for a few minutes",
        f"{LMANET} --training --weights {SINGLE_WEIGHTS} --warm-start 16 --train-decoder --encoder-eval-mode "
        f"--num-epochs 1 --lr-start 2e-4 --steps-loss 0 --savedir {FOLDER}/lmanet",
    ),
    (
        "3. How good is it already, and what is gained?",
        f"{LMANET} --eval-mode --weights {FOLDER}/lmanet/model_best.pth "
        f"--baseline-path {FOLDER}/eval_erfnet --savedir {FOLDER}/eval_lmanet",
    ),
    (
        "4. What is gained by an LMANet that saw four times as many clips, for a quarter of an hour?",
        f"{LMANET} --eval-mode --save-images --weights {LONGER_WEIGHTS} "
        f"--baseline-path {FOLDER}/eval_erfnet --savedir {FOLDER}/eval_lmanet_longer",
    ),
)


def main() -> int:
    """Runs the demo; returns the exit status of the first command that fails, or 0."""
    start = time.perf_counter()
    for title, arguments in COMMANDS:
        print(f"\n{title}\n  python main.py {arguments}", flush=True)
        status = subprocess.run([sys.executable, "main.py", *shlex.split(arguments)], cwd=PROJECT).returncode
        if status:
            return status
    write_png(PROJECT / PICTURE, picture_of_clips())
    print(f"\nthe whole demo took {time.perf_counter() - start:.0f} s; look at {PICTURE}")
    return 0


def picture_of_clips() -> np.ndarray:
    """A row for each of ``SHOWN_CLIPS`` clips: frame, label, single-frame prediction, LMANet's prediction."""
    images = PROJECT / FOLDER / "eval_lmanet_longer" / "images"
    names = sorted(path.name.removesuffix("_frame.png") for path in images.glob("*_frame.png") if is_visible(path.name))
    shown = [names[i * len(names) // SHOWN_CLIPS] for i in range(SHOWN_CLIPS)]
    panels = []
    for name in shown:
        panels += [
            (f"frame {name}", _image("eval_lmanet_longer", name, "frame")),
            ("label", _image("eval_lmanet_longer", name, "label")),
            ("single frame (ERFNet)", _image("eval_erfnet", name, "prediction")),
            ("LMANet", _image("eval_lmanet_longer", name, "prediction")),
        ]
    grid = side_by_side(panels, columns=4)
    classes = dataset_named("Synthetic").classes
    return stacked([grid, legend(classes.names, classes.colors, grid.shape[1])])


def _image(run: str, name: str, kind: str) -> np.ndarray:
    return np.asarray(
        Image.open(PROJECT / FOLDER / run / "images" / f"{name}_{kind}.png", formats=["PNG"]).convert("RGB")
    )


if __name__ == "__main__":
    run_program(main)
