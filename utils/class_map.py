"""Class maps: classes of a data set merged, renamed or dropped, as a YAML file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.class_set import IGNORED_NAME, ClassSet, LabelCoding
from utils.errors import DataError
from utils.yaml_files import nearest, read_mapping, shown

if TYPE_CHECKING:
    import numpy as np

EXAMPLE = "flat: [road, sidewalk], vehicle: [car, bus], ignored: [train]"
REST = "rest"


@dataclass(frozen=True)
class ClassMap:
    """``groups`` are new names with the classes that each of them holds, ``ignored`` classes that count nowhere.

    Classes that are not named stay as they are, after the groups; with ``ignores_rest`` they are ignored too.
    """

    file: str
    groups: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...]
    ignores_rest: bool

    def applied(self, classes: ClassSet) -> ClassSet:
        """The new classes: a group has color and id of its first class, and the smallest of the loss weights.

        Raises ``DataError`` where the map names a class that is not there, and where no class is left.
        """
        indices, names = self._members(classes), classes.names
        first = [members[0] for members in indices.values()]

        def least(weights: tuple[float, ...]) -> tuple[float, ...]:
            # The more pixels, the smaller the weight: that of the group is near that of its largest class.
            return tuple(min(weights[index] for index in members) for members in indices.values())

        group_of = {names[index]: name for name, members in indices.items() for index in members}
        shown = dict.fromkeys(group_of[name] for name in classes.shown_first if name in group_of)
        return ClassSet(
            tuple(indices),
            tuple(classes.colors[index] for index in first),
            file_ids=tuple(classes.file_ids[index] for index in first),
            ignored_file_ids=classes.ignored_file_ids,
            written_ignored=classes.written_ignored,
            loss_weights=least(classes.loss_weights),
            shallow_loss_weights=least(classes.shallow_loss_weights),
            shown_first=tuple(shown),
        )

    def new_indices(self, classes: ClassSet) -> tuple[int, ...]:
        """The new index of each old one, the ignore index included. Raises what ``applied`` does."""
        groups = self._members(classes)
        found = [len(groups)] * classes.num_outputs
        for new, members in enumerate(groups.values()):
            for index in members:
                found[index] = new
        return tuple(found)

    def mapped_coding(self, coding: LabelCoding, classes: ClassSet) -> LabelCoding:
        """A coding of label files with the new classes instead of the old ones."""
        import numpy as np  # only here: options are parsed without it

        new = self.new_indices(classes)
        table: np.ndarray = np.array(new, np.uint8)[coding.to_index]
        colors = None if coding.colors is None else {color: new[index] for color, index in coding.colors.items()}
        return replace(coding, to_index=table, colors=colors)

    def to_json(self, classes: ClassSet) -> dict[str, object]:
        """What became of the old classes: plain values, for reports."""
        groups = {name: [classes.names[index] for index in members] for name, members in self._members(classes).items()}
        kept = {name for members in groups.values() for name in members}
        return {"file": self.file, "classes": groups, IGNORED_NAME: [n for n in classes.names if n not in kept]}

    def _members(self, classes: ClassSet) -> dict[str, tuple[int, ...]]:
        """Old indices by new name."""
        named = [name for members in (*self.groups.values(), self.ignored) for name in members]
        for name in named:
            if name not in classes.names:
                raise DataError(f"{self.file}: there is no class {shown(name)}{nearest(name, classes.names)}")
        found = {name: tuple(map(classes.names.index, members)) for name, members in self.groups.items()}
        if not self.ignores_rest:
            for index, name in enumerate(classes.names):
                if name not in named:
                    if name in found:
                        raise DataError(
                            f"{self.file}: {shown(name)} is a group, and a class that stays: put it into one"
                        )
                    found[name] = (index,)
        if not found:
            raise DataError(f"{self.file}: no class is left: expected one group or more, such as {EXAMPLE}")
        return found


def read_class_map(path: str) -> ClassMap:
    """The class map of a YAML file: a name, and a class or a list of classes; ``ignored`` for those to be dropped.

    Raises ``DataError`` for what is wrong with it.
    """
    content = read_mapping(path, EXAMPLE)
    groups: dict[str, tuple[str, ...]] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise DataError(f"{path}: the key {shown(name)} is no text: write it in quotes, as in 'no'")
        if name == IGNORED_NAME and value in (None, REST):
            groups[name] = ()
        else:
            groups[name] = _texts(path, name, value)
    seen: dict[str, str] = {}
    for name, members in groups.items():
        for member in members:
            if member in seen:
                raise DataError(f"{path}: the class {member!r} is listed twice, in {seen[member]!r} and in {name!r}")
            seen[member] = name
    ignored = groups.pop(IGNORED_NAME, ())
    return ClassMap(path, groups, ignored, content.get(IGNORED_NAME) == REST)


def class_map_text(content: Mapping[str, Any]) -> str:
    """What ``ClassMap.to_json`` returns, as a line: groups and renamed classes, and those that are ignored."""
    changed = {name: members for name, members in content["classes"].items() if members != [name]}
    parts = [f"{name} = {' + '.join(members)}" for name, members in changed.items()]
    parts += [f"{IGNORED_NAME}: {', '.join(content[IGNORED_NAME])}"] if content[IGNORED_NAME] else []
    return f"classes by {content['file']}: {'; '.join(parts) or 'as they are'}"


def _texts(path: str, name: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) for each in values):
        raise DataError(f"{path}: {name} is {shown(value)}: expected a class or a list of classes, as in [road]")
    return tuple(values)
