"""Label the unlabeled frames of a data set by a single-frame network.

    python -m engine.pseudo_labels OUT --weights trained_models/erfnet_pretrained.pth
    python main.py --training --data-root OUT --weights trained_models/erfnet_pretrained.pth

OUT becomes a data set of links to the frames and labels at --data-root, and of a label for each unlabeled frame of its
training split. Pixels below --confidence are ignored. A second run resumes where the first one stopped.

--flips, --scales 0.75 1 1.25 and --both-directions average the probabilities over mirrored frames, resized ones, and
those before and after. --validation NAME makes snippets whose names begin so the validation split, and all others the
training split; with --replace-labels that has the network's labels alone.
"""

import argparse
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from datasets.cityscapes import CITYSCAPES_CLASSES, TRAIN_IDS_ENDING, City, Roots, cities_of, resolve_roots
from datasets.images import read_picture
from datasets.snippets import divided, runs_of
from engine.launch import pick_device
from engine.options.parser import DEVICES
from models.inference.segmenter import VideoSegmenter
from models.inference.teacher import Teacher
from utils.class_set import NO_CLASS
from utils.command import log_to_stderr, module_parser, run_command, run_program, whole_number
from utils.errors import OptionError, ScoresError
from utils.files import remove_parts, writable_folder, write_text
from utils.json_text import to_json
from utils.png import write_png
from utils.resize import resize_labels

DESCRIPTION = "pseudo_labels.json"


@dataclass(frozen=True)
class _Options:
    """The options of the command, by name."""

    out: str
    weights: str
    backbone: str | None
    data_root: str | None
    every: int
    confidence: float
    flips: bool
    scales: list[float]
    both_directions: bool
    validation: str | None
    replace_labels: bool
    device: str


# Options that came later: a folder that was begun without them goes on.
_LATER = {"flips": False, "scales": [1.0], "both_directions": False, "validation": None, "replace_labels": False}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    return run_command(_parser(), argv, lambda found: _write(_Options(**vars(found))), "the same command resumes")


def _parser() -> argparse.ArgumentParser:
    parser = module_parser("engine.pseudo_labels", __doc__)
    parser.add_argument("out", metavar="OUT", help="folder of the new data set, laid out like Cityscapes")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="weights of the network that labels the frames"
    )
    parser.add_argument("--backbone", metavar="NAME", help="backbone of the network, as for main.py (erf)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data set (as for main.py)")
    parser.add_argument(
        "--every",
        type=whole_number(1),
        default=1,
        metavar="K",
        help="label the frames whose number is divisible by K (1)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.5,
        metavar="P",
        help="pixels whose most probable class has a probability below P are ignored (0.5)",
    )
    parser.add_argument("--flips", action="store_true", help="average over each frame and its mirror image")
    parser.add_argument(
        "--scales",
        type=_scale,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="average over frames of S times the network's size, for example 0.75 1 1.25 (1)",
    )
    parser.add_argument(
        "--both-directions",
        action="store_true",
        help="average along the optical flow over the frames of the snippet before and after each",
    )
    parser.add_argument(
        "--validation",
        metavar="NAME",
        help="snippets of any split whose names begin so, such as aachen_000002, become the validation split, and all "
        "others the training split",
    )
    parser.add_argument(
        "--replace-labels", action="store_true", help="label the frames of the training split that have a label, too"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="as for main.py (auto)")
    return parser


def _scale(text: str) -> float:
    try:
        if 0.25 <= float(text) <= 4:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0.25 to 4, for example 1.25")


def _write(options: _Options) -> None:
    log_to_stderr()
    if not 0 <= options.confidence <= 1:
        raise OptionError(f"--confidence is {options.confidence}: expected 0 to 1, for example 0.5")
    roots = resolve_roots(options.data_root)
    validation: list[City] = []
    if options.validation is None:
        cities = cities_of(roots, "train")
    else:
        cities, validation = divided(roots, options.validation)
    segmenter = VideoSegmenter(options.weights, options.backbone, pick_device(options.device), baseline=True)
    _refuse_other_classes(segmenter)
    out = writable_folder(options.out, "OUT")
    if out.resolve() in (roots.root.resolve(), roots.sequence_root.resolve()):
        raise OptionError(f"OUT {out} is the data set itself: expected another folder, such as save/pseudo_labels")
    _claim(out, options, roots, segmenter.model.config.backbone)
    if validation:
        for city in validation:
            _link_all(out / "gtFine" / "val" / city.name, city.labels)
        for split, chosen in (("train", cities), ("val", validation)):
            for city in chosen:
                _link_all(out / "leftImg8bit_sequence" / split / city.name, city.frames)
    else:
        _link(out / "leftImg8bit_sequence", roots.sequence_root / "leftImg8bit_sequence")
        if (roots.root / "gtFine" / "val").is_dir():
            _link(out / "gtFine" / "val", roots.root / "gtFine" / "val")
    teacher = Teacher(segmenter, options.flips, options.scales, options.both_directions)
    tasks: list[tuple[list[Path], list[Path]]] = []  # frames in a row, and the labels that they lack
    for city in cities:
        folder = out / "gtFine" / "train" / city.name
        folder.mkdir(parents=True, exist_ok=True)
        if not options.replace_labels:
            _link_all(folder, city.labels)
        remove_parts(folder)
        labeled = {} if options.replace_labels else city.labels
        for run in runs_of(city.frames):
            wanted = [city.frames[n] for n in run if n not in labeled and int(n[-6:]) % options.every == 0]
            missing = [frame for frame in wanted if not _label_of(frame, folder).exists()]
            if missing:
                frames = [city.frames[name] for name in run] if options.both_directions else missing
                tasks.append((frames, [_label_of(frame, folder) for frame in missing]))
    with tqdm(desc="labels", unit="frame", disable=None, total=sum(len(frames) for frames, _ in tasks)) as progress:
        for frames, missing in tasks:
            for path, labels in zip(frames, _predicted(teacher, frames, options.confidence), strict=True):
                if (label := _label_of(path, missing[0].parent)) in missing:
                    write_png(label, labels)
                progress.update()


def _label_of(frame: Path, folder: Path) -> Path:
    return folder / f"{frame.stem.removesuffix('_leftImg8bit')}_gtFine{TRAIN_IDS_ENDING}"


def _predicted(teacher: Teacher, paths: Sequence[Path], confidence: float) -> Iterator[np.ndarray]:
    """Class indices, uint8 ``H W`` at each frame's size; ``NO_CLASS`` where the probability is below ``confidence``."""
    read: deque[tuple[Path, tuple[int, int]]] = deque()  # the teacher reads ahead

    def frames() -> Iterator[np.ndarray]:
        for path in paths:
            frame = read_picture(path).permute(1, 2, 0).numpy()
            read.append((path, frame.shape[:2]))
            yield frame

    try:
        for probabilities in teacher.probabilities(frames()):
            is_unsure = probabilities.amax(0) < confidence
            labels = probabilities.argmax(0).to(torch.uint8).masked_fill(is_unsure, NO_CLASS).cpu().numpy()
            yield resize_labels(labels, read.popleft()[1])
    except ScoresError as error:
        raise ScoresError(f"{read[-1][0]}: {error}") from error


def _refuse_other_classes(segmenter: VideoSegmenter) -> None:
    """Raises ``OptionError`` where the network predicts other classes than those of the labels that are written."""
    wanted, count = CITYSCAPES_CLASSES, segmenter.model.config.num_classes
    names = wanted.names if segmenter.classes is None else segmenter.classes.names
    if count != wanted.num_outputs or names != wanted.names:
        raise OptionError(
            f"--weights predict {count - 1} classes ({', '.join(names[:2])}, ...): expected the {len(wanted.names)} of "
            f"the data set ({', '.join(wanted.names[:2])}, ...)"
            if segmenter.classes is not None
            else f"--weights predict {count - 1} classes: expected the {len(wanted.names)} of the data set"
        )


def _claim(out: Path, options: _Options, roots: Roots, backbone: str) -> None:
    """Writes the options to ``OUT``. Raises ``OptionError`` where it holds labels of other options, or a data set."""
    given = asdict(options).items()
    wanted = {name: value for name, value in given if name not in ("out", "device") and value != _LATER.get(name, ...)}
    wanted |= {
        "backbone": backbone,
        "weights": str(Path(options.weights).resolve()),
        "data_root": str(roots.root.resolve()),
    }
    file = out / DESCRIPTION
    text = to_json(wanted, sort_keys=True)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise OptionError(f"OUT {out} holds labels of other options (see {file.name}): name a new folder")
    if not file.exists() and any((out / part).exists() for part in ("gtFine", "leftImg8bit_sequence")):
        raise OptionError(f"OUT {out} holds a data set already: name a new folder")
    write_text(file, text)


def _link_all(folder: Path, targets: Mapping[str, Path]) -> None:
    for path in targets.values():
        _link(folder / path.name, path)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target.resolve())


if __name__ == "__main__":
    run_program(main)
