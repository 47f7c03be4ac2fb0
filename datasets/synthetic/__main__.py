"""Write synthetic street clips in Cityscapes' layout, with labels for every frame.

    python -m datasets.synthetic OUT
    python -m datasets.synthetic OUT --size 192x384 --train-clips 200 --difficulty 0.8 --workers 4

A second run with the same options does nothing; an interrupted one is resumed.
"""

import argparse
import os
from collections.abc import Sequence

from utils.command import height_x_width, module_parser, run_command, run_program
from utils.sizes import format_size

from .disk import ensure_dataset
from .options import DEFAULT_SIZE, TRAIN_CLIPS, VAL_CLIPS, StreetOptions


def _parser() -> argparse.ArgumentParser:
    default = StreetOptions()
    parser = module_parser("datasets.synthetic", __doc__)
    parser.add_argument("out", metavar="OUT", help="folder to write; becomes a root of a Cityscapes-like data set")
    parser.add_argument(
        "--train-clips", type=int, default=TRAIN_CLIPS, metavar="N", help=f"clips to train on ({TRAIN_CLIPS})"
    )
    parser.add_argument(
        "--val-clips", type=int, default=VAL_CLIPS, metavar="N", help=f"clips to validate on ({VAL_CLIPS})"
    )
    parser.add_argument(
        "--length", type=int, default=default.length, metavar="L", help=f"frames a clip ({default.length})"
    )
    parser.add_argument(
        "--size",
        type=height_x_width,
        default=DEFAULT_SIZE,
        metavar="HxW",
        help=f"size of a frame ({format_size(DEFAULT_SIZE)})",
    )
    parser.add_argument(
        "--difficulty",
        type=float,
        default=default.difficulty,
        metavar="D",
        help=f"0: clean frames, 1: noise, blur, glare, rain and weak contrast, to 3: more ({default.difficulty})",
    )
    parser.add_argument(
        "--speed", type=float, default=default.speed, metavar="F", help="multiplies all motion; 0: nothing moves (1)"
    )
    parser.add_argument(
        "--persistence",
        type=int,
        default=default.persistence,
        metavar="N",
        help="damage that lasts for about N frames: glare, dirt, reflections, shadows (0: noise, anew each frame)",
    )
    parser.add_argument("--seed", type=int, default=default.seed, metavar="S", help=f"seed of the set ({default.seed})")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="K", help="processes (all processors)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    return run_command(_parser(), arguments, _write, "the same command resumes")


def _write(args: argparse.Namespace) -> None:
    height, width = args.size
    options = StreetOptions(height, width, args.length, args.difficulty, args.seed, args.speed, args.persistence)
    ensure_dataset(args.out, args.train_clips, args.val_clips, options, args.workers)


if __name__ == "__main__":
    run_program(main)
