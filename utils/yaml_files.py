"""YAML files of a user's, read as data only, and what is wrong with them in one line."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.errors import DataError

ENDINGS = (".yaml", ".yml")
MOST_BYTES = 10_000_000
MOST_NAMED = 10  # choices in a message
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 60, 60


def is_yaml(name: str) -> bool:
    """Whether a name is that of a YAML file."""
    return name.lower().endswith(ENDINGS)


def read_mapping(path: str | Path, example: str) -> dict[Any, Any]:
    """The keys and values of a YAML file; ``example`` shows in messages what it should begin with.

    Raises ``DataError`` where it is missing, no YAML, no mapping, or has a key twice.
    """
    import yaml  # only here: the command line is parsed without it

    class Loader(yaml.SafeLoader):
        """Data only, and each key once."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: dict[Any, Any] = {}
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, list | dict):
                    raise DataError(
                        f"{path}, line {key_node.start_mark.line + 1}: a key is {shown(key)}: expected a text"
                    )
                if key in seen:
                    raise DataError(
                        f"{path}: {key!r} stands there twice, in lines {seen[key]} and "
                        f"{key_node.start_mark.line + 1}: expected it once"
                    )
                seen[key] = key_node.start_mark.line + 1
            return super().construct_mapping(node, deep)

    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise DataError(f"{path} has more than {MOST_BYTES // 1_000_000} MB: expected a short file: {example}")
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)  # a subclass of SafeLoader
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): expected a YAML file: {example}") from error
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DataError(f"{path}{where}: is no YAML ({reason}): expected {example}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {'list' if isinstance(content, list) else 'single value'}"
        raise DataError(f"{path} holds {found}: expected keys with values, such as {example}")
    return content


def check_keys(path: str | Path, content: Mapping[Any, Any], known: Iterable[str], required: Iterable[str]) -> None:
    """Raises ``DataError`` for a key that is not known, with the nearest one that is, and for one that is missing."""
    known = list(known)
    for key in content:
        if key not in known:
            raise DataError(f"{path}: the key {key!r} is not known{nearest(str(key), known)}")
    for key in required:
        if content.get(key) is None:
            raise DataError(f"{path}: the key {key!r} is missing: expected it beside {', '.join(map(str, content))}")


def shown(value: object) -> str:
    """A value for a message: the beginning of a long one, as aliases make a short file a huge one."""
    return _SHORT.repr(value)


def nearest(word: str, known: Iterable[str]) -> str:
    """What follows "... is not known" in a message: the nearest of the known words, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word.lower(), [each.lower() for each in known], n=1, cutoff=0.5)
    if close:
        return f": did you mean {next(each for each in known if each.lower() == close[0])!r}?"
    more = ", ..." if len(known) > MOST_NAMED else ""
    return f": expected one of {', '.join(known[:MOST_NAMED])}{more}"
