"""Documentation of Detectron2: a test runs each example, and the named commit is the required one.

These tests do not need Detectron2.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.examples import EXAMPLES, INSTALL, PAGE, README, SECTIONS


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(EXAMPLES) == PAGE.count("\n## ") > 6  # one example per heading of the page
    assert all(section.count("```python") == 1 for section in SECTIONS.values())
    assert not [heading for heading in EXAMPLES if f'= "{heading}"' not in tests]


def test_the_readmes_trainer_is_the_pages() -> None:
    shown = [ast.dump(ast.parse(code)) for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)]
    trainers = [code for code in shown if "DefaultTrainer" in code]
    assert set(trainers) <= {ast.dump(ast.parse(EXAMPLES["Our models in your DefaultTrainer"]))}


@pytest.mark.parametrize("heading", EXAMPLES)
def test_examples_are_python(heading: str) -> None:
    assert ast.parse(EXAMPLES[heading]).body


def test_the_tested_commit_is_the_required_one() -> None:
    requirements = (ROOT / "requirements-detectron2.txt").read_text(encoding="utf-8")
    (required,) = re.findall(r"^detectron2 @ git\+https://\S+@([0-9a-f]{40})$", requirements, re.MULTILINE)
    assert "tested commit is" in INSTALL
    for named in re.findall(r"tested commit is ([0-9a-f]{7,})", README + INSTALL):
        assert required.startswith(named)
