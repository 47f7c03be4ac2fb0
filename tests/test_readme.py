"""What the README says is so: its commands are understood, its files exist, every option is in its table."""

import re
import shlex
from pathlib import Path

import pytest

from engine.options.parser import build_parser, parse_options

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text()
COMMANDS = re.findall(r"^    python main\.py (.+)$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    for option, needed in (("--weights", ""), ("--baseline-path", "report.json")):
        if option in words and words[words.index(option) + 1] != "none":
            path = Path(words[words.index(option) + 1]) / needed
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert parse_options(words).savedir


def test_the_published_commands_are_there():
    assert len(COMMANDS) >= 6


def test_every_option_is_in_the_table():
    table = README.partition("## Options")[2].partition("\n## ")[0]
    for action in build_parser()._actions:
        for name in action.option_strings[1:] if action.dest == "help" else action.option_strings[-1:]:
            assert name == "--help" or f"`{name}" in table, name


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PROJECT / target).exists(), target
