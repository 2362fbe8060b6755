"""Add the repository's other pages to the documentation site, and point every link at its place in the site.

MkDocs reads `docs/` alone. The Markdown files below lie where GitHub's readers expect them, so they join the site under
`repository/`, with the same folders. Links between all pages are written for the repository, where they must work too;
they are rewritten when the site is built. A link to another file, such as source code, leads to the repository if
mkdocs.yml has a `repo_url`, and otherwise becomes plain text.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
PREFIX = "repository"
PAGES = (
    "MODEL_ZOO.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "configs/README.md",
    "datasets/README.md",
    "tests/README.md",
)
README, HOME = "README.md", "index.md"  # the site has a home page of its own
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside of `docs/`, unless a page of that place is there already."""
    for page in PAGES:
        files.append(File.generated(config, f"{PREFIX}/{page}", abs_src_path=str(ROOT / page)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page, except in code blocks."""
    parts = FENCE.split(markdown)
    parts[::2] = [rewrite(text, page.file.src_uri, config.get("repo_url")) for text in parts[::2]]
    return "".join(parts)


def rewrite(text: str, source: str, repository: str | None) -> str:
    """Return the text of the page `source` of the site with links that work there."""
    return LINK.sub(lambda match: rewritten(match, source, repository), text)


def rewritten(match: re.Match[str], source: str, repository: str | None) -> str:
    """Return one link for the page `source`."""
    target, anchor = match["target"], match["anchor"] or ""
    if re.match(r"[a-z]+:", target):
        return match[0]
    path = in_repository(target, source)
    place = in_site(path)
    if place is not None:
        relative = posixpath.relpath(place, posixpath.dirname(source) or ".")
        return f"{match['image']}[{match['text']}]({relative}{anchor})"
    if not os.path.exists(ROOT / path):
        return match[0]  # MkDocs names it
    if repository:
        return f"[{match['text']}]({repository.rstrip('/')}/blob/main/{path})"
    return match["text"]


def in_repository(target: str, source: str) -> str:
    """Return the file in the repository that a link of the page `source` means."""
    inside = source.startswith(f"{PREFIX}/")
    page = source.removeprefix(f"{PREFIX}/") if inside else f"{DOCS}/{source}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def in_site(path: str) -> str | None:
    """Return the place in the site of a file in the repository; None if it has none."""
    if path == README:
        return HOME
    if path in PAGES:
        return f"{PREFIX}/{path}"
    folder = next((page for page in PAGES if path == posixpath.dirname(page) and path), None)
    if folder:  # GitHub shows the README of a folder
        return f"{PREFIX}/{folder}"
    return path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else None
