"""Configs and commands on the pages of docs/ exist: keys, values, options, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from semask_d2 import get_cfg
from semask_d2.__main__ import parse_arguments
from semask_d2.config.checks import check_training
from tests.helpers.commands import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIGS = [text for language, text in BLOCK.findall((ROOT / "docs/fine_tuning.md").read_text()) if language == "yaml"]
COMMANDS = [
    pytest.param(line.split(" # ")[0].strip(), id=f"{page.stem}: {line}")
    for page in PAGES
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8"))
    if language == "bash"
    for line in re.sub(r"\\\n *", "", block).splitlines()
    if line.startswith(("semask ", "python tools/", "python datasets/", "python benchmarks/"))
]
MODEL = "ade20k/semask_swin_t_m2f.yaml"  # for pieces of a config, and runs that are not there


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_are_configs_of_a_training(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text if "_BASE_" in text else f"_BASE_: {MODEL}\n{text}")
    changed, base = get_cfg(str(file)), get_cfg(MODEL)
    check_training(changed)
    assert changed != base


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "python":
        text = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in text for word in words if word.startswith("--"))
        return
    name, *words = words
    if "--help" in words or name.startswith("--"):
        return
    args = parse_arguments(name, words)
    if name in ("train", "eval", "config"):
        config_file = getattr(args, "file", None) or args.config_file
        get_cfg(config_file if config_file and "/" in config_file else MODEL, args.opts)


def test_there_are_configs_and_commands() -> None:
    assert len(CONFIGS) > 5
    assert len(COMMANDS) > 40
