"""Shared helpers of the interoperation tests: their environment, and the documented examples by heading."""

from __future__ import annotations

import re

import pytest

from semask_d2.d2 import BACKEND
from tests.helpers.commands import ROOT

NEEDS_DETECTRON2 = pytest.mark.skipif(
    BACKEND != "detectron2", reason="tests Detectron2's own parts, and this is the native backend"
)

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/detectron2.md").read_text(encoding="utf-8")
INSTALL = (ROOT / "docs/install.md").read_text(encoding="utf-8")
SECTIONS = {section.splitlines()[0]: section for section in PAGE.split("\n## ")[1:]}
EXAMPLES = {heading: re.search(r"```python\n(.*?)```", section, re.DOTALL)[1] for heading, section in SECTIONS.items()}
