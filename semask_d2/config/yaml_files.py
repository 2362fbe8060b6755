"""Reading YAML config files, without executing anything in them."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from semask_d2.config.finding import configs_folder
from semask_d2.config.transformers_folders import CONFIG, config_of_folder, is_transformers_folder, read_json
from semask_d2.config.transformers_vits import is_backbone
from semask_d2.config.yaml_limits import MAX_DEPTH, MAX_FILES, MAX_NAMED, check_structure, read_text
from semask_d2.utils.errors import UserError

BASE_KEY = "_BASE_"
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}  # implicit tags of untagged values


@dataclass
class Merged:
    """The files read by one merge: `values` are a file's values merged with its bases', `parts` the files merged.

    `parts` maps each file to the files it is merged from, in merge order, each with only the values it states. A file
    that is merged several times is listed at its last place, where its values take effect.
    """

    values: dict[Path, dict] = field(default_factory=dict)
    parts: dict[Path, dict[Path, dict]] = field(default_factory=dict)
    named: int = 0


def read_yaml(
    path: Path,
    chain: tuple[Path, ...],
    clean: Callable[[str, Path], str] | None = None,
    merged: Merged | None = None,
) -> dict:
    """Return the values of a YAML file merged over its `_BASE_` (a file or a list of files, later ones on top).

    `chain` lists the files whose `_BASE_` led here. `clean` removes YAML tags from a file's text; by default tags are
    refused. `merged` collects the files read so far.
    """
    merged = Merged() if merged is None else merged
    if path in chain:
        raise UserError(f"{path}: {BASE_KEY} leads back to this file; remove the circle")
    merged.named += 1
    if len(chain) >= MAX_DEPTH or len(merged.values) >= MAX_FILES or merged.named > MAX_NAMED:
        raise UserError(
            f"{chain[0] if chain else path}: {BASE_KEY} leads to more than {MAX_FILES} files, names files more than "
            f"{MAX_NAMED} times, or leads to {MAX_DEPTH} in a row"
        )
    if path not in merged.values:
        file_values = read_values(path, chain, clean)
        values: dict = {}
        order: dict[Path, dict] = {}
        for base in bases_of(file_values, path):
            file = located(base, path)
            values = overlay(values, read_yaml(file, (*chain, path), clean, merged))
            for part, part_values in merged.parts[file].items():
                order.pop(part, None)
                order[part] = part_values
        merged.values[path] = overlay(values, file_values)
        merged.parts[path] = {**order, path: file_values}
    return merged.values[path]


def read_values(path: Path, chain: tuple[Path, ...], clean: Callable[[str, Path], str] | None) -> dict:
    """Return the values of a YAML file alone, including `_BASE_`. The arguments are those of `read_yaml`.

    A model folder of transformers is read like a file with the settings of that model.
    """
    if is_transformers_folder(path):
        bases, values = config_of_folder(path)
        if not chain and is_backbone(read_json(path / CONFIG)):
            raise UserError(
                f"{path}: a backbone without a head, so no model to run: train one with --config-file CONFIG "
                f"MODEL.WEIGHTS {path}, or name it in {BASE_KEY} of a config (docs/foundation_models.md)"
            )
        return {BASE_KEY: [str(configs_folder().resolve() / base) for base in bases], **values}
    try:
        text = read_text(path)
    except OSError as error:
        came_from = f" ({BASE_KEY} of {chain[-1]})" if chain else ""
        raise UserError(f"{path}{came_from}: cannot be read as a config file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8, so no config file") from error
    try:
        check_structure(text, path)
        values = yaml.safe_load((clean or refuse_tags)(text, path)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except (ValueError, ArithmeticError, LookupError, RecursionError) as error:  # an invalid date or number
        raise UserError(f"{path}: not valid YAML: a value cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a YAML mapping of config keys, got a {type(values).__name__}")
    return values


def bases_of(values: dict, path: Path) -> list[str]:
    """Remove `_BASE_` from the values of the file at `path` and return the files that it names."""
    bases = values.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY}: expected a file name or a list of them, got {reprlib.repr(bases)}")
    return bases


def located(base: str, path: Path) -> Path:
    """Return the path of `base`, named by `_BASE_` in the file at `path`: beside that file, else in the package."""
    try:
        local = (path.parent / os.path.expanduser(base)).resolve()
        packaged = configs_folder() / base
        return packaged.resolve() if not os.path.lexists(local) and packaged.is_file() else local
    except (OSError, ValueError, RuntimeError) as error:  # a name too long or with a null character, circular links
        raise UserError(f"{path}: {BASE_KEY}: {reprlib.repr(base)} is not a file name: {error}") from error


def refuse_tags(text: str, path: Path) -> str:
    """Return `text`; raises `UserError` naming the key of the first value with a YAML tag."""
    for key, node in tagged_values(text):
        raise UserError(
            f"{path}: key {key}, line {node.start_mark.line + 1}: the YAML tag {short_tag(node)} is refused, as tags "
            "can run code; write the value out literally, or let tools/convert_config.py do it"
        )
    return text


def tagged_values(text: str) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the tagged values of a YAML `text`, each with its dotted key, from top to bottom."""
    seen: set[int] = set()  # an anchor may be used in several places, also within itself

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

    root = yaml.compose(text, Loader=yaml.BaseLoader)  # adds only the plain tags
    if root is not None:
        yield from walk(root, "")


def short_tag(node: yaml.Node) -> str:
    """Return a node's tag as it is written in files."""
    return node.tag.replace("tag:yaml.org,2002:", "!!")


def overlay(base: dict, values: dict) -> dict:
    """Return `base` overridden by `values`, section by section."""
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both else value
    return merged
