"""A data set of one's own: the YAML file that describes it, and the config section DATASETS.CUSTOM that it becomes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semask_d2.config.yaml_files import read_values
from semask_d2.d2 import CfgNode
from semask_d2.utils import foreign
from semask_d2.utils.errors import UserError
from semask_d2.utils.registry import suggestion

KEYS = ("name", "root", "train", "val", "names", "ignore", "colors", "map", "rgb", "reduce_zero_label", "value_range")
SPLIT_KEYS = ("images", "labels")
HEX_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
MAX_ID = 2**16 - 1  # of a label file of 16 bits
DEFAULT_IGNORE = 255


def read_data_file(path: str | os.PathLike) -> dict[str, Any]:
    """The section DATASETS.CUSTOM that the data set's YAML file at `path` describes, its ROOT absolute.

    Raises `UserError` naming the file, the key and what was expected.
    """
    path = Path(path)
    values = read_values(path, (), None)
    known_keys(values, KEYS, str(path))
    root = os.path.expanduser(str(values.get("root", ".")))
    names = class_names(values.get("names"), path)
    split = values.get("val")
    by_fraction = isinstance(split, float | int) and not isinstance(split, bool)
    section = {
        "NAME": str(values.get("name", path.stem)),
        "ROOT": os.path.abspath(os.path.join(path.parent, root)),
        "TRAIN": split_of(values.get("train"), "train", path),
        "VAL": split_of(None if by_fraction else split, "val", path),
        "VAL_FRACTION": float(split) if by_fraction else 0.0,  # type: ignore[arg-type] - a number, as tested above
        "NAMES": names,
        "COLORS": [],
        "IGNORE": values.get("ignore", DEFAULT_IGNORE),
        "MAP": table_of(values.get("map"), "map", path),
        "RGB": table_of(values.get("rgb"), "rgb", path),
        "REDUCE_ZERO_LABEL": values.get("reduce_zero_label", False),
        "VALUE_RANGE": value_range(values.get("value_range"), path),
    }
    section["COLORS"] = class_colors(values.get("colors"), section, path)
    check_section(section, str(path))
    return section


def known_keys(values: dict, known: Iterable[str], source: str) -> None:
    """Raise `UserError` for the first key that is not among `known`, with the nearest."""
    known = list(known)
    for key in values:
        if key not in known:
            near = suggestion(str(key), known)
            raise UserError(f'{source}: unknown key "{key}".{near} Known: {", ".join(known)}')


def split_of(value: Any, key: str, path: Path) -> dict[str, list[str]]:
    """The section of one split: patterns of images and of labels; one text file of pairs stands for both."""
    if value is None:
        return {"IMAGES": [], "LABELS": []}
    if isinstance(value, str) and value.endswith(".txt"):
        return {"IMAGES": [value], "LABELS": []}
    if not isinstance(value, dict):
        fraction = ", or for val a fraction such as 0.1" if key == "val" else ""
        raise UserError(
            f'{path}: {key}: expected {{images: "...", labels: "..."}}, a .txt file of pairs{fraction}; got {value!r}'
        )
    known_keys(value, SPLIT_KEYS, f"{path}: {key}")
    for missing in (part for part in SPLIT_KEYS if not value.get(part)):
        raise UserError(f"{path}: {key}.{missing} is missing: name a folder, a pattern or a list of files")
    patterns = {}
    for part in SPLIT_KEYS:
        words = value[part] if isinstance(value[part], list) else [value[part]]
        for word in (word for word in words if not isinstance(word, str)):
            raise UserError(f"{path}: {key}.{part}: expected names of files or folders, got {word!r}")
        patterns[part.upper()] = words
    return patterns


def class_names(value: Any, path: Path) -> list[str]:
    """The names of the classes in the order of their ids."""
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise UserError(
                f"{path}: names: expected an id from 0 to {len(value) - 1} for each of its {len(value)} classes, "
                f"without gaps, got {', '.join(map(str, value))}; `map` brings other ids of label files to these"
            )
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: names: expected the classes, as [sky, building] or {{0: sky, 1: building}}")
    for name in (name for name in value if not isinstance(name, str)):
        raise UserError(f'{path}: names: expected words, got {name!r}; write it in quotes if it is one, as "no"')
    return value


def table_of(value: Any, key: str, path: Path) -> list[list]:
    """The pairs [from, to] of a mapping."""
    if value is None:
        return []
    if not isinstance(value, dict) or not value:
        example = "{7: 0, 8: 1}, ids in the files and their classes" if key == "map" else '{"#804080": 0}, with quotes'
        raise UserError(f"{path}: {key}: expected a table such as {example}; got {value!r}")
    return [[left, right] for left, right in value.items()]


def class_colors(value: Any, section: dict[str, Any], path: Path) -> list[list[int]]:
    """The colors [r, g, b] of the classes: those given, else those of the label files' table, else none."""
    names = section["NAMES"]
    if value is None:
        first: dict[Any, str] = {}
        for color, target in section["RGB"]:
            first.setdefault(target, color)
        return (
            [list(rgb_of(first[i], f"{path}: rgb")) for i in range(len(names))]
            if set(first) >= set(range(len(names)))
            else []
        )
    if isinstance(value, dict):
        if set(value) != set(names):
            odd = sorted(set(names) ^ set(map(str, value)))
            raise UserError(f"{path}: colors: expected one for each name; differing: {', '.join(odd[:4])}")
        value = [value[name] for name in names]
    if not isinstance(value, list) or len(value) != len(names):
        count = f"{len(value)}" if isinstance(value, list) else repr(value)
        raise UserError(f"{path}: colors: expected {len(names)}, one for each of names, got {count}")
    return [list(rgb_of(color, f"{path}: colors")) for color in value]


def rgb_of(color: Any, source: str) -> tuple[int, int, int]:
    """The channels of "#804080" or [128, 64, 128]."""
    if isinstance(color, str) and HEX_COLOR.fullmatch(color):
        return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
    if isinstance(color, list | tuple) and len(color) == 3 and all(is_id(c) and c < 256 for c in color):
        return tuple(color)
    raise UserError(f'{source}: expected a color as "#804080" (with its quotes) or [128, 64, 128], got {color!r}')


def value_range(value: Any, path: Path) -> list[float]:
    """The values of black and of white in images of more than 8 bits; [] where they go by the files' type."""
    if value is None:
        return []
    source = f"{path}: value_range"
    low, high = (foreign.number(x, source) for x in foreign.entries(value, source, 2))
    if low >= high:
        raise UserError(f"{source}: expected the value of black and a higher one of white, got {foreign.shown(value)}")
    return [low, high]


def is_id(value: Any) -> bool:
    """Whether a value is a whole number that a label file can hold."""
    return type(value) is int and 0 <= value <= MAX_ID


def check_section(section: Any, source: str) -> None:
    """Raise `UserError` where a section DATASETS.CUSTOM, of the file `source`, describes no data set."""
    names = section["NAMES"]

    def require(condition: bool, key: str, problem: str) -> None:
        if not condition:
            raise UserError(f"{source}: {key}: {problem}")

    require(bool(section["NAME"]), "name", "expected a name for the data set")
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "names", f"repeated: {', '.join(twice)}; each class needs a name of its own")
    require(bool(names), "names", "expected the classes")
    ignore = section["IGNORE"]
    require(is_id(ignore), "ignore", f"expected a whole number from 0 to {MAX_ID}, got {ignore!r}")
    if ignore < len(names):
        raise UserError(
            f'{source}: ignore: {ignore} is the id of the class "{names[ignore]}"; choose one above {len(names) - 1}'
        )
    have = [key for key in ("MAP", "RGB", "REDUCE_ZERO_LABEL") if section[key]]
    require(len(have) < 2, " and ".join(key.lower() for key in have), "only one of them can be; write a whole table")
    require(isinstance(section["REDUCE_ZERO_LABEL"], bool), "reduce_zero_label", "expected true or false")
    for key in ("MAP", "RGB"):
        for left, right in section[key]:
            if key == "RGB":
                rgb_of(left, f"{source}: rgb")
            require(key == "RGB" or is_id(left), "map", f"expected ids of label files on the left, got {left!r}")
            known = is_id(right) and (right < len(names) or right == ignore)
            require(
                known,
                key.lower(),
                f"{left} goes to {right!r}; expected a class from 0 to {len(names) - 1}, or {ignore} to ignore it",
            )
    given = {key: bool(section[key]["IMAGES"]) for key in ("TRAIN", "VAL")}
    fraction = section["VAL_FRACTION"]
    require(
        given["TRAIN"] or given["VAL"] or bool(fraction),
        "train",
        "there is neither train nor val: name images and labels",
    )
    require(
        fraction == 0 or 0 < fraction < 1, "val", f"expected a fraction between 0 and 1, or files; got {fraction:g}"
    )
    require(not fraction or given["TRAIN"], "val", "a fraction is one of the training images: train is missing")


def apply_data(cfg: CfgNode, path: str | os.PathLike) -> None:
    """Make `cfg` one of the data set that the YAML file at `path` describes: its splits, classes and ignored id."""
    section = read_data_file(path)
    cfg.INPUT.VALUE_RANGE = section.pop("VALUE_RANGE")
    custom = cfg.DATASETS.CUSTOM
    for key, value in section.items():
        custom[key] = CfgNode(value) if isinstance(value, dict) else value
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = split_names(custom)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(section["NAMES"])
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = section["IGNORE"]


def split_names(custom: CfgNode) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names under which a section's training and validation images are registered; () where it has none."""
    train = (f"{custom.NAME}_train",) if custom.TRAIN.IMAGES else ()
    return train, (f"{custom.NAME}_val",) if custom.VAL.IMAGES or custom.VAL_FRACTION else ()
