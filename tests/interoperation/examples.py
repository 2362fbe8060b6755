"""The examples with Detectron2 that are documented, by heading: those of docs/detectron2.md and the README's one."""

from __future__ import annotations

import re

from commands import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/detectron2.md").read_text(encoding="utf-8")
SECTIONS = {
    section.splitlines()[0]: section
    for section in [*PAGE.split("\n## ")[1:], *re.findall(r"\n## (Detectron2\n.*?)(?=\n## )", README, re.DOTALL)]
}
EXAMPLES = {heading: re.search(r"```python\n(.*?)```", section, re.DOTALL)[1] for heading, section in SECTIONS.items()}
