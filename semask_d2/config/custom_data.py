"""Custom datasets: the YAML file that describes one, and the config section DATASETS.CUSTOM made from it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semask_d2.config.checks import MAX_CHANNELS
from semask_d2.config.yaml_files import read_values
from semask_d2.d2 import CfgNode
from semask_d2.utils import foreign
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few
from semask_d2.utils.files import folder_name
from semask_d2.utils.foreign import Section, shown
from semask_d2.utils.registry import suggestion

KEYS = (
    *("name", "root", "train", "val", "names", "ignore", "colors", "map", "rgb", "reduce_zero_label"),
    *("value_range", "channels", "mean", "std"),
)
SPLIT_KEYS = ("images", "labels")
HEX_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
DIGITS = re.compile(r"-?[0-9]{1,10}")  # an id written as a string, as JSON writes all keys
MAX_ID = 2**16 - 1  # largest id of a class or of ignored pixels
FILE_IDS = (-(2**31), 2**31 - 1)  # range of ids in a label file
DEFAULT_IGNORE = 255
RGB = 3  # channels of images unless the file says otherwise
LEAST_STD = 1e-6
MAX_NAME = 200  # characters of a class name
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")  # would break lines of class lists
LONGEST_ENDING = "_train"  # longest ending that `split_names` appends


def read_data_file(path: str | os.PathLike) -> dict[str, Any]:
    """Return the section DATASETS.CUSTOM described by the dataset file at `path`, with an absolute ROOT.

    Raises `UserError` naming the file, the key and what was expected.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(
            f"{path}: this is a folder, and a dataset is described by a YAML file: semask init-data {path} drafts one"
        )
    values = read_values(path, (), None)
    known_keys(values, KEYS, str(path))
    file = Section(values, str(path))
    name = file.get("name", path.stem)
    val = file.get("val", None)
    by_fraction = type(val) in (int, float) or (isinstance(val, str) and is_number(val))
    section = {
        "NAME": str(foreign.integer(name, f"{path}: name"))
        if type(name) is int
        else foreign.text(name, f"{path}: name"),
        "ROOT": os.path.abspath(os.path.join(path.parent, os.path.expanduser(file.text("root", ".")))),
        "TRAIN": split_of(file.get("train", None), "train", path),
        "VAL": split_of(None if by_fraction else val, "val", path),
        "VAL_FRACTION": file.number("val") if by_fraction else 0.0,
        "NAMES": class_names(file.get("names", None), path),
        "COLORS": [],
        "IGNORE": ignored_id(file.get("ignore", DEFAULT_IGNORE), str(path)),
        "MAP": table_of(file.get("map", None), "map", path),
        "RGB": table_of(file.get("rgb", None), "rgb", path),
        "REDUCE_ZERO_LABEL": file.get("reduce_zero_label", False),
        "VALUE_RANGE": value_range(file.get("value_range", None), path),
        "CHANNELS": file.integer("channels", None, 1, MAX_CHANNELS),
    }
    section |= channel_statistics(file, section["CHANNELS"] or RGB)
    section["COLORS"] = class_colors(file.get("colors", None), section, path)
    check_section(section, str(path))
    return section


def known_keys(values: dict, known: Iterable[str], source: str) -> None:
    """Raise `UserError` for the first key that is not in `known`, and suggest the closest known key."""
    known = list(known)
    for key in values:
        if key not in known:
            near = suggestion(printed(key), known)
            raise UserError(f'{source}: unknown key "{printed(key)}".{near} Known: {", ".join(known)}')


def printed(value: Any) -> str:
    """Return a key as messages show it: short strings without quotes, other values shortened."""
    return value if isinstance(value, str) and len(value) < 100 and value.isprintable() else shown(value)


def split_of(value: Any, key: str, path: Path) -> dict[str, list[str]]:
    """Return the section of a split: image patterns and label patterns, or one text file that lists pairs."""
    if value is None:
        return {"IMAGES": [], "LABELS": []}
    if isinstance(value, str) and value.lower().endswith(".txt"):
        return {"IMAGES": [foreign.text(value, f"{path}: {key}")], "LABELS": []}
    if not isinstance(value, dict):
        fraction = ", or for val a fraction such as 0.1" if key == "val" else ""
        raise UserError(
            f'{path}: {key}: expected {{images: "...", labels: "..."}}, a .txt file of pairs{fraction}; '
            f"got {shown(value)}"
        )
    known_keys(value, SPLIT_KEYS, f"{path}: {key}")
    for missing in (part for part in SPLIT_KEYS if not value.get(part)):
        raise UserError(f"{path}: {key}.{missing} is missing: name a folder, a pattern or a list of files")
    patterns = {}
    for part in SPLIT_KEYS:
        words = value[part] if isinstance(value[part], list) else [value[part]]
        for word in (word for word in words if not isinstance(word, str)):
            raise UserError(f"{path}: {key}.{part}: expected names of files or folders, got {shown(word)}")
        patterns[part.upper()] = [foreign.text(word, f"{path}: {key}.{part}") for word in words]
    return patterns


def class_names(value: Any, path: Path) -> list[str]:
    """Return the class names in the order of their ids."""
    if isinstance(value, dict):
        by_id = {as_id(key): name for key, name in value.items()}
        if len(by_id) < len(value) or any(type(key) is not int or not 0 <= key < len(value) for key in by_id):
            raise UserError(
                f"{path}: names: expected an id from 0 to {len(value) - 1} for each of its {len(value)} classes, "
                f"without gaps, got {few(printed(key) for key in value)}; use `map` to map other ids in files to these"
            )
        value = [by_id[i] for i in range(len(by_id))]
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: names: expected the classes, as [sky, building] or {{0: sky, 1: building}}")
    for name in (name for name in value if not isinstance(name, str)):
        raise UserError(f'{path}: names: expected words, got {shown(name)}; put a word such as "no" in quotes')
    return value


def plain_name(text: str) -> str:
    """Return `text` as a valid class name: one line of limited length, without surrounding spaces."""
    return CONTROL.sub(" ", text).strip()[:MAX_NAME].strip()


def as_id(key: Any) -> Any:
    """Return a key that is a string of digits, as in JSON, as an integer; other keys are returned unchanged."""
    return int(key) if isinstance(key, str) and DIGITS.fullmatch(key) else key


def is_number(text: str) -> bool:
    """Return whether `text` spells a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def ignored_id(value: Any, source: str) -> int:
    """Return the id of ignored pixels."""
    if type(value) is int and FILE_IDS[0] <= value < 0:
        raise UserError(
            f"{source}: ignore: expected a whole number from 0 to {MAX_ID}, got {value}; `map: {{{value}: "
            f"{DEFAULT_IGNORE}}}`, together with all other ids, ignores such pixels"
        )
    return foreign.integer(value, f"{source}: ignore", 0, MAX_ID)


def table_of(value: Any, key: str, path: Path) -> list[list]:
    """Return the pairs [from, to] of a mapping, with ids as integers and colors in lower case."""
    if value is None:
        return []
    if not isinstance(value, dict) or not value:
        example = "{7: 0, 8: 1}, ids in the files and their classes" if key == "map" else '{"#804080": 0}, with quotes'
        raise UserError(f"{path}: {key}: expected a table such as {example}; got {shown(value)}")
    pairs = [
        [as_id(left) if key == "map" else left.lower() if isinstance(left, str) else left, right]
        for left, right in value.items()
    ]
    if twice := [printed(left) for left, count in Counter(left for left, _ in pairs).items() if count > 1]:
        raise UserError(f"{path}: {key}: {few(twice)} occurs more than once")
    return pairs


def class_colors(value: Any, section: dict[str, Any], path: Path) -> list[list[int]]:
    """Return the class colors [r, g, b]: `colors` if given, else the colors of `rgb`, else an empty list."""
    names = section["NAMES"]
    if value is None:
        first: dict[Any, str] = {}
        for color, target in section["RGB"]:
            if type(target) is int:
                first.setdefault(target, color)
        return (
            [list(rgb_of(first[i], f"{path}: rgb")) for i in range(len(names))]
            if set(first) >= set(range(len(names)))
            else []
        )
    if isinstance(value, dict):
        if set(value) != set(names):
            odd = sorted({printed(name) for name in set(names) ^ set(value)})
            raise UserError(f"{path}: colors: expected one for each name; differing: {few(odd)}")
        value = [value[name] for name in names]
    if not isinstance(value, list) or len(value) != len(names):
        count = f"{len(value)}" if isinstance(value, list) else shown(value)
        raise UserError(f"{path}: colors: expected {len(names)}, one for each of names, got {count}")
    return [list(rgb_of(color, f"{path}: colors")) for color in value]


def rgb_of(color: Any, source: str) -> tuple[int, int, int]:
    """Return the channels of a color such as "#804080" or [128, 64, 128]."""
    if isinstance(color, str) and HEX_COLOR.fullmatch(color):
        return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
    if isinstance(color, list | tuple) and len(color) == 3 and all(type(c) is int and 0 <= c < 256 for c in color):
        return tuple(color)
    raise UserError(f'{source}: expected a color as "#804080" (with its quotes) or [128, 64, 128], got {shown(color)}')


def value_range(value: Any, path: Path) -> list[float]:
    """Return the values of black and white in images of more than 8 bits; [] if the file type determines them."""
    if value is None:
        return []
    source = f"{path}: value_range"
    low, high = (foreign.number(x, source) for x in foreign.entries(value, source, 2))
    if low >= high:
        raise UserError(f"{source}: expected the value of black and a higher one of white, got {shown(value)}")
    return [low, high]


def channel_statistics(file: Section, channels: int) -> dict[str, list[float] | None]:
    """Return MEAN and STD, a number for each channel in 0..255; None if the file leaves those of RGB to the config."""
    mean, std = (file.entries(key, None, channels) for key in ("mean", "std"))
    for key, values, other in (("mean", mean, std), ("std", std, mean)):
        if values is None and (other is not None or channels != RGB):
            raise UserError(
                f"{file.source}: {key} is missing: expected {channels} numbers, one for each channel in 0..255 (semask "
                "init-data measures mean and std)"
            )
    return {
        "MEAN": None if mean is None else [foreign.number(x, f"{file.source}: mean") for x in mean],
        "STD": None if std is None else [foreign.number(x, f"{file.source}: std", LEAST_STD) for x in std],
    }


def check_section(section: Any, source: str) -> None:
    """Raise `UserError` if a section DATASETS.CUSTOM, read from `source`, is not a valid dataset."""

    def expect(condition: bool, key: str, problem: str) -> None:
        if not condition:
            raise UserError(f"{source}: {key}: {problem}")

    folder_name(foreign.text(section["NAME"], f"{source}: name"), f"{source}: name", LONGEST_ENDING)
    foreign.text(section["ROOT"], f"{source}: root")
    names = [foreign.text(name, f"{source}: names", max_length=MAX_NAME) for name in section["NAMES"]]
    for name in names:
        expect(name.strip() != "" and not CONTROL.search(name), "names", f"{shown(name)} is no valid name")
    twice = sorted({name for name, count in Counter(names).items() if count > 1})
    expect(not twice, "names", f"repeated: {few(twice)}; each class needs a different name")
    expect(bool(names), "names", "expected the classes")
    ignore = ignored_id(section["IGNORE"], source)
    if ignore < len(names):
        raise UserError(
            f'{source}: ignore: {ignore} is the id of the class "{names[ignore]}"; choose one above {len(names) - 1}'
        )
    have = [key for key in ("MAP", "RGB", "REDUCE_ZERO_LABEL") if section[key]]
    expect(len(have) < 2, " and ".join(key.lower() for key in have), "only one of them is allowed; combine them")
    expect(isinstance(section["REDUCE_ZERO_LABEL"], bool), "reduce_zero_label", "expected true or false")
    for key in ("MAP", "RGB"):
        for pair in section[key]:
            left, right = foreign.entries(pair, f"{source}: {key.lower()}", 2)
            if key == "RGB":
                rgb_of(left if isinstance(left, str) else None, f"{source}: rgb")
            is_id = type(left) is int and FILE_IDS[0] <= left <= FILE_IDS[1]
            expect(key == "RGB" or is_id, "map", f"expected ids of label files on the left, got {shown(left)}")
            known = type(right) is int and (0 <= right < len(names) or right == ignore)
            expected = f"expected a class from 0 to {len(names) - 1}, or {ignore} to ignore it"
            expect(known, key.lower(), f"{left} goes to {shown(right)}; {expected}")
    for key in ("TRAIN", "VAL"):
        for word in (*section[key]["IMAGES"], *section[key]["LABELS"]):
            foreign.text(word, f"{source}: {key.lower()}")
    given = {key: bool(section[key]["IMAGES"]) for key in ("TRAIN", "VAL")}
    fraction = foreign.number(section["VAL_FRACTION"], f"{source}: val")
    expect(
        given["TRAIN"] or given["VAL"] or bool(fraction),
        "train",
        "there is neither train nor val: name images and labels",
    )
    expect(fraction == 0 or 0 < fraction < 1, "val", f"expected a fraction between 0 and 1, or files; got {fraction:g}")
    expect(not fraction or given["TRAIN"], "val", "a fraction is one of the training images: train is missing")


def apply_data(cfg: CfgNode, path: str | os.PathLike, *, trained: bool = False) -> None:
    """Set the splits, classes, ignored id and channels in `cfg` to those of the dataset file at `path`.

    `trained` states that `cfg` describes a trained model: its channels, mean and standard deviation are kept.
    """
    section = read_data_file(path)
    cfg.INPUT.VALUE_RANGE = section.pop("VALUE_RANGE")
    apply_channels(cfg, *(section.pop(key) for key in ("CHANNELS", "MEAN", "STD")), path=path, trained=trained)
    custom = cfg.DATASETS.CUSTOM
    for key, value in section.items():
        custom[key] = CfgNode(value) if isinstance(value, dict) else value
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = split_names(custom)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(section["NAMES"])
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = section["IGNORE"]


def apply_channels(
    cfg: CfgNode,
    channels: int | None,
    mean: list[float] | None,
    std: list[float] | None,
    *,
    path: str | os.PathLike,
    trained: bool,
) -> None:
    """Set the channels of images, their mean and standard deviation in `cfg`; None keeps a value."""
    if trained:
        if channels not in (None, cfg.INPUT.CHANNELS):
            raise UserError(f"{path}: channels: the trained model takes {cfg.INPUT.CHANNELS}, got {channels}")
        return
    cfg.INPUT.CHANNELS = channels or cfg.INPUT.CHANNELS
    if mean is not None and std is not None:
        order = -1 if cfg.INPUT.FORMAT == "BGR" and len(mean) == RGB else 1  # the file's order is that of images
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = mean[::order], std[::order]


def split_names(custom: CfgNode) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the registered names of a section's training and validation splits; () for a missing split."""
    train = (f"{custom.NAME}_train",) if custom.TRAIN.IMAGES else ()
    return train, (f"{custom.NAME}_val",) if custom.VAL.IMAGES or custom.VAL_FRACTION else ()
