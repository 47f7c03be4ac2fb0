"""Loss weights of the classes from how often they occur.

    python -m datasets.class_weights --data-root data/cityscapes

A class that fills the share p of all pixels, ignored ones among them, weighs ``1 / ln(c + p)``: rare classes weigh
more, but not without bound (Paszke et al., *ENet*, 2016). c is 1.10, and 1.20 for the shallow decoder.
"""

import argparse
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.cityscapes import find_clips, resolve_roots
from datasets.classes import CLASS_NAMES, IGNORED, NUM_CLASSES
from datasets.images import read_label
from utils.command import module_parser, run_command, whole_number

FULL_DECODER, SHALLOW_DECODER = 1.10, 1.20
LABELS_AT_ONCE = 8


def class_weights(counts: Sequence[int], constant: float = FULL_DECODER) -> tuple[float, ...]:
    """The weight of each class from pixel counts of all classes, the last one being what is ignored, which weighs 0."""
    total = sum(counts)
    return (*(1 / math.log(constant + count / total) for count in counts[:-1]), 0.0)


def pixel_counts(labels: Sequence[Path], processes: int) -> np.ndarray:
    """Pixels of each train id in all labels together, int64 of 20 entries; shows a bar where there is a terminal.

    Raises ``DataError`` for a label that cannot be read.
    """
    if processes == 1:
        return _total(map(_counts_of, labels), len(labels))
    with multiprocessing.Pool(min(processes, len(labels)), _leave_interrupts_to_the_parent) as pool:
        return _total(pool.imap_unordered(_counts_of, labels, chunksize=LABELS_AT_ONCE), len(labels))


def weights_table(counts: Sequence[int]) -> str:
    """Class, share of all pixels and both weights, a row each; a class that never occurs is marked."""
    rows = [f"{'class':<16}{'share %':>10}{'weight':>12}{'--shallow-dec':>16}"]
    full, shallow = class_weights(counts), class_weights(counts, SHALLOW_DECODER)
    for name, count, weight, weight_shallow in zip(CLASS_NAMES, counts, full, shallow, strict=True):
        remark = "  does not occur" if count == 0 and name != CLASS_NAMES[IGNORED] else ""
        rows.append(f"{name:<16}{100 * count / sum(counts):>10.4f}{weight:>12.6f}{weight_shallow:>16.6f}{remark}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    parser = module_parser("datasets.class_weights", __doc__)
    parser.add_argument("--data-root", metavar="DIR", help="the data set's folder (default: as of main.py)")
    parser.add_argument("--split", default="train", help="whose labels to count (default: train)")
    parser.add_argument(
        "--num-workers", type=whole_number(1), default=os.cpu_count() or 1, metavar="N", help="processes"
    )
    return run_command(parser, argv, _print_table)


def _print_table(options: argparse.Namespace) -> None:
    labels = [clip.label for clip in find_clips(resolve_roots(options.data_root), options.split, window=1)]
    counts = pixel_counts(labels, options.num_workers).tolist()
    print(f"{len(labels)} labels of split {options.split}, {sum(counts):,} pixels\n\n{weights_table(counts)}")


def _counts_of(label: Path) -> np.ndarray:
    return np.bincount(read_label(label, None).numpy().ravel(), minlength=NUM_CLASSES)


def _total(counts: Iterable[np.ndarray], labels: int) -> np.ndarray:
    total = np.zeros(NUM_CLASSES, np.int64)
    for each in tqdm(counts, "labels", total=labels, unit="label", disable=None, leave=False):
        total += each
    return total


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
