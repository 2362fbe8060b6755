"""docs/commands.md is what its tool makes today, with every command and its options."""

from __future__ import annotations

import argparse

import pytest

from semask_d2.__main__ import COMMANDS
from semask_d2.d2 import BACKEND
from tests.helpers.commands import load_script

tool = load_script("tools/commands_reference.py")
PAGE = tool.as_page()


@pytest.mark.skipif(BACKEND != "native", reason="train's options are described in Detectron2's words there")
def test_the_page_is_up_to_date() -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == PAGE, "run python tools/commands_reference.py"


def test_it_holds_every_command_and_option() -> None:
    found = tool.parsers()
    assert list(COMMANDS) == [line[len("## semask ") :] for line in PAGE.splitlines() if line.startswith("## ")]
    assert found.keys() == COMMANDS.keys()
    for name, parser in found.items():
        section = PAGE.split(f"## semask {name}\n")[1].split("\n## ")[0]
        for action in parser._actions:
            if action.option_strings and action.dest != "help" and action.help != argparse.SUPPRESS:
                assert f"`{action.option_strings[-1]}" in section, (name, action.dest)


def test_values_and_defaults_are_shown() -> None:
    assert "| `--size H W` |" in PAGE
    assert "| `--webcam [N]` |" in PAGE
    assert "(default: 7860)" in PAGE
    assert "| `--output FILE` |" in PAGE
    assert "(required)" in PAGE
