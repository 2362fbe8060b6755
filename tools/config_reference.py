#!/usr/bin/env python3
"""Write docs/config_reference.md: every key of the project, from the table of defaults, the components and the checks.

python tools/config_reference.py
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import semask_d2.engine  # noqa: F401  (with it all components are imported)
from semask_d2.config import checks, defaults
from semask_d2.d2 import get_cfg
from semask_d2.utils.arguments import value_of
from semask_d2.utils.files import atomic_write

PAGE = Path(__file__).resolve().parents[1] / "docs/config_reference.md"
HEAD = """# Config keys

Made by `python tools/config_reference.py` from `semask_d2/config/defaults.py`, the components' tables of keys and
`semask_d2/config/checks.py`. `semask config FILE` prints what a config makes of them, and which file says so. Any key
can follow a command as `KEY VALUE`.

All of [Detectron2's keys](https://detectron2.readthedocs.io/en/latest/modules/config.html) are there too; the last
table has those that the models, the mapper and the checks read. "Taken by" names the components that a key is an
argument of; keys without one are read by the trainer, the loaders and the evaluation.
"""
KEY = re.compile(r'^    +f?"(?P<key>[A-Z][^"]*)": .*?,(?:  # (?P<comment>.*))?$')
SEMANTIC = re.compile(r'^    \*\*semantic_defaults\("(?P<section>\w+)"\),$')
COMMENT = re.compile(r"^    # (?P<text>.*)$")


class Key(NamedTuple):
    """A config key and what its comment says."""

    name: str
    comment: str


class Section(NamedTuple):
    """A heading, what stands under it, and its keys."""

    title: str
    text: str
    keys: list[Key]


def sections() -> list[Section]:
    """The project's keys in the order of the table of defaults, under the headings that its comments are."""
    semantic = {key.removeprefix("MODEL.{section}."): text for key, text in keys_of(defaults.semantic_defaults)}
    found: list[Section] = []
    above: list[str] = []
    for line in table_lines():
        if comment := COMMENT.match(line):
            above.append(comment["text"])
        elif shared := SEMANTIC.match(line):
            found[-1].keys.extend(Key(f"MODEL.{shared['section']}.{name}", text) for name, text in semantic.items())
        elif key := KEY.match(line):
            titles = next((i for i, text in enumerate(above) if not text[0].isupper()), len(above))
            if titles:
                found.append(Section(above[0], " ".join(above[1:titles]), []))
            found[-1].keys.append(Key(key["key"], " ".join([*above[titles:], *filter(None, [key["comment"]])])))
            above = []
    return found


def table_lines() -> Iterator[str]:
    """The source lines of `DEFAULTS`."""
    lines = iter(inspect.getsource(defaults).splitlines())
    next(line for line in lines if line.startswith("DEFAULTS"))
    for line in lines:
        if line == "}":
            return
        yield line


def keys_of(function: Any) -> Iterator[tuple[str, str]]:
    """The keys in a function's source and the comments beside them."""
    for line in inspect.getsource(function).splitlines():
        if key := KEY.match(line):
            yield key["key"], key["comment"] or ""


def takers() -> dict[str, list[str]]:
    """The classes that take each key as an argument, by their `config_keys`; not those that are only extended."""
    classes = {
        thing
        for name, module in list(sys.modules.items())
        if name.startswith("semask_d2.")
        for thing in vars(module).values()
        if isinstance(thing, type) and thing.__module__.startswith("semask_d2.") and hasattr(thing, "config_keys")
    }
    found = defaultdict(set)
    for cls in classes:
        if hasattr(cls, "from_config") or not any(other is not cls and issubclass(other, cls) for other in classes):
            for key in cls.config_keys.values():
                found[key].add(cls.__name__)
    return {key: sorted(names) for key, names in found.items()}


def table(keys: Iterable[Key], values: Any, taken_by: dict[str, list[str]]) -> str:
    """A row for each key: its default, what is said of it, and which components take it."""
    ranges = checks.COMMON | checks.TRAINING
    rows = ["| key | default | meaning | taken by |", "|---|---|---|---|"]
    for key in keys:
        words = [key.comment] if key.comment else []
        words += [f"({ranges[key.name].words})"] if key.name in ranges else []
        names = ", ".join(f"`{name}`" for name in taken_by.get(key.name, []))
        default = str(value_of(values, key.name)) or '""'
        cells = (f"`{key.name}`", f"`{default}`", " ".join(words), names)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def as_page() -> str:
    """The page's text."""
    values = get_cfg()
    defaults.add_semask_config(values)
    taken_by = takers()
    parts = [HEAD]
    for section in sections():
        text = f"{section.text}\n\n" if section.text else ""
        parts.append(f"## {section.title}\n\n{text}{table(section.keys, values, taken_by)}\n")
    others = sorted({*taken_by, *checks.COMMON, *checks.TRAINING} - defaults.DEFAULTS.keys())
    parts.append(f"## Detectron2's\n\n{table([Key(name, '') for name in others], values, taken_by)}\n")
    return "\n".join(parts)


def main() -> None:
    with atomic_write(PAGE) as file:
        file.write(as_page())
    print(PAGE)


if __name__ == "__main__":
    main()
