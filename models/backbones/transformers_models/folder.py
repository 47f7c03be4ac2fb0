"""What stands in the JSON files of a folder that transformers saved; read without torch."""

import json
from pathlib import Path
from typing import Any

from utils.errors import OptionError

LARGEST = 1 << 24  # bytes of a JSON file: larger is none of these
RGB = tuple[float, float, float]


def folder_of(name: str) -> tuple[Path, int | None]:
    """Folder and stride of ``hf/FOLDER`` and ``hf/FOLDER@STRIDE``."""
    text = name.removeprefix("hf/")
    folder, at, stride = text.rpartition("@")
    if at and stride.isdecimal() and not Path(text).is_dir():
        return Path(folder), int(stride)
    return Path(text), None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises ``OptionError`` for a file that is not there or holds none."""
    if not file.is_file():
        raise OptionError(f"{file}: there is no such file: expected a folder as save_pretrained writes it")
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{file}: cannot be read ({error}): expected JSON as save_pretrained writes it") from error
    return content


def preprocessing(folder: Path) -> tuple[RGB, RGB] | None:
    """Mean and deviation by which a folder's ``preprocessor_config.json`` normalizes; ``None`` without that file."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    content = read_json(file)
    if content.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = content.get("image_mean"), content.get("image_std")
    for name, values in (("image_mean", mean), ("image_std", std)):
        if values is not None and not (
            isinstance(values, list) and len(values) == 3 and all(isinstance(each, int | float) for each in values)
        ):
            raise OptionError(f"{file}: {name} is {values!r}: expected three numbers, such as [0.485, 0.456, 0.406]")
    return None if mean is None or std is None else (tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[return-value]


def class_names(content: dict[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes of a ``config.json``, by ``id2label``; ``None`` where there are none."""
    labels = content.get("id2label")
    if not isinstance(labels, dict) or sorted(labels, key=int) != [str(number) for number in range(len(labels))]:
        return None
    return tuple(str(labels[str(number)]) for number in range(len(labels)))
