"""``make demo``: the whole program on synthetic street clips, on any machine, in minutes.

Draws the clips, evaluates the single-frame network that comes with the project, trains LMANet from it and evaluates
that too, then an LMANet that was trained for longer; prints the IoU with the gain, and leaves a picture. All are scored
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
from utils.png import write_png
from utils.visualize import legend, side_by_side, stacked

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = Path("save/demo")
PICTURE = FOLDER / "demo.png"
SHOWN_CLIPS = 4

SINGLE_WEIGHTS, LONGER_WEIGHTS = "trained_models/erfnet_street.pth", "trained_models/lmanet_erf_street.pth"
SYNTHETIC = "--dataset Synthetic --num-workers 1"
# A window of 21 where features are 64x128 is one of 5 where they are 16x32.
LMANET = f"{SYNTHETIC} --fusion-strategy sigmoid-do2 --corr-size 5"
# The window of LMANet's clips, so that the single frame is scored on the same frames.
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
    """A row for each of some clips spread over the evaluation: frame, label, single frame, LMANet."""
    images = PROJECT / FOLDER / "eval_lmanet_longer" / "images"
    names = sorted(path.name.removesuffix("_frame.png") for path in images.glob("*_frame.png"))
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
    return np.asarray(Image.open(PROJECT / FOLDER / run / "images" / f"{name}_{kind}.png").convert("RGB"))


if __name__ == "__main__":
    sys.exit(main())
