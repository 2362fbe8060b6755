"""Hundreds of damaged dataset files: each gives a valid config section, or a one-line error that names the file."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from semask_d2.config import get_cfg
from semask_d2.config.custom_data import check_section, read_data_file
from semask_d2.utils.errors import UserError

VALID: dict[str, Any] = {
    "name": "mine",
    "root": "data",
    "train": {"images": ["img/a/*.png", "img/b"], "labels": ["lab/a/*.png", "lab/b"]},
    "val": {"images": "img/c", "labels": "lab/c"},
    "names": {0: "sky", 1: "road", 2: "car"},
    "ignore": 255,
    "colors": ["#010203", [4, 5, 6], "#ffffff"],
    "value_range": [0, 4095],
    "map": {7: 0, 8: 1, 26: 2, -1: 255},
}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 255, 65536, 10**400, -(10**400), 0.1, 1.5, 1e308, float("nan"), float("inf"), "", " ",
    "a", "0", "-1", "0.1", "nan", "1e999", "..", "/", "../../x", "a\0b", "a\nb", "\u2028", "x" * 5000, "*", "[", "~",
    "~nobody/x", "\\\\server\\x", ".txt", "LIST.TXT", "x.json", "#12345", "#GGGGGG", "#ABCDEF", "\U0001f400",
    "Mu\u0308ller", [], [[]], [None], ["a", "a"], ["a"] * 300, [1, 2, 3], [256, 0, 0], {}, {0: "a"}, {"0": "a"},
    {0: {}}, {"a": "b"}, {None: 1}, {True: 0, False: 1}, {1.5: 0}, {10**30: 0}, {"images": "x"},
]  # fmt: skip


def places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every list and section in `values` with each of its keys or indices."""
    if isinstance(values, dict | list):
        for key in values if isinstance(values, dict) else range(len(values)):
            yield values, key
            yield from places(values[key])


def mutated(rng: random.Random, count: int) -> Iterator[str]:
    """Generate texts of dataset files in which values, keys or characters are exchanged."""
    for number in range(count):
        values = copy.deepcopy(VALID)
        for _ in range(rng.randrange(1, 3)):
            holder, key = rng.choice(list(places(values)))
            value = copy.deepcopy(rng.choice(VALUES))
            if number % 3 == 0 and isinstance(holder, dict):
                new_key = value if isinstance(value, str | int | float | None) else str(value)
                holder[new_key] = holder.pop(key)
            elif number % 3 == 1 and isinstance(holder, dict) and rng.random() < 0.3:
                del holder[key]
            else:
                holder[key] = value
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
        if number % 7 == 0:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice([*list("{}[]:,&*!|>'\"#%@\t\0"), "\ud7ff", "&a", "*a"]) + text[at + 1 :]
        yield text


def test_files_are_sections_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    read = refused = 0
    for text in mutated(random.Random(0), 400):
        path.write_text(text, encoding="utf-8")
        try:
            section = read_data_file(path)
            check_section(section, "again")
            json.dumps(section).encode()
            "".join(section["NAMES"]).encode()
            read += 1
        except UserError as error:
            message = str(error)
            assert message.startswith(str(path)), text
            assert len(message.splitlines()) == 1, text
            assert len(message) < 700 + len(str(path)), text
            refused += 1
        except Exception as error:
            pytest.fail(f"{error!r} of {text!r}")
    assert read + refused == 400
    assert read > 25
    assert refused > 200


def test_the_valid_file_is_valid(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(VALID))
    assert get_cfg(data=tmp_path / "mine.yaml").DATASETS.CUSTOM.MAP == [[-1, 255], [7, 0], [8, 1], [26, 2]]
