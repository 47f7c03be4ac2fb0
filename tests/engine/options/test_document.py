"""docs/options.md says what the parser says."""

import re

from engine.options.document import FILE, options_text
from engine.options.parser import build_parser


def test_the_file_is_what_the_parser_says():
    assert FILE.read_text() == options_text(), "write it again: make docs"


def test_every_option_is_in_a_table_of_its_own_group_with_its_default():
    text = FILE.read_text()
    for group in build_parser()._action_groups:
        title = "help" if group.title == "options" else group.title
        for action in group._group_actions:
            table = text.partition(f"## {title.capitalize()}\n")[2].partition("\n## ")[0]
            for name in action.option_strings:
                row = re.search(rf"^\| .*`{name}[ `].*\|$", table, re.MULTILINE)
                assert row, name
                if action.nargs != 0 and action.default in (0.5, 4, 6, 50, "erf", "auto"):
                    assert f" | `{action.default}` | " in row[0], name
    assert "| `--batch-size N` | `6` | clips per process per step |" in text
    assert "| `--iouVal`, `--no-iouVal` | on | " in text


def test_texts_are_as_help_shows_them():
    assert "(frames/%06d.png, 'a/\\*.jpg')" in FILE.read_text()
    assert "%(" not in FILE.read_text()
