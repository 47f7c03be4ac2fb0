"""When text is colored, and that a color says high or low."""

import io

import pytest

from utils.terminal import shaded, supports_color


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_only_terminals_that_want_it_get_color(monkeypatch, stream, environment, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert supports_color(stream) is expected


def test_low_is_orange_and_high_is_blue():
    assert shaded("12.00", 0.12) == "\x1b[38;5;166m12.00\x1b[0m"
    assert shaded("95.00", 0.95) == "\x1b[38;5;33m95.00\x1b[0m"
    assert shaded("0.80", 0.8) == shaded("0.80", 2.0)
