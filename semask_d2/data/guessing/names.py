"""Reading class names, by ids or by colors, from the files that label tools write beside their masks."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from semask_d2.config.custom_data import MAX_NAME, plain_name
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular

MAX_BYTES = 2**20
IGNORE_NAME = "__ignore__"  # first line of labelme's labels.txt, for pixels of no class


@dataclass
class NameTable:
    """Class names by id or by color (0xRRGGBB) in label files; `path` is the file that defines them."""

    path: Path | None = None
    ids: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)


def find_names(folders: Iterable[Path]) -> NameTable:
    """Return the names in the first file with class names in `folders`; an empty table if there is none."""
    for folder in folders:
        for path in sorted(folder.iterdir()):
            reader = READERS.get(path.name.lower())
            if reader is not None and path.is_file() and (table := reader(path, read_lines(path))) is not None:
                return table
    return NameTable()


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a small text file; raises `UserError` if it cannot be read."""
    try:
        with open(require_regular(path), encoding="utf-8-sig", errors="replace") as file:
            return [line.strip() for line in file.read(MAX_BYTES).split("\n") if line.strip()]
    except OSError as error:
        raise UserError(f"{path} cannot be read as a list of classes: {error.strerror}") from error


def numbered(path: Path, lines: list[str]) -> NameTable | None:
    """Read labelme's class_names.txt: one class per line, starting with id 0."""
    lines = lines[1:] if lines[:1] == [IGNORE_NAME] else lines
    return NameTable(path, dict(enumerate(lines)))


def labels_txt(path: Path, lines: list[str]) -> NameTable | None:
    """Read labelme's labels.txt, which begins with __ignore__; the order in other files of this name is unknown."""
    return numbered(path, lines) if lines[:1] == [IGNORE_NAME] else None


def labelmap(path: Path, lines: list[str]) -> NameTable | None:
    """Read CVAT's labelmap.txt with lines name:r,g,b:parts:actions."""
    colors = {}
    for line in (line for line in lines if not line.startswith("#")):
        name, _, rest = line.partition(":")
        channels = rest.split(":")[0].split(",")
        if len(channels) != 3 or not all(x.strip().isdecimal() and int(x) < 256 for x in channels):
            return None
        red, green, blue = map(int, channels)
        colors[red << 16 | green << 8 | blue] = name
    return NameTable(path, colors=colors)


def pixel_values(path: Path, lines: list[str]) -> NameTable | None:
    """Read Roboflow's _classes.csv with lines id, name."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    ids = {int(row[0]): row[1] for row in rows if len(row) == 2 and row[0].isdecimal() and len(row[0]) < 6}
    return NameTable(path, ids) if ids else None


def label_colors(path: Path, lines: list[str]) -> NameTable | None:
    """Read CamVid's label_colors.txt with lines red green blue name."""
    colors = {}
    for line in lines:
        *channels, name = line.split(maxsplit=3)
        if len(channels) != 3 or not all(x.isdecimal() and int(x) < 256 for x in channels):
            return None
        red, green, blue = map(int, channels)
        colors[red << 16 | green << 8 | blue] = name
    return NameTable(path, colors=colors)


READERS = {
    "label_colors.txt": label_colors,
    "class_names.txt": numbered,
    "labels.txt": labels_txt,
    "labelmap.txt": labelmap,
    "_classes.csv": pixel_values,
}


def usable_names(names: Iterable[str | None]) -> list[str]:
    """Return unique, valid class names; missing and repeated names get a number."""
    result: dict[str, None] = {}
    for number, name in enumerate(names):
        text = plain_name(name or "") or f"class_{number}"
        copies = (f"{text[: MAX_NAME - 12]}_{copy}" for copy in count(number))
        result[text if text not in result else next(copy for copy in copies if copy not in result)] = None
    return list(result)
