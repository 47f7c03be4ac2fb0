"""Names of files that hold control characters: what is shown of them, and what is written to text files."""

import logging

import pytest

from main import main
from utils.command import OneLineParser, last_line, log_to_stderr
from utils.errors import DataError, IncompleteError, StoppedError
from utils.printable import printable

HOSTILE = (
    "a\nmean_iou: 1.0",
    "b\x1b[2J\x1b]0;title\x07",
    "c\r\x08\x7f",
    "d\x9b31m\x85",
    "e\u202egnp.\u2028f",
    "g\udc80",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[2J\x00\x7f", r"\x1b[2J\x00\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("ab\u202edc\u2066", r"ab\u202edc\u2066"),
        ("\udcff", r"\udcff"),
        ("Straße 中文 🙂 a\\b", "Straße 中文 🙂 a\\b"),
    ],
)
def test_control_characters_become_escapes_and_other_text_stays(text, expected):
    assert printable(text) == expected


def is_clean(text: str) -> bool:
    return all(character.isprintable() for line in text.splitlines() for character in line)


def test_no_message_shows_a_control_character(capsys):
    log_to_stderr()
    for count, name in enumerate(HOSTILE, start=1):
        logging.getLogger("a").warning("%s: %d of %s", name, 3, DataError(name))
        for kind in (DataError, IncompleteError, StoppedError, KeyboardInterrupt):
            print(last_line(kind(f"{name} is no frame"), "main.py"))
        with pytest.raises(SystemExit):
            OneLineParser("main.py").error(f"unrecognized arguments: {name}")
        shown = capsys.readouterr()
        assert is_clean(shown.out + shown.err)
        assert (len(shown.out.splitlines()), len(shown.err.splitlines())) == (4, 2), count


@pytest.mark.parametrize("name", HOSTILE)
def test_a_source_of_such_a_name_is_refused_in_one_clean_line(name, tmp_path, capsys):
    weights, run = tmp_path / f"{name}.pth", tmp_path / "run"
    try:
        status = main(["--stream", str(tmp_path / name), "--weights", str(weights), "--savedir", str(run)])
    except SystemExit as end:
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and is_clean(error)
