"""JSON as any reader takes it: without NaN and infinity, which Python alone writes."""

import json
import math
from typing import Any


def to_json(value: object, indent: int | None = 1, sort_keys: bool = False) -> str:
    """The value as JSON that ends its last line; numbers that are not finite become ``null``, at any depth."""
    return json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False) + "\n"


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ``ValueError`` for what is no JSON, such as NaN, or is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
