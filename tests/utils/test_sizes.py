"""Heights and widths as text."""

import pytest

from utils.sizes import format_size, parse_size


@pytest.mark.parametrize(("text", "size"), [("512x1024", (512, 1024)), ("1X2", (1, 2))])
def test_a_size_is_height_and_width(text, size):
    assert parse_size(text) == size
    assert format_size(size) == text.lower() and format_size(size, " x ") == text.lower().replace("x", " x ")


@pytest.mark.parametrize(
    "text", ["", "x", "512", "512x", "x512", "0x4", "4x0", "-3x4", "3 x 4", "3x4x5", "3.0x4", "²x4"]
)
def test_other_text_is_no_size(text):
    with pytest.raises(ValueError, match="is no size: expected HxW, for example 512x1024"):
        parse_size(text)
