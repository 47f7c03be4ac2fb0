"""What a YAML file says of a data set: its folders, its classes, and the values that stand for them in label files."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.layout import IMAGE_ENDINGS, Layout
from datasets.names import NamePattern
from utils.class_set import IGNORED_COLOR, MOST_CLASSES, MOST_IDS, NO_CLASS, ClassSet, Color, default_colors
from utils.errors import ClassSetError, DataError
from utils.yaml_files import check_keys, nearest, read_mapping, shown

SPLITS = ("train", "val", "test")
KEYS = (
    *("path", *SPLITS, "names", "nc", "colors", "ignore", "file_ids", "weights"),
    *("masks", "frames", "sequence", "gaps"),
)
REQUIRED = ("train", "val", "names")
EXAMPLE = "path: data/farm, train: frames/train, val: frames/val, names: [grass, sheep]"


@dataclass(frozen=True)
class Description:
    """A data set as its file says it.

    ``indices`` maps values in label files to class indices, several maybe to one, ``ignored`` are values of pixels
    that count nowhere; ``color_indices`` maps the colors of labels of three channels, where colors are given.
    """

    file: Path
    root: Path
    layout: Layout
    classes: ClassSet
    indices: Mapping[int, int]
    ignored: frozenset[int]
    color_indices: Mapping[Color, int] | None


def read_description(path: str | Path) -> Description:
    """Reads the file. Raises ``DataError`` for all that is wrong with it."""
    file = Path(path).expanduser()
    content = read_mapping(file, EXAMPLE)
    check_keys(file, content, KEYS, REQUIRED)
    try:
        return _described(file, content)
    except ClassSetError as error:
        raise DataError(f"{file}: {error}") from error


def _described(file: Path, content: Mapping[str, Any]) -> Description:
    names = _names(file, content["names"])
    if content.get("nc") not in (None, len(names)):
        raise DataError(f"{file}: nc is {shown(content['nc'])}, but there are {len(names)} names: expected as many")
    texts = list(names.values())
    indices = _indices(file, content.get("file_ids"), names)
    ignored, ignored_colors = _ignored(file, content.get("ignore"))
    if content.get("ignore") is None:
        ignored = frozenset({NO_CLASS} - set(indices))
    for value in sorted(ignored & set(indices)):
        raise DataError(
            f"{file}: the id {value} is ignored, and that of {texts[indices[value]]!r}: expected one of both"
        )
    given = _colors(file, content.get("colors"), names)
    colors = given or default_colors(len(texts))
    color_indices = None
    if given is not None:
        void = ignored_colors or ({IGNORED_COLOR} - set(given))
        for color in void & set(given):
            raise DataError(f"{file}: the color {color} is ignored, and that of {texts[given.index(color)]!r}")
        color_indices = {**dict.fromkeys(void, len(texts)), **{color: i for i, color in enumerate(given)}}
    classes = ClassSet(
        tuple(texts),
        tuple(colors),
        file_ids=_written_ids(indices, len(texts)),
        ignored_file_ids=frozenset(value for value in ignored if value < 256),
        written_ignored=_written_ignored(indices, ignored),
        loss_weights=_weights(file, content.get("weights"), names),
    )
    root = file.parent / Path(_text(file, "path", content.get("path") or ".")).expanduser()
    return Description(file, root, _layout(file, content), classes, indices, ignored, color_indices)


def _layout(file: Path, content: Mapping[str, Any]) -> Layout:
    masks, gaps = content.get("masks"), content.get("gaps")
    if gaps not in (None, "split"):
        raise DataError(f"{file}: gaps is {shown(gaps)}: expected 'split', by which a gap ends a video, or no gaps")
    if isinstance(masks, Mapping):
        check_keys(f"{file}, masks", masks, SPLITS, ())
    return Layout(
        splits={split: _texts(file, split, content[split]) for split in SPLITS if content.get(split) is not None},
        masks={
            split: None
            if masks is None
            else _text(file, "masks", masks.get(split) if isinstance(masks, Mapping) else masks)
            for split in SPLITS
            if content.get(split) is not None
        },
        frames=None if content.get("frames") is None else _text(file, "frames", content["frames"]),
        names=_pattern(file, content.get("sequence")),
        splits_at_gaps=gaps == "split",
    )


def _names(file: Path, value: Any) -> dict[int, str]:
    """Names by key: the position in a list, or what stands before them in a mapping; in the order of the keys."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        raise DataError(
            f"{file}: names is {shown(value)}: expected a list such as [grass, sheep], or {{0: grass, 1: sheep}}"
        )
    if len(value) > MOST_CLASSES:
        raise DataError(f"{file}: names has {len(value)} classes: expected at most {MOST_CLASSES}")
    for key, name in value.items():
        if type(key) is not int or not 0 <= key < MOST_IDS:
            raise DataError(f"{file}: names has the key {shown(key)}: expected a number, as in {{0: grass}}")
        if not isinstance(name, str):
            raise DataError(f"{file}: names has {shown(name)}, which is no text: write it in quotes, as in 'no'")
    twice = next((name for name in value.values() if list(value.values()).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file}: the class {twice!r} is listed twice in names: expected each once")
    return dict(sorted(value.items()))


def _indices(file: Path, value: Any, names: Mapping[int, str]) -> dict[int, int]:
    """Class indices by value in label files."""
    position = {key: index for index, key in enumerate(names)}
    if value is None:
        return position
    if not isinstance(value, Mapping):
        raise DataError(
            f"{file}: file_ids is {shown(value)}: expected values of label files and classes, as in {{7: grass}}"
        )
    found = {}
    for file_id, wanted in value.items():
        if type(file_id) is not int or not 0 <= file_id < MOST_IDS:
            raise DataError(
                f"{file}: file_ids has the value {shown(file_id)}: expected whole numbers from 0 to {MOST_IDS - 1}"
            )
        found[file_id] = _class_index(file, "file_ids", wanted, names)
    for index, name in enumerate(names.values()):
        if index not in found.values():
            raise DataError(f"{file}: file_ids has no value for the class {shown(name)}: expected one for each")
    return found


def _class_index(file: Path, key: str, wanted: Any, names: Mapping[int, str]) -> int:
    texts = list(names.values())
    if isinstance(wanted, str) and wanted in texts:
        return texts.index(wanted)
    if type(wanted) is int and wanted in names:
        return list(names).index(wanted)
    raise DataError(f"{file}: {key} has the class {shown(wanted)}, which is not known{nearest(str(wanted), texts)}")


def _ignored(file: Path, value: Any) -> tuple[frozenset[int], set[Color]]:
    """Ids and colors of what is ignored: one, or a list of them; a color is a list of three, or '#rrggbb'."""
    ids: list[int] = []
    colors: set[Color] = set()
    for each in value if isinstance(value, list) else [] if value is None else [value]:
        if type(each) is int and 0 <= each < MOST_IDS:
            ids.append(each)
        elif isinstance(each, list | str):
            colors.add(_color(file, "ignore", each))
        else:
            raise DataError(f"{file}: ignore has {shown(each)}: expected ids such as 255, or colors such as [0, 0, 0]")
    if len(ids) > len(set(ids)):
        raise DataError(f"{file}: ignore has an id twice: expected each id once; a color is a list in it, [[0, 0, 0]]")
    return frozenset(ids), colors


def _colors(file: Path, value: Any, names: Mapping[int, str]) -> list[Color] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        by_index = {_class_index(file, "colors", key, names): each for key, each in value.items()}
        missing = [name for index, name in enumerate(names.values()) if index not in by_index]
        if missing:
            raise DataError(
                f"{file}: colors has none for the class {missing[0]!r}: expected one for each, or no colors"
            )
        value = [by_index[index] for index in sorted(by_index)]
    if not isinstance(value, list) or len(value) != len(names):
        count = len(value) if isinstance(value, list) else 0
        raise DataError(f"{file}: colors has {count} for {len(names)} classes: expected [red, green, blue] for each")
    return [_color(file, "colors", each) for each in value]


def _color(file: Path, key: str, value: Any) -> Color:
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        with suppress(ValueError):
            value = [int(value[start : start + 2], 16) for start in (1, 3, 5)]
    if isinstance(value, list) and len(value) == 3 and all(type(each) is int and 0 <= each <= 255 for each in value):
        red, green, blue = value
        return red, green, blue
    raise DataError(f"{file}: {key} has {shown(value)}: expected a color such as [128, 64, 128] or '#804080'")


def _weights(file: Path, value: Any, names: Mapping[int, str]) -> tuple[float, ...]:
    if value is None:
        return ()
    if isinstance(value, Mapping):
        by_index = {_class_index(file, "weights", key, names): each for key, each in value.items()}
        value = [by_index.get(index) for index in range(len(names))]
    if not isinstance(value, list) or len(value) != len(names) or not all(type(each) in (int, float) for each in value):
        raise DataError(f"{file}: weights is {shown(value)}: expected a number for each of the {len(names)} classes")
    return tuple(float(each) for each in value)


def _written_ids(indices: Mapping[int, int], count: int) -> tuple[int, ...]:
    """The first value of each class, for the ids that predictions are written as; those of 8 bits, else the indices."""
    first: dict[int, int] = {}
    for value, index in indices.items():
        first.setdefault(index, value)
    return tuple(first[index] for index in range(count)) if max(first.values()) < 256 else ()


def _written_ignored(indices: Mapping[int, int], ignored: Iterable[int]) -> int:
    taken = set(indices) if max(indices) < 256 else set(range(max(indices.values()) + 1))
    preferred = [NO_CLASS, *sorted(ignored)] if NO_CLASS in ignored else [*sorted(ignored), NO_CLASS]
    return next(value for value in [*preferred, *range(255, -1, -1)] if value not in taken and value < 256)


def _pattern(file: Path, value: Any) -> NamePattern:
    if value is None:
        return NamePattern()
    text = _text(file, "sequence", value)
    stem, ending = os.path.splitext(text)
    try:
        return NamePattern(stem if ending.lower() in IMAGE_ENDINGS else text)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _texts(file: Path, key: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise DataError(f"{file}: {key} is empty: expected a folder, or a file that lists frames")
    return tuple(_text(file, key, each) for each in values)


def _text(file: Path, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise DataError(f"{file}: {key} is {shown(value)}: expected a text such as a folder's name")
    return value.replace("\\", "/") if os.sep == "/" else value
