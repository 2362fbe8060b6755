"""A first description of a folder of one's own: which of its pictures are images and which labels, and their ids."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semask_d2.data.datasets.pairing import SUFFIXES, few
from semask_d2.data.image_io import count_ids, read_colors, read_labels
from semask_d2.data.parallel import map_files
from semask_d2.data.quick_check import evenly
from semask_d2.utils.errors import UnreadableFile, UserError

READ = 64  # label files in which ids or colors are looked for
PROBED = 3  # pictures of a folder by which it is told whether they are labels
FEW_COLORS = 64  # that a drawn label picture has at most; a photograph has thousands
IGNORED = 255
SPLIT_WORDS = {"val": ("val", "valid", "validation"), "test": ("test", "testing")}
VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Split:
    """Where the images and the label files of a split are, as patterns below the folder, as many of each."""

    images: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Guess:
    """What a folder seems to hold: its splits, and the ids of its label files or else their colors (0xRRGGBB)."""

    splits: dict[str, Split]
    ids: tuple[int, ...] = ()
    colors: tuple[int, ...] = ()


def guess(folder: Path, *, workers: int | None = None) -> Guess:
    """Look at the pictures below `folder`. Raises UserError where no images and labels of one name are found."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    places = pictures_by_pattern(folder)
    if not places:
        raise UserError(f"{folder}: no picture in it or in the folders in it ({', '.join(SUFFIXES[:5])}, ...)")
    labels = {place: files for place, files in places.items() if all(map(is_label, evenly(files, PROBED)))}
    images = {place: files for place, files in places.items() if place not in labels}
    partners = partners_of(images, labels)
    if not partners:
        raise UserError(
            f"{folder}: found photographs in {len(images)} place(s) and label files in {len(labels)} "
            f"({few((*images, *labels))}), but none that belong together: label files have the names of their images "
            "and one id, or one of few colors, for each pixel"
        )
    found = [path for place in partners.values() for path in labels[place]]
    ids, colors = ids_and_colors(evenly(found, READ), workers)
    return Guess(splits_of(folder, partners), ids, colors)


def pictures_by_pattern(folder: Path) -> dict[Path, list[Path]]:
    """The pictures below `folder` by a pattern for their place: folder, common ending of their names, suffix."""
    found = defaultdict(list)
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name[0] != ".")
        for name in sorted(names):
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                found[Path(place, Path(name).suffix)].append(Path(place, name))
    return {
        place.with_name(f"*{common_ending([path.stem for path in files])}{place.name}"): files
        for place, files in found.items()
    }


def common_ending(stems: Sequence[str]) -> str:
    """What all names end in, from a "_" or "-" on, as "_mask"; "" for nothing."""
    endings = [stems[0][at:] for at, letter in enumerate(stems[0]) if letter in "_-"] if len(stems) > 1 else []
    return next((ending for ending in endings if all(stem.endswith(ending) for stem in stems)), "")


def is_label(path: Path) -> bool:
    """Whether a picture looks like a label file: few values in large regions, and no photograph's format."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return False
    try:
        try:
            values = read_labels(path)
        except UnreadableFile:
            raise
        except UserError:
            values = read_colors(path)
    except UnreadableFile:
        return False
    different = len(np.unique(values))
    borders = (values[:, 1:] != values[:, :-1]).mean() if values.shape[1] > 1 else 0.0
    return different <= FEW_COLORS or (different <= 256 and borders < 0.2)


def partners_of(images: dict[Path, list[Path]], labels: dict[Path, list[Path]]) -> dict[Path, Path]:
    """For each pattern of images the one of label files that shares most names with it, and of those the nearest.

    Of patterns that share as many names, one in a folder called alike goes first, as of images/val and labels/val.
    """
    names = {
        place: {path.name.removesuffix(place.name[1:]) for path in files} for place, files in (images | labels).items()
    }
    partners = {}
    for place in images:

        def nearness(other: Path, place: Path = place) -> tuple[int, bool, int]:
            alike = other.parent.name == place.parent.name
            return len(names[place] & names[other]), alike, len(os.path.commonpath([place, other]))

        best = max(labels, key=nearness, default=None)
        if best is not None and names[place] & names[best]:
            partners[place] = best
    return partners


def splits_of(folder: Path, partners: dict[Path, Path]) -> dict[str, Split]:
    """The splits by the words in the patterns' folders; a test set stands for a missing validation set."""
    of_split: dict[str, list[Path]] = defaultdict(list)
    for place in sorted(partners):
        words = [part.lower() for part in place.parent.relative_to(folder).parts]
        of_split[next((split for split, known in SPLIT_WORDS.items() if set(words) & set(known)), "train")].append(
            place
        )
    val = of_split["val"] or of_split["test"]
    train = of_split["train"] or val
    chosen = {"train": train, "val": val if train != val else []}
    return {
        split: Split(
            tuple(place.relative_to(folder).as_posix() for place in places),
            tuple(partners[place].relative_to(folder).as_posix() for place in places),
        )
        for split, places in chosen.items()
        if places
    }


def ids_and_colors(files: Sequence[Path], workers: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """All ids in label files, or else all their colors."""
    found = [values for values in map_files(ids_or_colors, files, what="reading labels", workers=workers) if values]
    kinds = Counter(kind for kind, _ in found)
    kind = kinds.most_common(1)[0][0] if kinds else "ids"
    values = sorted({value for its_kind, some in found if its_kind == kind for value in some})
    return (tuple(values), ()) if kind == "ids" else ((), tuple(values))


def ids_or_colors(path: Path) -> tuple[str, list[int]] | None:
    """The ids of a label file, or the colors of one in color; None where it cannot be read."""
    try:
        return "ids", count_ids(read_labels(path))[0].tolist()
    except UnreadableFile:
        return None
    except UserError:
        return "colors", np.unique(read_colors(path)).tolist()


def as_yaml(guessed: Guess, root: Path) -> str:
    """The text of a data set's file, with comments on what is to be completed by hand."""
    lines = [
        "# A data set for --data; `semask check` reads all of it and tells what is wrong.",
        f"root: {quoted(str(root.resolve()))}  # relative paths start here; without it, at this file",
    ]
    for split, where in guessed.splits.items():
        lines.append(f"{split}: {{images: {listed(where.images)}, labels: {listed(where.labels)}}}")
    if "val" not in guessed.splits:
        lines.append(
            f"val: {VAL_FRACTION}  # about this fraction of them, by a hash of their names; or files of their own"
        )
    values = guessed.colors or [i for i in guessed.ids if i != IGNORED]
    gaps = not guessed.colors and list(values) != list(range(len(values)))
    lines.append("names:  # what the classes are called: replace these")
    lines += [f"  {number}: class_{number}" for number in range(len(values))]
    if guessed.colors:
        lines.append(f"rgb:  # the colors of the label files and their classes; {IGNORED} where they are to be ignored")
        lines += [f'  "#{color:06x}": {number}' for number, color in enumerate(values)]
    if gaps:
        lines.append(f"map:  # the ids of the label files and their classes; {IGNORED} where they are to be ignored")
        lines += [f"  {value}: {number}" for number, value in enumerate(values)]
    lines.append(f"ignore: {IGNORED}  # pixels of this id count nowhere")
    return "\n".join(lines) + "\n"


def listed(patterns: Sequence[str]) -> str:
    """One pattern, or a list of them, as YAML takes them."""
    texts = [quoted(pattern) for pattern in patterns]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def quoted(text: str) -> str:
    """A text as YAML takes it, whatever is in it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
