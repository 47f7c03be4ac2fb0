"""Loss weights of the classes from how often they occur.

    python -m datasets.class_weights --data-root data/cityscapes

A class that fills the share p of all pixels, ignored ones among them, weighs ``1 / ln(c + p)``: rare classes weigh
more, but not without bound (Paszke et al., *ENet*, 2016). c is 1.10, and 1.20 for the shallow decoder.
"""

import argparse
import math
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.labels import read_label
from datasets.registry import VideoDatasetBase, dataset_named, dataset_names
from utils.class_set import ClassSet
from utils.command import module_parser, run_command, run_program, whole_number
from utils.signals import leave_interrupts_to_parent

FULL_DECODER, SHALLOW_DECODER = 1.10, 1.20
LABELS_AT_ONCE = 8


def class_weights(counts: Sequence[int], constant: float = FULL_DECODER) -> tuple[float, ...]:
    """Weights by class index from pixel counts by class index; ``constant`` is c. The ignore index, the last, has 0."""
    total = sum(counts)
    return (*(1 / math.log(constant + count / total) for count in counts[:-1]), 0.0)


def pixel_counts(dataset: VideoDatasetBase, labels: Sequence[Path], processes: int) -> np.ndarray:
    """Number of pixels by class index over all labels, int64; the last is the ignore index.

    Shows a progress bar on a terminal. Raises ``DataError`` for a label that cannot be read.
    """
    counts_of, size = partial(_counts_of, dataset), dataset.classes.num_outputs
    if processes == 1:
        return _total(map(counts_of, labels), size, len(labels))
    with multiprocessing.Pool(min(processes, len(labels)), leave_interrupts_to_parent) as pool:
        return _total(pool.imap_unordered(counts_of, labels, chunksize=LABELS_AT_ONCE), size, len(labels))


def weights_table(classes: ClassSet, counts: Sequence[int]) -> str:
    """A table of classes with share of all pixels and both weights; a class that never occurs is marked."""
    rows = [f"{'class':<16}{'share %':>10}{'weight':>12}{'--shallow-dec':>16}"]
    full, shallow = class_weights(counts), class_weights(counts, SHALLOW_DECODER)
    for name, count, weight, weight_shallow in zip(classes.output_names, counts, full, shallow, strict=True):
        remark = "  does not occur" if count == 0 and name in classes.names else ""
        rows.append(f"{name:<16}{100 * count / sum(counts):>10.4f}{weight:>12.6f}{weight_shallow:>16.6f}{remark}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    parser = module_parser("datasets.class_weights", __doc__)
    parser.add_argument(
        "--dataset", default=dataset_names()[0], metavar="NAME", help="a name or FILE.yaml (default: %(default)s)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="the data set's folder (default: as of main.py)")
    parser.add_argument("--split", default="train", help="whose labels to count (default: train)")
    parser.add_argument(
        "--num-workers", type=whole_number(1), default=os.cpu_count() or 1, metavar="N", help="processes"
    )
    return run_command(parser, argv, _print_table)


def _print_table(options: argparse.Namespace) -> None:
    dataset = dataset_named(options.dataset)
    clips = dataset.clips(dataset.root(options.data_root), options.split, window=1)
    counts = pixel_counts(dataset, [clip.label for clip in clips], options.num_workers).tolist()
    print(f"{len(clips)} labels of split {options.split}, {sum(counts):,} pixels\n")
    print(weights_table(dataset.classes, counts))


def _counts_of(dataset: VideoDatasetBase, label: Path) -> np.ndarray:
    indices = read_label(label, None, dataset.label_coding(label))
    return np.bincount(indices.numpy().ravel(), minlength=dataset.classes.num_outputs)


def _total(counts: Iterable[np.ndarray], size: int, labels: int) -> np.ndarray:
    total = np.zeros(size, np.int64)
    for each in tqdm(counts, "labels", total=labels, unit="label", disable=None, leave=False):
        total += each
    return total


if __name__ == "__main__":
    run_program(main)
