"""A first description of a folder of one's own: which of its files are images and which labels, and their classes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from semask_d2.data.datasets.coco_files import CocoFile
from semask_d2.data.datasets.coco_labels import is_background, is_ignored_name
from semask_d2.data.datasets.pairing import LEFT_OUT
from semask_d2.data.datasets.walking import SUFFIXES, files_below
from semask_d2.data.guessing.exports import files_of_tools
from semask_d2.data.guessing.ids import GuessedClasses, classes_of_files
from semask_d2.data.guessing.names import find_names, usable_names
from semask_d2.data.guessing.places import Place, is_picture, option_words, split_named
from semask_d2.data.guessing.search import Search
from semask_d2.data.image_io import value_span
from semask_d2.data.pixel_values import ValueRange, proposed_range
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.excerpts import evenly, few

FAULTY = (*LEFT_OUT, "relation")  # the kinds of problems by which annotations are lost
READ = 64  # label files in which ids or colors are looked for, and images whose values are


@dataclass(frozen=True)
class Split:
    """Patterns of the images and of the label files of a split, below the folder; as many of each, or one COCO file.

    `pairs` are those of a list, which goes before the patterns where they hold files of other splits as well.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    pairs: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True)
class Guess:
    """The apparent content of a folder: splits, classes, what the label files hold, and remarks for the user."""

    splits: dict[str, Split]
    classes: GuessedClasses
    held: str
    remarks: list[str] = field(default_factory=list)
    has_background: bool = False
    is_divisible: bool = True  # where there is no validation set, into one and a training set
    value_range: ValueRange | None = None  # of images of more than 8 bits, where it is to be stated


def guess(folder: Path, *, images: str = "", labels: str = "", workers: int | None = None) -> Guess:
    """Look at the files below `folder`; `images` and `labels` are patterns of those to take, where the user says so.

    Raises `UserError` where none, or several, could belong together, naming them.
    """
    folder = Path(os.path.abspath(folder))  # as patterns are, of which paths below it are told
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    files = files_below(folder)
    if not any(map(is_picture, files)):
        known = "".join(f"; {what}" for what in files_of_tools(files))
        raise UserError(f"{folder}: no picture in it or in the folders in it ({', '.join(SUFFIXES[:5])}, ...){known}")
    search = Search(folder, files, images, labels)
    partners = (
        search.partners()
        or search.partners(by_kind=True)
        or search.partners(by_looks=True)
        or search.partners(by_kind=True, by_looks=True)
    )
    if not partners:
        raise search.nothing_found()
    splits, used, remarks = splits_of(folder, partners)
    remarks = search.remarks + remarks
    is_divisible = "val" in splits or len(set().union(*(image.names & label.names for image, label in partners))) > 1
    if not is_divisible:
        remarks.append("one image alone has no part for a validation set: `val` is to be added to the file")
    value_range = range_of_values([path for image, _ in partners for path in image.files])
    coco = [place.coco for place in used if place.coco is not None]
    if coco:
        if len(coco) < len(used):
            raise search.choice("labels", used)
        classes, has_background = classes_of_categories(coco)
        held = f"{len(classes.names) - has_background} categories"
        return Guess(splits, classes, held, remarks + classes.remarks, has_background, is_divisible, value_range)
    label_files = [path for place in used for path in place.files]
    folders = [parent for place in used for parent in (place.pattern.parent, place.pattern.parent.parent)]
    table = find_names(dict.fromkeys([folder, *(x for x in folders if x.is_relative_to(folder))]))
    classes, held = classes_of_files(evenly(label_files, READ), table, workers)
    return Guess(splits, classes, held, remarks + classes.remarks, is_divisible=is_divisible, value_range=value_range)


def range_of_values(images: Sequence[Path]) -> ValueRange | None:
    """Return the range to state for images of more than 8 bits, by some of them; None where there is nothing to."""
    spans = []
    for path in evenly(images, READ):
        with suppress(UnreadableFile):
            spans.append(value_span(path))
    return proposed_range([span for span in spans if span is not None])


def classes_of_categories(files: Sequence[CocoFile]) -> tuple[GuessedClasses, bool]:
    """Return the classes of the categories that COCO-format files use, and whether a background was put before them.

    It stands for the pixels in no segment, without which one class would be all that is left of many files.
    """
    names = dict.fromkeys(x.name for file in files for x in file.used() if not is_ignored_name(x.name))
    has_background = not any(map(is_background, names))
    every = usable_names([*["background"] * has_background, *names])
    problems = [problem.text for file in files for problem in file.problems if problem.kind in FAULTY]
    why = f": {few(problems, '; ')}" if problems else ", as there is none"
    remarks = [] if names else [f"WARNING: there is nothing to learn: no annotation can be used{why}"]
    return GuessedClasses(every, remarks=remarks, are_named=True), has_background


def splits_of(folder: Path, partners: Sequence[tuple[Place, Place]]) -> tuple[dict[str, Split], list[Place], list[str]]:
    """Return the splits by the words in the names of folders, the labels used, and remarks.

    A test set stands for a missing validation set.
    """
    of_split: dict[str, list[tuple[Place, Place]]] = defaultdict(list)
    for image, label in sorted(partners, key=lambda x: (x[0].pattern, x[1].pattern)):
        parts = image.pattern.parent.relative_to(folder).parts
        label_parts = label.pattern.relative_to(folder).with_suffix("").parts
        of_split[split_named(parts) or split_named(label_parts) or "train"].append((image, label))
    val = of_split["val"] or of_split["test"]
    train = of_split["train"] or val
    chosen = {"train": train, "val": val if train != val else []}
    splits = {split: split_at(folder, pairs) for split, pairs in chosen.items() if pairs}
    unused = [image for pairs in of_split.values() if pairs not in (train, val) for image, _ in pairs]
    remarks = (
        [f"left out: {few(x.below(folder) for x in unused)}, a test set beside a validation set"] if unused else []
    )
    return splits, list(dict.fromkeys(label for pairs in chosen.values() for _, label in pairs)), remarks


def split_at(folder: Path, pairs: Sequence[tuple[Place, Place]]) -> Split:
    """Return a split of pairs of places."""
    if any(image.is_part for image, _ in pairs):
        listed: list[tuple[Path, Path]] = []
        for image, label in pairs:
            images, labels = image.by_name(), label.by_name()
            listed += [(images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]
        return Split((), (), tuple(listed))
    files = list(dict.fromkeys(label for _, label in pairs if label.coco is not None))
    if not files:
        below = [tuple(pair[side].below(folder) for pair in pairs) for side in (0, 1)]
        return Split(below[0], below[1])
    if len(files) > 1:
        names = [x.below(folder) for x in files]
        raise UserError(
            f"{folder}: {' and '.join(names)} are COCO-format files of one split, which takes one; merge them, or say "
            f"which is meant with {option_words('labels', names[0])}"
        )
    images = list(dict.fromkeys(image for image, _ in pairs))
    patterns = [image.below(folder) for image in images]
    if len(images) > 1 and (whole := common_folder(folder, images)):
        patterns = [whole]
    return Split(tuple(patterns), (files[0].below(folder),))


def common_folder(folder: Path, places: Sequence[Place]) -> str:
    """Return the folder that holds the pictures of some places and no other; "" where there is none."""
    shared = next(parent for parent in places[0].pattern.parents if all(parent in x.pattern.parents for x in places))
    files = {path for place in places for path in place.files}
    if not shared.is_relative_to(folder) or {path for path in files_below(shared) if is_picture(path)} != files:
        return ""
    return shared.relative_to(folder).as_posix()
