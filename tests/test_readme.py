"""Commands in the README: their programs, options and configs exist. (.ci/run executes the first two.)"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semask_d2 import get_cfg
from semask_d2.__main__ import COMMANDS as SUBCOMMANDS
from semask_d2.__main__ import parse_arguments

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    command.strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.replace("\\\n", " ").splitlines()
    for command in line.split("&&")
]
PROGRAMS = [command for command in COMMANDS if (".py " in command or "semask " in command) and "pip" not in command]
SCRIPTS = {"train_net.py": "train", "demo/demo.py": "predict"}


def test_the_first_block_is_the_two_commands() -> None:
    language, block = next(block for block in BLOCKS if block[0] == "bash")
    assert (language, block) == BLOCKS[0]
    first, second = block.strip().replace("\\\n", " ").splitlines()
    assert first.startswith("python3 -m venv ")
    assert all(f".venv/bin/semask {name} " in first for name in ("train", "predict", "eval"))
    assert second.endswith("pytest -n auto")


def test_there_are_programs() -> None:
    assert len(PROGRAMS) > 12


@pytest.mark.parametrize("command", PROGRAMS)
def test_commands_parse(command: str) -> None:
    words = shlex.split(command)
    position = next(i for i, word in enumerate(words) if word.endswith((".py", "semask")))
    program, arguments = words[position], words[position + 1 :]
    if program.endswith("semask"):
        program, *arguments = arguments
        assert program in SUBCOMMANDS
    else:
        assert (ROOT / program).is_file()
    name = SCRIPTS.get(program, program)
    if name in SUBCOMMANDS:
        args = parse_arguments(name, arguments)
        if name in ("train", "eval", "config"):
            get_cfg(args.config_file or getattr(args, "file", None), args.opts)
    else:
        help_text = (ROOT / program).read_text()
        assert all(word in help_text for word in arguments if word.startswith("--"))


def test_the_python_example_runs_for_a_newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 128), (120, 130, 140)).save("photo.jpg")
    (code,) = [block for language, block in BLOCKS if language == "python"]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["prediction"].labels.shape == (128, 96)
    assert (tmp_path / "segmented.png").is_file()


def test_the_quick_start_needs_no_clone() -> None:
    quick_start = TEXT.partition("## Quick start")[2].partition("```bash\n")[2]
    assert quick_start.startswith("semask predict --input photo.jpg --output predictions\n")
    assert "demo/demo.py --input" in TEXT


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
