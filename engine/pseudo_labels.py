"""Label the unlabeled frames of a data set by a single-frame network.

    python -m engine.pseudo_labels OUT --weights trained_models/erfnet_pretrained.pth
    python main.py --training --data-root OUT --weights trained_models/erfnet_pretrained.pth

OUT becomes a data set of links to the frames and labels at --data-root, and of a label for each unlabeled frame of its
training split. Pixels below --confidence are ignored. A second run resumes where the first one stopped.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.cityscapes import CITYSCAPES_CLASSES, TRAIN_IDS_ENDING, Roots, cities_of, resolve_roots
from datasets.images import read_picture
from engine.launch import pick_device
from engine.options.parser import DEVICES
from models.inference.segmenter import VideoSegmenter
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
    device: str


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
    parser.add_argument("--device", default="auto", choices=DEVICES, help="as for main.py (auto)")
    return parser


def _write(options: _Options) -> None:
    log_to_stderr()
    if not 0 <= options.confidence <= 1:
        raise OptionError(f"--confidence is {options.confidence}: expected 0 to 1, for example 0.5")
    roots = resolve_roots(options.data_root)
    cities = cities_of(roots, "train")
    segmenter = VideoSegmenter(options.weights, options.backbone, pick_device(options.device), baseline=True)
    _refuse_other_classes(segmenter)
    out = writable_folder(options.out, "OUT")
    if out.resolve() in (roots.root.resolve(), roots.sequence_root.resolve()):
        raise OptionError(f"OUT {out} is the data set itself: expected another folder, such as save/pseudo_labels")
    _claim(out, options, roots, segmenter.model.config.backbone)
    _link(out / "leftImg8bit_sequence", roots.sequence_root / "leftImg8bit_sequence")
    if (roots.root / "gtFine" / "val").is_dir():
        _link(out / "gtFine" / "val", roots.root / "gtFine" / "val")
    missing: list[tuple[Path, Path]] = []
    for city in cities:
        folder = out / "gtFine" / "train" / city.name
        for path in city.labels.values():
            _link(folder / path.name, path)
        remove_parts(folder)
        for name, path in city.frames.items():
            label = folder / f"{name}_gtFine{TRAIN_IDS_ENDING}"
            if name not in city.labels and int(name[-6:]) % options.every == 0 and not label.exists():
                missing.append((path, label))
    for path, label in tqdm(missing, "labels", unit="frame", disable=None):
        try:
            labels = _predicted(segmenter, read_picture(path).permute(1, 2, 0).numpy(), options.confidence)
        except ScoresError as error:
            raise ScoresError(f"{path}: {error}") from error
        write_png(label, labels)


def _predicted(segmenter: VideoSegmenter, frame: np.ndarray, confidence: float) -> np.ndarray:
    """Class indices, uint8 ``H W`` at the frame's size; ``NO_CLASS`` where the probability is below ``confidence``."""
    prediction = segmenter.step(segmenter.prepare(frame), use_memory=False)
    is_unsure = (prediction.probabilities.amax(0) < confidence).cpu().numpy()
    return resize_labels(np.where(is_unsure, np.uint8(NO_CLASS), prediction.labels), frame.shape[:2])


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
    wanted = {name: value for name, value in asdict(options).items() if name not in ("out", "device")}
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


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target.resolve())


if __name__ == "__main__":
    run_program(main)
