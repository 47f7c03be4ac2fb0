"""``python -m engine.options.document``: writes docs/options.md, a table of all options, from the parser."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from engine.options.parser import build_parser
from utils.command import module_parser, run_command, run_program
from utils.files import write_text

FILE = Path(__file__).resolve().parents[2] / "docs" / "options.md"

BEGINNING = """\
# Options of `main.py`

Written from the parser by `make docs`; `python main.py --help` shows the same. One of the modes is required, and
`--savedir`. `--NAME` and `--no-NAME` switch an option on and off.
"""
END = """\
## Exit status

| status | when |
|---|---|
| 0 | success |
| 1 | a process or a stream failed before its end; the results until then are kept |
| 2 | wrong input: one line says what was found, what was expected, and a value that works |
| 75 | in a process that lost another one |
| 130 | after Ctrl-C |
| 143 | after SIGTERM; a training has written its checkpoint |
"""


def options_text() -> str:
    """All options by group as Markdown, in the order of ``--help``."""
    groups = [group for group in build_parser()._action_groups if group._group_actions]
    groups.sort(key=lambda group: group.title == "options")  # --help itself comes last
    return "\n".join([BEGINNING, *(_group_text(group) for group in groups), END])


def _group_text(group: argparse._ArgumentGroup) -> str:
    title = "help" if group.title == "options" else str(group.title)
    lines = [f"## {title.capitalize()}", "", "| option | default | what it does |", "|---|---|---|"]
    lines += [f"| {_names(action)} | {_default(action)} | {_help(action)} |" for action in group._group_actions]
    return "\n".join(lines) + "\n"


def _names(action: argparse.Action) -> str:
    """The option and its value as they are typed: ``--option VALUE``."""
    value = ""
    if action.nargs != 0:
        choices = None if action.choices is None else "{" + ",".join(map(str, action.choices)) + "}"
        value = str(action.metavar or choices or action.dest.upper())
        value = f" [{value}]" if action.nargs == "?" else f" {value}"
    return ", ".join(f"`{name}{value}`" for name in action.option_strings)


def _default(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):
        return "on" if action.default else "off"
    silent = action.nargs == 0 or action.default in (None, "", [], argparse.SUPPRESS)
    return "" if silent else f"`{action.default}`"


def _help(action: argparse.Action) -> str:
    text = (action.help or "").partition(" (default: ")[0] if _default(action) else action.help or ""
    return (text % {}).replace("|", "\\|").replace("*", "\\*")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file; returns the exit status."""
    parser = module_parser("engine.options.document", "Write docs/options.md from the parser.")
    return run_command(parser, argv, lambda options: write_text(FILE, options_text()))


if __name__ == "__main__":
    run_program(main)
