"""JSON without NaN, in and out."""

import json
import math

import pytest

from utils.json_text import from_json, to_json


def test_numbers_that_are_not_finite_become_null_at_any_depth():
    value = {"a": [1.5, math.nan, (math.inf, {"b": -math.inf})], "c": "NaN", "d": 10**400, "e": None}
    expected = {"a": [1.5, None, [None, {"b": None}]], "c": "NaN", "d": 10**400, "e": None}
    text = to_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert text.endswith("}\n")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 5000, "NaN", '{"a": [1, Infinity]}', "[1", "", b"\xff\xfe["])
def test_what_is_no_json_or_too_deep_is_a_value_error(text):
    with pytest.raises(ValueError):
        from_json(text)
