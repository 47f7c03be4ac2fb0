"""Classes as a value: names, colors, ids in label files, loss weights; passed to whatever counts or shows classes.

It lives here since networks and data sets both take it, and neither of the two imports the other.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from utils.errors import ClassSetError

if TYPE_CHECKING:
    import numpy as np

Color = tuple[int, int, int]

NO_CLASS = 255  # value of unlabeled pixels in 8-bit label files, unless a data set defines another one
LONGEST_NAME = 100  # letters of a class's name
MOST_CLASSES = 254  # class indices are 8-bit, and one of them stands for what is ignored
MOST_IDS = 1 << 16  # values of a label file of 16 bits
IGNORED_NAME, IGNORED_COLOR = "ignored", (0, 0, 0)


@dataclass(frozen=True)
class LabelCoding:
    """Meaning of the values of a label file.

    ``to_index`` (uint8, 256 entries, or 65536 where files may have 16 bits) maps each value to a class index, ``valid``
    holds those that may occur. ``colors`` maps the RGB colors of label files of three channels to class indices;
    ``None`` where such files are no labels.
    """

    to_index: np.ndarray
    valid: frozenset[int]
    colors: Mapping[Color, int] | None = None

    @cached_property
    def checksum(self) -> int:
        """Differs for codings that read the same file differently."""
        colors = repr(sorted(self.colors.items())) if self.colors else ""
        return zlib.crc32(colors.encode(), zlib.crc32(self.to_index.tobytes()))


@dataclass(frozen=True)
class ClassSet:
    """N classes, in the order of a network's logits; index N is the ignore index.

    ``names`` and ``colors`` (RGB) are of the N classes, ``file_ids`` their values in label files (default: 0 to N-1).
    ``ignored_file_ids`` are file values of ignored pixels, ``written_ignored`` is the one that is written for them.
    ``loss_weights`` are the class weights of the loss (default: all 1), ``shallow_loss_weights`` those for the shallow
    decoder. ``shown_first`` names the classes to show first, such as those that move.

    Raises ``ClassSetError`` for no classes, too many, duplicate names, colors or ids, and values out of range.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    file_ids: tuple[int, ...] = ()
    ignored_file_ids: frozenset[int] = frozenset({NO_CLASS})
    written_ignored: int = NO_CLASS
    loss_weights: tuple[float, ...] = ()
    shallow_loss_weights: tuple[float, ...] = ()
    shown_first: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("names", "colors", "file_ids", "loss_weights", "shallow_loss_weights", "shown_first"):
            object.__setattr__(self, field, _as_tuple(field, getattr(self, field)))
        object.__setattr__(self, "colors", tuple(_as_tuple("colors", color) for color in self.colors))
        defaults: dict[str, object] = {
            "file_ids": tuple(range(len(self.names))),
            "loss_weights": (1.0,) * len(self.names),
            "shallow_loss_weights": self.loss_weights or (1.0,) * len(self.names),
            "shown_first": self.names,
        }
        for field, value in defaults.items():
            if not getattr(self, field):
                object.__setattr__(self, field, value)
        object.__setattr__(self, "ignored_file_ids", frozenset(self.ignored_file_ids) - set(self.file_ids))
        _check(self)

    @property
    def ignored(self) -> int:
        """The ignore index."""
        return len(self.names)

    @property
    def num_outputs(self) -> int:
        """Number of logits: one a class, and one for the ignore index, as in the published networks."""
        return len(self.names) + 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names by index, the ignore index included."""
        return (*self.names, IGNORED_NAME)

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colors by index, the ignore index included."""
        return (*self.colors, IGNORED_COLOR)

    def output_weights(self, shallow: bool = False) -> tuple[float, ...]:
        """Loss weights by index; 0 for the ignore index."""
        return (*(self.shallow_loss_weights if shallow else self.loss_weights), 0.0)

    @cached_property
    def to_file_id(self) -> np.ndarray:
        """uint8, 256 entries, read-only: class index -> value in label files."""
        return self._table(self.written_ignored, enumerate(self.file_ids))

    @cached_property
    def to_file_index(self) -> np.ndarray:
        """uint8, 256 entries, read-only: class index -> value in files of class indices, 255 for the ignore index."""
        return self._table(NO_CLASS, ((index, index) for index in range(self.ignored)))

    @cached_property
    def file_id_coding(self) -> LabelCoding:
        """Coding of files that hold ``file_ids``."""
        table = self._table(self.ignored, ((value, index) for index, value in enumerate(self.file_ids)))
        return LabelCoding(table, self.ignored_file_ids | {*self.file_ids, self.written_ignored})

    def coding_of(
        self, indices: Mapping[int, int], ignored: Iterable[int], colors: Mapping[Color, int] | None = None
    ) -> LabelCoding:
        """Coding of files of up to 16 bits with these values of classes, several maybe of one, and of what is ignored.

        ``colors`` are those of files of three channels.
        """
        table = self._table(self.ignored, indices.items(), keys=MOST_IDS)
        return LabelCoding(table, frozenset({*indices, *ignored}), colors)

    @cached_property
    def index_coding(self) -> LabelCoding:
        """Coding of files that hold class indices (Cityscapes: train ids); the ignore index and above are ignored."""
        table = self._table(self.ignored, ((index, index) for index in range(self.ignored)))
        return LabelCoding(table, self.file_id_coding.valid | {*range(self.num_outputs), NO_CLASS})

    @staticmethod
    def _table(fill: int, pairs: Iterable[tuple[int, int]], keys: int = 256) -> np.ndarray:
        import numpy as np  # only here: options are parsed without it

        table = np.full(keys, fill, dtype=np.uint8)
        for key, value in pairs:
            table[key] = value
        table.setflags(write=False)
        return table

    def to_json(self) -> dict[str, object]:
        """Plain values, for weight files and checkpoints."""
        content = dataclasses.asdict(self)
        return {name: sorted(v) if isinstance(v, frozenset) else _listed(v) for name, v in content.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ClassSet:
        """The inverse of ``to_json``. Raises ``ClassSetError`` for content that is no class set."""
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in content.items() if name in known})
        except (TypeError, ValueError, AttributeError) as error:
            raise ClassSetError(
                f"a class set cannot be read ({error!r}): expected names and colors of classes"
            ) from error


def default_colors(count: int) -> tuple[Color, ...]:
    """Colors that differ, without black: those of PASCAL VOC, whose bits are those of the position."""
    return tuple(_voc_color(position) for position in range(1, count + 1))


def _voc_color(position: int) -> Color:
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (position >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _as_tuple(field: str, values: object) -> tuple[object, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ClassSetError(f"a class set has {field} {values!r}: expected a list")
    return tuple(values)


def _check(classes: ClassSet) -> None:
    names, count = classes.names, len(classes.names)
    if not names:
        raise ClassSetError("a class set has no class left: expected one or more")
    if count > MOST_CLASSES:
        raise ClassSetError(f"a class set has {count} classes: expected at most {MOST_CLASSES}, as labels have 8 bits")
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
            shown = repr(name)[:LONGEST_NAME]
            raise ClassSetError(f"a class set has the name {shown}: expected a text such as 'road'")
        if name == IGNORED_NAME:
            raise ClassSetError(f"a class set has the name {name!r}, which is that of the ignore index: leave it out")
    for field in ("colors", "file_ids", "loss_weights", "shallow_loss_weights"):
        if len(getattr(classes, field)) != count:
            raise ClassSetError(
                f"a class set has {count} names and {len(getattr(classes, field))} {field}: expected one each"
            )
    for field, what in (("names", "name"), ("colors", "color"), ("file_ids", "id")):
        twice = _repeated(getattr(classes, field))
        if twice is not None:
            first, second = twice
            raise ClassSetError(
                f"classes {names[first]!r} and {names[second]!r} have the same {what} "
                f"({getattr(classes, field)[first]}): expected another one for each"
            )
    for name, color in zip(names, classes.colors, strict=True):
        if len(color) != 3 or not all(type(channel) is int and 0 <= channel <= 255 for channel in color):
            raise ClassSetError(f"class {name!r} has the color {color}: expected red, green and blue from 0 to 255")
    for value in (*classes.file_ids, *classes.ignored_file_ids, classes.written_ignored):
        if type(value) is not int or not 0 <= value <= 255:
            raise ClassSetError(f"a class set has the id {value!r}: expected whole numbers from 0 to 255")
    if classes.written_ignored in classes.file_ids:
        name = names[classes.file_ids.index(classes.written_ignored)]
        free = next(value for value in range(256) if value not in classes.file_ids)
        raise ClassSetError(
            f"class {name!r} has the id {classes.written_ignored}, which is written for ignored pixels: expected "
            f"another written_ignored, such as {free}"
        )
    for weight in (*classes.loss_weights, *classes.shallow_loss_weights):
        if type(weight) not in (int, float) or not 0 <= weight < float("inf"):
            raise ClassSetError(f"a class set has the loss weight {weight!r}: expected 0 or more, such as 1.0")
    unknown = [name for name in classes.shown_first if name not in names]
    if unknown:
        raise ClassSetError(f"a class set shows {unknown[0]!r} first: expected one of its names, such as {names[0]!r}")


def _repeated(values: Sequence[object]) -> tuple[int, int] | None:
    """Positions of the first two equal values, None where all differ."""
    seen: dict[object, int] = {}
    for position, value in enumerate(values):
        if value in seen:
            return seen[value], position
        seen[value] = position
    return None
