"""Deriving classes from the ids or colors in label files: which values are ignored, and the class ids of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from semask_d2.config.custom_data import DEFAULT_IGNORE, MAX_ID
from semask_d2.data.guessing.names import NameTable, usable_names
from semask_d2.data.image_io import has_transparency, read_colors, read_labels
from semask_d2.data.parallel import map_files
from semask_d2.data.soft_borders import Counts, border_counts, soft_values, total_counts
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.excerpts import few

NO_DATA = MAX_ID  # "no data" in 16-bit rasters; others use negative ids
SHOWN = 20
MANY_COLORS = 1024  # more than any set of label files has
IDS, COLORS = "ids", "colors"


@dataclass(frozen=True)
class GuessedClasses:
    """Names of the classes, the maps from a file's ids or colors (0xRRGGBB) to them, the ignored id, and remarks."""

    names: list[str]
    ignore: int = DEFAULT_IGNORE
    id_map: dict[int, int] = field(default_factory=dict)
    colors: dict[int, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    are_named: bool = False


def classes_of_files(files: Sequence[Path], table: NameTable, workers: int | None) -> tuple[GuessedClasses, str]:
    """Return the classes in label files, with names from `table` where it has them, and a summary of the values."""
    kind, counts = ids_or_colors_of_all(files, workers)
    soft, values = set(soft_values(counts)), sorted(counts)
    sharp = [value for value in values if value not in soft]
    if kind == COLORS and len(sharp) > MANY_COLORS:
        raise UserError(
            f"{files[0]} and others hold {len(values)} colors, like photographs: a label file holds one id, or one of "
            "few colors, for each pixel; are images and labels mixed up?"
        )
    if kind == COLORS:
        remarks = soft_remarks([f"#{color:06x}" for color in sharp], "color") if soft else []
        classes = classes_of_colors(sharp, table)
        if len(values) < 2 and any(map(has_transparency, files)):
            remarks.append("they differ only in transparency, which is not read: save it as a separate gray image")
        known = {color: classes.ignore for color in sorted(soft) if color not in classes.colors}
        classes = replace(classes, colors=classes.colors | known, remarks=remarks + classes.remarks)
        return classes, f"{len(values)} colors"
    shown = few(values, count=SHOWN)
    if not soft:
        return classes_of_ids(values, table), f"the ids {shown}"
    classes = classes_of_ids(sharp, table)
    id_map = classes.id_map or {x: x for x in range(len(classes.names))}
    between = {x: classes.ignore for x in {*soft, *range(DEFAULT_IGNORE + 1)} if x not in id_map}
    remarks = soft_remarks([str(x) for x in sharp], "id") + classes.remarks
    return replace(classes, id_map=id_map | dict(sorted(between.items())), remarks=remarks), f"the ids {shown}"


def soft_remarks(values: Sequence[str], kind: str) -> list[str]:
    """Return a remark about label files with soft borders, in which only `values` are taken for classes."""
    return [
        f"WARNING: the label files have soft borders, as from antialiasing: {', '.join(values[:SHOWN])} are "
        f"taken for classes, and each {kind} between them is ignored; better, save them again with sharp borders"
    ]


def ids_or_colors_of_all(files: Sequence[Path], workers: int | None) -> tuple[str, Counts]:
    """Return IDS or COLORS, whichever most label files hold, and the total counts in those files."""
    read = [values for values in map_files(ids_or_colors, files, what="reading labels", workers=workers) if values]
    kinds = Counter(kind for kind, _ in read)
    kind = kinds.most_common(1)[0][0] if kinds else IDS
    return kind, total_counts(counts for file_kind, counts in read if file_kind == kind)


def ids_or_colors(path: Path) -> tuple[str, Counts] | None:
    """Return the kind of values in a label file, IDS or COLORS, with their counts; None if it cannot be read."""
    try:
        return IDS, border_counts(read_labels(path))
    except UnreadableFile:
        return None
    except UserError:
        return COLORS, border_counts(read_colors(path), are_colors=True)


def classes_of_colors(colors: Sequence[int], table: NameTable) -> GuessedClasses:
    """Return one class per color: first those of the `table` in its order, then the other `colors`."""
    every = [*table.colors, *(color for color in colors if color not in table.colors)]
    names = usable_names(table.colors.get(color) for color in every)
    remarks = nothing_to_learn([f"#{color:06x}" for color in colors], "color")
    named = bool(table.colors)
    numbers = {color: number for number, color in enumerate(every)}
    return GuessedClasses(names, ignored_above(len(names)), colors=numbers, remarks=remarks, are_named=named)


def classes_of_ids(ids: Sequence[int], table: NameTable) -> GuessedClasses:
    """Return one class per id, except for ids of ignored pixels: negative ids, 65535, and 255 in most cases.

    255 is a class if fewer than two classes would be left without it, if both 254 and 256 occur, if the ids are equally
    spaced gray levels up to 255, or if the `table` names it.
    """
    no_data = [x for x in ids if x < 0 or x == NO_DATA]
    valid = [x for x in ids if x not in no_data]
    others = [x for x in valid if x != DEFAULT_IGNORE]
    is_in_sequence = (254 in others and 256 in others) or is_evenly_spread(valid)
    is_ignored = DEFAULT_IGNORE in valid and len(others) > 1 and not is_in_sequence and DEFAULT_IGNORE not in table.ids
    class_ids = sorted({*(others if is_ignored else valid), *table.ids})
    names = usable_names(table.ids.get(x) for x in class_ids)
    ignore = ignored_above(len(names))
    id_map = {x: number for number, x in enumerate(class_ids)}
    left_out = {x: ignore for x in [*no_data, *[DEFAULT_IGNORE] * is_ignored] if x != ignore}
    if left_out or any(x != number for x, number in id_map.items()):
        id_map |= left_out
    else:
        id_map = {}
    remarks = []
    if no_data:
        remarks.append(f"{', '.join(map(str, no_data))}: taken for pixels without data, and ignored")
    if DEFAULT_IGNORE in valid and not is_ignored:
        why = "as only one would be left without it" if len(others) < 2 else "like the others"
        remarks.append(f"255 is taken for a class here, {why}; `255: {ignore}` in `map` ignores it")
    if is_ignored:
        remarks.append("255: taken for ignored pixels; if it is a class, add it to `map` and `names`")
    if ignore != DEFAULT_IGNORE:
        remarks.append(f"`ignore` is {ignore}, as ids up to {len(names) - 1} are classes")
    remarks += nothing_to_learn([str(x) for x in valid], "id")
    return GuessedClasses(names, ignore, id_map, remarks=remarks, are_named=bool(table.ids))


def is_evenly_spread(ids: Sequence[int]) -> bool:
    """Return whether ids are equally spaced gray levels from 0 to 255, such as 0, 85, 170 and 255."""
    step = DEFAULT_IGNORE / max(len(ids) - 1, 1)
    return step > 2 and all(abs(x - number * step) < 1 for number, x in enumerate(sorted(ids)))


def ignored_above(count: int) -> int:
    """Return an id for ignored pixels that is not among the ids of `count` classes."""
    return DEFAULT_IGNORE if count <= DEFAULT_IGNORE else MAX_ID


def nothing_to_learn(values: Iterable[str], kind: str) -> list[str]:
    """Return a remark about label files with fewer than two classes; [] for others."""
    values = list(values)
    if len(values) > 1:
        return []
    held = f"one {kind}, {values[0]}" if values else f"no class {kind}"
    return [
        f"WARNING: there is nothing to learn: the label files hold {held}. Training needs two classes: give all other "
        f"pixels {'an' if kind == 'id' else 'a'} {kind} that is not ignored"
    ]
