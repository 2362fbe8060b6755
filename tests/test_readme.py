"""The README's commands name what exists: scripts, options, configs. (The first two are run whole by .ci/run.)"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from semask_d2 import get_cfg
from semask_d2.commands.predict import argument_parser as demo_parser
from semask_d2.engine.launch import argument_parser as train_parser

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    command.strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    for command in line.split("&&")
]
SCRIPTS = [command for command in COMMANDS if ".py " in command and "pip" not in command]


def test_the_first_block_is_the_two_commands() -> None:
    language, block = BLOCKS[0]
    assert language == "bash"
    first, second = block.strip().splitlines()
    assert first.startswith("python3 -m venv ")
    assert "train_net.py --config-file" in first
    assert second.endswith("pytest -n auto")


@pytest.mark.parametrize("command", SCRIPTS)
def test_commands_parse(command: str) -> None:
    words = shlex.split(command)
    position = next(i for i, word in enumerate(words) if word.endswith(".py"))
    script, arguments = words[position], words[position + 1 :]
    assert (ROOT / script).is_file()
    if script == "train_net.py":
        args = train_parser().parse_args(arguments)
        get_cfg(ROOT / args.config_file, args.opts)
    elif script == "demo/demo.py":
        demo_parser().parse_args(arguments)
    else:
        help_text = (ROOT / script).read_text()
        assert all(word in help_text for word in arguments if word.startswith("--"))


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
