"""Compare sets of video clips by what a single-frame network does on them: how often, how long, and how it errs.

    python -m engine.clip_figures real=REAL,erfnet_pretrained.pth drawn=DRAWN,erfnet_street.pth

Each set is NAME=DIR,FILE: a folder laid out like Cityscapes, and the weights of a single-frame network. Of each, the
videos of one split that hold a label are streamed; the table has a column for each set.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.registry import dataset_named
from engine.evaluation.clip_figures import ClipFigures, figures_of, table
from engine.launch import pick_device
from engine.options.parser import DEVICES
from models.inference.segmenter import VideoSegmenter
from utils.command import log_to_stderr, module_parser, run_command, run_program, whole_number
from utils.errors import OptionError

SPLITS = ("train", "val")


@dataclass(frozen=True)
class _Options:
    """The options of the command, by name."""

    sets: list[str]
    split: str
    most: int | None
    device: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    return run_command(_parser(), argv, lambda found: _compare(_Options(**vars(found))))


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("engine.clip_figures", __doc__)
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR,FILE", help="a set of clips, and the weights to run on it")
    parser.add_argument("--split", default="val", choices=SPLITS, help="the split to look at (val)")
    parser.add_argument("--most", type=whole_number(1), metavar="N", help="of each set, the first N videos (all)")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="as for main.py (auto)")
    return parser


def _compare(options: _Options) -> None:
    log_to_stderr()
    parsed = [_set_of(text) for text in options.sets]
    if len({name for name, _, _ in parsed}) < len(parsed):
        raise OptionError(f"{', '.join(name for name, _, _ in parsed)}: expected sets of names that differ")
    dataset = dataset_named("Cityscapes")
    found: dict[str, ClipFigures] = {}
    for name, root, weights in parsed:
        videos = [video for video in dataset.videos(dataset.root(root), options.split) if any(video.labels)]
        if not videos:
            raise OptionError(f"{root}: holds no labeled video in its split {options.split}: name another --split")
        segmenter = VideoSegmenter(weights, device=pick_device(options.device), baseline=True, smooth="flow")
        found[name] = figures_of(segmenter, dataset, videos[: options.most])
    print(table(found))


def _set_of(text: str) -> tuple[str, str, str]:
    """Name, folder and weight file."""
    name, equals, rest = text.partition("=")
    root, comma, weights = rest.rpartition(",")
    if not (name and equals and root and comma and weights):
        raise OptionError(f"{text}: expected NAME=DIR,FILE, such as real=data,trained_models/erfnet_pretrained.pth")
    if not Path(weights).is_file():
        raise OptionError(f"{weights}: no such file: expected the weights of a single-frame network")
    return name, root, weights


if __name__ == "__main__":
    run_program(main)
