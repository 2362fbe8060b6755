#!/usr/bin/env python3
"""Write docs/getting_started.ipynb from the page docs/getting_started.md, with its commands as cells.

python tools/getting_started_notebook.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from semask_d2.utils.files import atomic_write

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, NOTEBOOK = DOCS / "getting_started.md", DOCS / "getting_started.ipynb"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
# these commands stay text: an environment cannot be created from within, and a server would never end
FOR_A_TERMINAL = ("python3 -m venv", "semask web")
LINK = "[The same as a notebook](getting_started.ipynb)."
FIRST = "%cd .."  # a notebook starts in its folder, but the commands expect the project's folder


def cells(page: str) -> list[dict[str, Any]]:
    """Return the page as notebook cells: text, and code without outputs."""
    sources: list[tuple[str, str]] = []
    text, position = "", 0
    for block in BLOCK.finditer(page):
        text += page[position : block.start()]
        position = block.end()
        language, code = block.groups()
        if code.startswith(FOR_A_TERMINAL):
            text += block[0]
            continue
        sources.append(("markdown", text))
        sources.append(("code", code if language == "python" else f"!{code}"))
        text = ""
    sources.append(("markdown", text + page[position:]))
    first = next(i for i, (kind, _) in enumerate(sources) if kind == "code")
    sources.insert(first, ("code", FIRST))
    return [cell(number, kind, source.strip()) for number, (kind, source) in enumerate(sources)]


def cell(number: int, kind: str, source: str) -> dict[str, Any]:
    """Return one cell in the notebook format."""
    common = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    return common | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def as_notebook() -> str:
    """Return the JSON of the notebook."""
    page = PAGE.read_text(encoding="utf-8").replace(LINK, "[The same as a page](getting_started.md).")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells(page), "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    with atomic_write(NOTEBOOK) as file:
        file.write(as_notebook())
    print(NOTEBOOK)


if __name__ == "__main__":
    main()
