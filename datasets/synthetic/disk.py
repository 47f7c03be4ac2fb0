"""A set of clips on disk, in Cityscapes' layout, with a label for every frame.

``dataset.json`` describes the clips and is renamed to that name last. Until then it is called
``dataset.json.partial``, and another start resumes: each file is renamed once it is complete, too.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields
from pathlib import Path

import cv2
from tqdm import tqdm

from utils.errors import DataError
from utils.files import remove_parts, renamed, write_text
from utils.json_text import from_json, to_json
from utils.png import write_png
from utils.signals import leave_interrupts_to_parent
from utils.system_files import is_system_file

from ..cityscapes import CITYSCAPES_CLASSES
from .clip import render_clip
from .options import StreetOptions

FORMAT = 1  # raised whenever the same options result in other clips
CITY = "street"
SPLITS = ("train", "val")
_DONE, _PARTIAL = "dataset.json", "dataset.json.partial"
_MOST = 1_000_000  # six digits
# Options that folders of this format may lack, with what that means.
_NEWER = {"persistence": 0}


def clip_seed(split: str, clip: int) -> int:
    """The seed of a split's clip: even for training, odd for validation, so that the splits never share one."""
    return 2 * clip + SPLITS.index(split)


def frame_files(out: Path, split: str, clip: int, frame: int) -> tuple[Path, Path]:
    """The files of a frame and of its label ids."""
    name = f"{CITY}_{clip:06d}_{frame:06d}"
    image = out / "leftImg8bit_sequence" / split / CITY / f"{name}_leftImg8bit.png"
    return image, out / "gtFine" / split / CITY / f"{name}_gtFine_labelIds.png"


def ensure_dataset(out: Path | str, train_clips: int, val_clips: int, options: StreetOptions, workers: int = 1) -> Path:
    """Writes the clips unless they are there already; see ``write_dataset``. Returns the folder."""
    out = Path(out)
    found = _described(out / _DONE)
    if found is None:
        write_dataset(out, train_clips, val_clips, options, workers)
    else:
        _check_same(out, found, _description(train_clips, val_clips, options))
    return out


def described_clips(out: Path | str) -> tuple[StreetOptions, dict[str, int]]:
    """A folder's options and the number of clips of each split. Raises DataError where it holds none."""
    out = Path(out)
    found = _described(out / _DONE)
    no_clips = f"{out}: holds no street clips ({_DONE}); write some: python -m datasets.synthetic OUT"
    if found is None:
        raise DataError(no_clips)
    if found.get("format") != FORMAT:
        raise DataError(
            f"{out}: holds street clips of format {found.get('format')} instead of {FORMAT}; draw them again"
        )
    try:
        options = StreetOptions(**{field.name: (_NEWER | found)[field.name] for field in fields(StreetOptions)})
        return options, {split: int(found[f"{split}_clips"]) for split in SPLITS}
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(no_clips) from error


def write_dataset(out: Path | str, train_clips: int, val_clips: int, options: StreetOptions, workers: int = 1) -> None:
    """Writes ``train_clips`` and ``val_clips`` clips into the folder ``out``, with ``workers`` processes.

    An interrupted run with the same options is resumed. Raises DataError if the folder holds something else, or cannot
    be written.
    """
    out = Path(out)
    if not (0 <= train_clips <= _MOST and 0 <= val_clips <= _MOST and train_clips + val_clips > 0):
        raise DataError(f"{train_clips} training and {val_clips} validation clips: expected 0 to {_MOST}, such as 100")
    if workers < 1:
        raise DataError(f"{workers} workers for writing clips: expected 1 or more, such as 2")
    description = _description(train_clips, val_clips, options)
    try:
        _claim(out, description)
        clips = [(split, clip) for split, count in zip(SPLITS, (train_clips, val_clips), strict=True)
                 for clip in range(count)]  # fmt: skip
        for _ in tqdm(_written(out, clips, options, workers), "street clips", len(clips), unit="clip", disable=None):
            pass
        _finish(out)
    except OSError as error:
        raise DataError(
            f"{out}: cannot write street clips there ({error.strerror}); name a folder that can be written"
        ) from error


def _description(train_clips: int, val_clips: int, options: StreetOptions) -> dict:
    described = {"format": FORMAT, "train_clips": train_clips, "val_clips": val_clips, **asdict(options)}
    return {name: value for name, value in described.items() if name not in _NEWER or value != _NEWER[name]}


def _described(path: Path) -> dict | None:
    try:
        found = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); name another folder for the street clips"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON; remove the folder and write the street clips again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object; remove the folder and write the street clips again")
    return found


def _claim(out: Path, description: dict) -> None:
    """Makes the folder, or resumes one that was begun with the same options."""
    for name in (_DONE, _PARTIAL):
        found = _described(out / name)
        if found is not None:
            _check_same(out, found, description)
    if (out / _DONE).exists():
        renamed(out / _DONE, out / _PARTIAL)
    if not (out / _PARTIAL).exists():
        if out.is_dir() and not all(is_system_file(path.name) for path in out.iterdir()):
            raise DataError(
                f"{out}: holds files but no {_DONE}, so they are not street clips; name a new or empty folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / _PARTIAL, to_json(description))
    for split in SPLITS:
        for path in frame_files(out, split, 0, 0):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_parts(path.parent)


def _finish(out: Path) -> None:
    try:
        renamed(out / _PARTIAL, out / _DONE)
    except FileNotFoundError:
        if not (out / _DONE).exists():  # else another process wrote the same clips and was first
            raise


def _check_same(out: Path, found: dict, wanted: dict) -> None:
    other = [
        f"{name} {(_NEWER | found).get(name)} instead of {value}"
        for name, value in (_NEWER | wanted).items()
        if (_NEWER | found).get(name) != value
    ]
    if other:
        raise DataError(f"{out}: holds street clips with {', '.join(other)}; name another folder or remove this one")


def _written(out: Path, clips: list[tuple[str, int]], options: StreetOptions, workers: int) -> Iterator[None]:
    """Writes the clips, in this process or in several; yields once for each."""
    if min(workers, len(clips)) <= 1:
        for split, clip in clips:
            _write_clip(out, split, clip, options)
            yield
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that the caller's threads hold
    pool = ProcessPoolExecutor(min(workers, len(clips)), context, _start_worker)
    try:
        for done in as_completed([pool.submit(_write_clip, out, split, clip, options) for split, clip in clips]):
            done.result()
            yield
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    leave_interrupts_to_parent()


def _write_clip(out: Path, split: str, clip: int, options: StreetOptions) -> None:
    files = [frame_files(out, split, clip, frame) for frame in range(options.length)]
    if all(path.exists() for pair in files for path in pair):
        return
    frames, train_ids = render_clip(options, clip_seed(split, clip))
    for (image, label), frame, ids in zip(files, frames, train_ids, strict=True):
        write_png(image, frame)
        write_png(label, CITYSCAPES_CLASSES.to_file_id[ids])
