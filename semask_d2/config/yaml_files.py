"""Reading YAML config files, without executing anything in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from semask_d2.utils.errors import UserError

BASE_KEY = "_BASE_"
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}  # of values that carry none


def read_yaml(path: Path, chain: tuple[Path, ...], clean: Callable[[str, Path], str] | None = None) -> dict:
    """The values of a YAML file laid over those of its `_BASE_` (a file or a list of files, later ones on top).

    `chain` are the files that led here; `clean` makes the text of a file of a path free of tags, by default by
    refusing them.
    """
    if path in chain:
        raise UserError(f"{path}: {BASE_KEY} leads back to this file; remove the circle")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        came_from = f" ({BASE_KEY} of {chain[-1]})" if chain else ""
        raise UserError(f"{path}{came_from}: cannot be read as a config file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8, so no config file") from error
    try:
        values = yaml.safe_load((clean or refuse_tags)(text, path)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a YAML mapping of config keys, got a {type(values).__name__}")
    bases = values.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY}: expected a file name or a list of them, got {bases!r}")
    merged: dict = {}
    for base in bases:
        merged = overlay(merged, read_yaml((path.parent / os.path.expanduser(base)).resolve(), (*chain, path), clean))
    return overlay(merged, values)


def refuse_tags(text: str, path: Path) -> str:
    """`text`; raises `UserError` naming the key of the first value in it that carries a YAML tag."""
    for key, node in tagged_values(text):
        raise UserError(
            f"{path}: key {key}, line {node.start_mark.line + 1}: the YAML tag {short_tag(node)} is refused, as tags "
            "can run code; write the value out literally, or let tools/convert_config.py do it"
        )
    return text


def tagged_values(text: str) -> Iterator[tuple[str, yaml.Node]]:
    """The values in YAML `text` that carry a tag, each with its dotted key, from top to bottom."""
    seen: set[int] = set()  # an anchor may stand in several places, also within itself

    def walk(node: yaml.Node, key: str) -> Iterator[tuple[str, yaml.Node]]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if node.tag not in PLAIN_TAGS:
            yield key or "(the whole file)", node
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from walk(item, key)
        elif isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                here = ".".join(filter(None, (key, str(name.value) if name.tag in PLAIN_TAGS else "(a key)")))
                yield from walk(name, here)
                yield from walk(value, here)

    root = yaml.compose(text, Loader=yaml.BaseLoader)  # which gives no tags of its own but the plain ones
    if root is not None:
        yield from walk(root, "")


def short_tag(node: yaml.Node) -> str:
    """A node's tag as it is written in files."""
    return node.tag.replace("tag:yaml.org,2002:", "!!")


def overlay(base: dict, values: dict) -> dict:
    """`base` with `values` laid over it, section by section."""
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both else value
    return merged
