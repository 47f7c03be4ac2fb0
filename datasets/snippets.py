"""Snippets of Cityscapes by their names: those of a validation split of one's own, and the frames of each in a row."""

from collections.abc import Iterable

from datasets.cityscapes import City, Roots, cities_of
from utils.errors import OptionError


def divided(roots: Roots, name: str) -> tuple[list[City], list[City]]:
    """The cities of the training and the validation splits, once with the snippets of both whose names do not
    begin so, once with those whose names do.

    Raises ``OptionError`` where one of them has no labeled snippet.
    """
    names: dict[str, City] = {}
    for split in ("train", "val"):
        if (roots.root / "gtFine" / split).is_dir():
            for city in cities_of(roots, split):
                known = names.get(city.name, City(city.name, {}, {}))
                names[city.name] = City(city.name, known.frames | city.frames, known.labels | city.labels)
    parts = [[part for city in names.values() if (part := _where(city, name, in_it)).labels] for in_it in (False, True)]
    if not all(parts):
        found = sorted({label.rpartition("_")[0] for city in names.values() for label in city.labels})
        raise OptionError(
            f"--validation {name}: expected the beginning of the names of some labeled snippets, not of all; there are "
            f"{', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        )
    return parts[0], parts[1]


def _where(city: City, beginning: str, is_so: bool) -> City:
    """A city's frames and labels whose names begin so, or those whose names do not."""
    frames, labels = (
        {name: path for name, path in each.items() if name.startswith(beginning) == is_so}
        for each in (city.frames, city.labels)
    )
    return City(city.name, frames, labels)


def runs_of(names: Iterable[str]) -> list[list[str]]:
    """Names ``CITY_SEQ_FRAME`` of consecutive frames."""
    runs: list[list[str]] = []
    for name in sorted(names):
        if runs and name[:-6] == runs[-1][-1][:-6] and int(name[-6:]) == int(runs[-1][-1][-6:]) + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs
