"""docs/detectron2.md: a test runs each example, and the commit is the required one. This needs no Detectron2."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from commands import ROOT

PAGE = (ROOT / "docs/detectron2.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
HEADINGS = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(BLOCKS) == len(HEADINGS)  # one under each
    assert not [heading for heading in HEADINGS if f'= "{heading}"' not in tests]


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_are_python(block: str) -> None:
    assert ast.parse(block).body


def test_the_tested_commit_is_the_required_one() -> None:
    (required,) = re.findall(r"^detectron2 @ git\+https://\S+@([0-9a-f]{40})$", requirements(), re.MULTILINE)
    (named,) = re.findall(r"commit ([0-9a-f]{7,})", PAGE)
    assert required.startswith(named)


def requirements() -> str:
    return (ROOT / "requirements-detectron2.txt").read_text(encoding="utf-8")
