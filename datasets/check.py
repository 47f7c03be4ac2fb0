"""What is in a data set, before a training finds out: a table, a contact sheet, class weights.

    python -m datasets.check farm.yaml
    python -m datasets.check Cityscapes --data-root data/cityscapes

Every file is read. The exit status is 2 where a training would fail, and the last line says which file it is.
"""

import argparse
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.class_weights import class_weights
from datasets.clips import Frame, Video, VideoFrame
from datasets.contact_sheet import contact_sheet
from datasets.images import image_size, read_frame
from datasets.labels import check_label_fits_frame, value_counts
from datasets.registry import VideoDatasetBase, dataset_named
from utils.command import module_parser, run_command, run_program, whole_number
from utils.errors import DataError, OptionError
from utils.png import write_png
from utils.signals import leave_interrupts_to_parent
from utils.sizes import format_size

MOST_LISTED = 10  # lines, sizes or steps of one kind
SMALL = (32, 32)  # a frame is decoded, and not kept


@dataclass
class Findings:
    """What was found in the files of one video, or of several."""

    sizes: Counter[str] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(255, np.int64))  # by class index
    unknown: Counter[object] = field(default_factory=Counter)  # pixels by id or color without a class
    problems: list[str] = field(default_factory=list)
    unreadable: int = 0
    good: list[tuple[str, Frame, Path]] = field(default_factory=list)  # caption, frame and label

    def add(self, other: "Findings") -> None:
        """Adds those of other videos."""
        self.sizes.update(other.sizes)
        self.unknown.update(other.unknown)
        self.pixels = self.pixels + other.pixels
        self.problems += other.problems
        self.good += other.good
        self.unreadable += other.unreadable


def findings_of(dataset: VideoDatasetBase, video: Video) -> Findings:
    """Reads all frames and labels of a video."""
    found = Findings()
    for frame, label in zip(video.frames, video.labels, strict=True):
        try:
            found.sizes[format_size(image_size(frame)[::-1])] += 1
            read_frame(frame, SMALL)
        except DataError as error:
            found.unreadable += 1
            found.problems.append(str(error))
            if isinstance(frame, VideoFrame):
                break  # the frames after it are as bad
            continue
        if label is not None:
            _add_label(found, dataset, video, frame, label)
    return found


def _add_label(found: Findings, dataset: VideoDatasetBase, video: Video, frame: Frame, label: Path) -> None:
    try:
        check_label_fits_frame(label, frame)
        pixels, unknown = value_counts(label, dataset.label_coding(label))
    except DataError as error:
        found.unreadable += "cannot be read" in str(error)
        found.problems.append(str(error))
        return
    found.pixels = found.pixels + pixels
    found.unknown.update(unknown)
    if unknown:
        shown = ", ".join(f"{value} ({count:,} pixels)" for value, count in list(unknown.items())[:3])
        found.problems.append(f"label {label} holds ids without a class: {shown}")
    else:
        found.good.append((f"{video.name}, {frame.name}", frame, label))


def steps_of(video: Video) -> Counter[int]:
    """How often each step between the numbers of two successive frames occurs."""
    stems = [frame.stem for frame in video.frames]
    numbers = [list(map(int, re.findall(r"\d+", stem))) for stem in stems]
    if len({len(each) for each in numbers}) != 1:
        return Counter()
    columns = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
    return Counter(after - before for before, after in pairwise(columns[-1])) if columns else Counter()


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and writes the sheet; returns the exit status: 0, 2 for what a training would refuse."""
    parser = module_parser("datasets.check", __doc__)
    parser.add_argument("dataset", metavar="FILE|NAME", help="a YAML file, or a name as for --dataset of main.py")
    parser.add_argument("--data-root", metavar="DIR", help="the data set's folder (default: as of main.py)")
    parser.add_argument("--sheet", metavar="FILE", help="the contact sheet (default: check_NAME.png)")
    parser.add_argument(
        "--win-size", type=whole_number(1), default=4, metavar="S", help="frames of a clip (4, as main.py)"
    )
    parser.add_argument(
        "--num-workers", type=whole_number(1), default=os.cpu_count() or 1, metavar="N", help="processes"
    )
    return run_command(parser, argv, _check)


def _check(options: argparse.Namespace) -> None:
    dataset = dataset_named(options.dataset)
    root = dataset.root(options.data_root)
    videos = {split: dataset.videos(root, split) for split in ("train", "val")}
    found = {split: _examined(dataset, videos[split], split, options.num_workers) for split in videos}
    lost = dataset.labels_without_frame(root)
    folder = options.data_root or dataset.default_root
    where = f", in {folder}" if folder else ""
    print(f"{options.dataset}: {len(dataset.classes.names)} classes{where}\n\n{_table(videos, found)}")
    print(f"labels without a frame: {len(lost)}\n\n{_class_table(dataset, found)}")
    _print_some("label without a frame:", lost)
    problems = [problem for findings in found.values() for problem in findings.problems]
    _print_some("", problems[1:])
    good = [(f"{split}, {each[0]}", *each[1:]) for split, findings in found.items() for each in findings.good]
    if good:
        sheet = Path(options.sheet or f"check_{Path(options.dataset).stem}.png")
        if not sheet.parent.is_dir():
            raise OptionError(
                f"--sheet {sheet}: there is no folder {sheet.parent}: expected a file in one that is there"
            )
        write_png(sheet, contact_sheet(dataset, good))
        print(f"\ncontact sheet: {sheet}")
    if problems:
        raise DataError(problems[0])
    for split in videos:
        dataset.clips(root, split, options.win_size)  # raises where no video fills the window


def _examined(dataset: VideoDatasetBase, videos: Sequence[Video], split: str, processes: int) -> Findings:
    total, examine = Findings(), partial(findings_of, dataset)
    bar = partial(tqdm, desc=split, total=len(videos), unit="video", disable=None, leave=False)
    if min(processes, len(videos)) < 2:
        for each in bar(map(examine, videos)):
            total.add(each)
        return total
    with multiprocessing.Pool(min(processes, len(videos)), leave_interrupts_to_parent) as pool:
        for each in bar(pool.imap(examine, videos)):
            total.add(each)
    return total


def _table(videos: dict[str, list[Video]], found: dict[str, Findings]) -> str:
    rows = {
        "videos": [str(len(each)) for each in videos.values()],
        "frames": [str(sum(len(video.frames) for video in each)) for each in videos.values()],
        "labels": [str(sum(label is not None for video in each for label in video.labels)) for each in videos.values()],
        "sizes (width x height)": [_most_common(each.sizes) for each in found.values()],
        "steps between frames": [_most_common(_steps(each)) for each in videos.values()],
        "frames before a label": [_range(_past(each)) for each in videos.values()],
        "labels without past frames": [str(sum(past == 0 for past in _past(each))) for each in videos.values()],
        "ids without a class": [_most_common(each.unknown) for each in found.values()],
        "unreadable files": [str(each.unreadable) for each in found.values()],
    }
    widths = [max(len(split), *(len(row[i]) for row in rows.values())) + 3 for i, split in enumerate(videos)]
    lines = [" " * 26 + "".join(f"{split:>{width}}" for split, width in zip(videos, widths, strict=True))]
    lines += [
        f"{name:<26}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows.items()
    ]
    return "\n".join(lines)


def _class_table(dataset: VideoDatasetBase, found: dict[str, Findings]) -> str:
    classes, width = dataset.classes, max(14, *(len(name) + 2 for name in dataset.classes.output_names))
    counts = {split: each.pixels[: classes.num_outputs] for split, each in found.items()}
    lines = [f"{'class':<{width}}" + "".join(f"{split + ' pixels':>16}{'share %':>10}" for split in counts)]
    for index, name in enumerate(classes.output_names):
        cells = "".join(
            f"{each[index]:>16,}{100 * each[index] / max(1, each.sum()):>10.3f}" for each in counts.values()
        )
        lines.append(f"{name:<{width}}{cells}")
    train = counts["train"].tolist()
    if sum(train):
        weights = ", ".join(f"{weight:.4f}" for weight in class_weights(train)[:-1])
        lines += ["", "class weights, for the YAML file (or loss_weights of a ClassSet):", f"weights: [{weights}]"]
    return "\n".join(lines)


def _steps(videos: Iterable[Video]) -> Counter[int]:
    total: Counter[int] = Counter()
    for video in videos:
        total.update(steps_of(video))
    return total


def _past(videos: Iterable[Video]) -> list[int]:
    return [number for video in videos for number, label in enumerate(video.labels) if label is not None]


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return "-"
    return str(numbers[0]) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _most_common(counter: Counter) -> str:
    if not counter:
        return "-"
    if len(counter) == 1:
        return str(next(iter(counter)))
    shown = ", ".join(f"{value} ({count:,})" for value, count in counter.most_common(3))
    return shown + (", ..." if len(counter) > 3 else "")


def _print_some(what: str, items: Sequence[object]) -> None:
    for item in items[:MOST_LISTED]:
        print(f"{what} {item}".strip())
    if len(items) > MOST_LISTED:
        print(f"... and {len(items) - MOST_LISTED} more")


if __name__ == "__main__":
    run_program(main)
