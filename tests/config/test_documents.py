"""Keys, values, options and files of configs and commands that the pages of docs/ mention exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from semask_d2 import get_cfg
from semask_d2.__main__ import COMMANDS as SUBCOMMANDS
from semask_d2.commands.compare import argument_parser as compare_parser
from semask_d2.commands.train import argument_parser as train_parser
from semask_d2.config.checks import check_training
from tests.helpers.commands import ROOT

PAGES = ("fine_tuning.md", "getting_started.md")
TEXTS = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES}
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXTS["fine_tuning.md"], re.MULTILINE | re.DOTALL)
CONFIGS = [block for language, block in BLOCKS if language == "yaml"]
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.replace("\\\n", "").splitlines()]
MODEL = "ade20k/semask_swin_t_m2f.yaml"  # completes partial configs, and stands in for runs that do not exist


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_are_configs_of_a_training(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text if "_BASE_" in text else f"_BASE_: {MODEL}\n{text}")
    changed, base = get_cfg(str(file)), get_cfg(MODEL)
    check_training(changed)
    assert changed != base


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("semask")])
def test_commands_parse(command: str) -> None:
    _, name, *words = shlex.split(command)
    assert name in SUBCOMMANDS
    if name == "compare":
        compare_parser().parse_args(words)
        return
    args = train_parser(eval_only=name == "eval").parse_args(words)
    get_cfg(MODEL if args.run else args.config_file, args.opts)


def test_there_are_configs_and_commands() -> None:
    assert len(CONFIGS) > 5
    assert len(COMMANDS) > 5


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEXTS[page])
    assert targets
    assert all(target.startswith("http") or (ROOT / "docs" / target).exists() for target in targets)
