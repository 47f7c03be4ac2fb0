"""``make demo``: the whole program on synthetic street clips, on any machine, in minutes.

Draws the clips, trains the single-frame network, then goes on from it twice for as many epochs: as it is, for a fair
comparison, and with the memory. Prints the IoU of both with the gain, and leaves a picture.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.classes import CLASSES, PALETTE
from utils.visualize import legend, side_by_side, stacked, write_png

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = Path("save/demo")
PICTURE = FOLDER / "demo.png"
SHOWN_CLIPS = 4

SYNTHETIC = "--dataset Synthetic --num-workers 1"
SINGLE = f"{SYNTHETIC} --baseline-mode"
TRAIN_ALL = "--training --train-encoder --train-decoder --steps-loss 0"
COMMANDS = (
    (
        "1. The single-frame network, ERFNet, from scratch",
        f"{SINGLE} {TRAIN_ALL} --weights none --num-epochs 6 --lr-start 1e-3 --savedir {FOLDER}/erfnet",
    ),
    (
        "2. The same network trained on, for a fair comparison",
        f"{SINGLE} {TRAIN_ALL} --weights {FOLDER}/erfnet/model_best.pth --num-epochs 2 --lr-start 5e-4 "
        f"--savedir {FOLDER}/erfnet_longer",
    ),
    (
        "3. LMANet: the network of step 1 with a memory of three frames, trained for as many epochs",
        f"{SYNTHETIC} {TRAIN_ALL} --weights {FOLDER}/erfnet/model_best.pth --num-epochs 2 --lr-start 5e-4 "
        f"--savedir {FOLDER}/lmanet",
    ),
    (
        "4. How good is the single frame?",
        f"{SINGLE} --eval-mode --save-images --weights {FOLDER}/erfnet_longer/model_best.pth "
        f"--savedir {FOLDER}/eval_erfnet",
    ),
    (
        "5. How good is LMANet, and what is gained?",
        f"{SYNTHETIC} --eval-mode --save-images --weights {FOLDER}/lmanet/model_best.pth "
        f"--baseline-path {FOLDER}/eval_erfnet --savedir {FOLDER}/eval_lmanet",
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
    images = PROJECT / FOLDER / "eval_lmanet" / "images"
    names = sorted(path.name.removesuffix("_frame.png") for path in images.glob("*_frame.png"))
    shown = [names[i * len(names) // SHOWN_CLIPS] for i in range(SHOWN_CLIPS)]
    panels = []
    for name in shown:
        panels += [
            (f"frame {name}", _image("eval_lmanet", name, "frame")),
            ("label", _image("eval_lmanet", name, "label")),
            ("single frame (ERFNet)", _image("eval_erfnet", name, "prediction")),
            ("LMANet", _image("eval_lmanet", name, "prediction")),
        ]
    grid = side_by_side(panels, columns=4)
    return stacked([grid, legend([c.name for c in CLASSES], PALETTE, grid.shape[1])])


def _image(run: str, name: str, kind: str) -> np.ndarray:
    return np.asarray(Image.open(PROJECT / FOLDER / run / "images" / f"{name}_{kind}.png").convert("RGB"))


if __name__ == "__main__":
    sys.exit(main())
