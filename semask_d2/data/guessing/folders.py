"""Guessing the content of a user's folder: its images, its labels, its splits and the classes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semask_d2.data.datasets.coco_files import CocoFile
from semask_d2.data.datasets.coco_labels import is_background, is_ignored_name
from semask_d2.data.datasets.pairing import LEFT_OUT
from semask_d2.data.datasets.walking import SUFFIXES, files_below
from semask_d2.data.guessing.channels import RGB_CHANNELS, Channels, guess_channels
from semask_d2.data.guessing.exports import unsupported_files
from semask_d2.data.guessing.ids import GuessedClasses, classes_of_files
from semask_d2.data.guessing.names import find_names, usable_names
from semask_d2.data.guessing.places import Place, is_image_file, option_words, split_named
from semask_d2.data.guessing.search import Search
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import evenly, few

FAULTY = (*LEFT_OUT, "relation")  # kinds of problems that cause the loss of annotations
READ = 64  # number of label files read for their ids or colors


@dataclass(frozen=True)
class Split:
    """Patterns of the images and label files of a split, relative to the folder.

    There are as many image patterns as label patterns, or a single COCO-format file. `pairs` lists the files instead if
    the patterns would also match files of other splits.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    pairs: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True)
class Guess:
    """The apparent content of a folder: splits, classes, a summary of the label files, and remarks for the user."""

    splits: dict[str, Split]
    classes: GuessedClasses
    held: str
    remarks: list[str] = field(default_factory=list)
    has_background: bool = False
    is_divisible: bool = True  # if there is no validation set: the images can be divided into both sets
    channels: Channels = RGB_CHANNELS


def guess(
    folder: Path, *, images: str = "", labels: str = "", channels: int | None = None, workers: int | None = None
) -> Guess:
    """Guess the content of `folder`; `images` and `labels` are optional patterns, and `channels` those of the images.

    Raises `UserError`, naming the candidates, if no images and labels match or several do.
    """
    folder = Path(os.path.abspath(folder))  # patterns are absolute too, and reported relative to it
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    files = files_below(folder)
    if not any(map(is_image_file, files)):
        known = "".join(f"; {line}" for line in unsupported_files(files))
        raise UserError(f"{folder}: no image files in it or its subfolders ({', '.join(SUFFIXES[:5])}, ...){known}")
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
        remarks.append("a single image cannot be split into training and validation: add `val` to the file")
    image_channels, notes = guess_channels([path for image, _ in partners for path in image.files], channels, workers)
    remarks += notes
    coco = [place.coco for place in used if place.coco is not None]
    if coco:
        if len(coco) < len(used):
            raise search.choice("labels", used)
        classes, has_background = classes_of_categories(coco)
        held = f"{len(classes.names) - has_background} categories"
        return Guess(splits, classes, held, remarks + classes.remarks, has_background, is_divisible, image_channels)
    label_files = [path for place in used for path in place.files]
    folders = [parent for place in used for parent in (place.pattern.parent, place.pattern.parent.parent)]
    table = find_names(dict.fromkeys([folder, *(x for x in folders if x.is_relative_to(folder))]))
    classes, held = classes_of_files(evenly(label_files, READ), table, workers)
    remarks += classes.remarks
    return Guess(splits, classes, held, remarks, is_divisible=is_divisible, channels=image_channels)


def classes_of_categories(files: Sequence[CocoFile]) -> tuple[GuessedClasses, bool]:
    """Return the classes for the categories used in COCO-format files, and whether "background" was added as class 0.

    The background class stands for pixels outside of all segments. Without it, many files would have only one class.
    """
    names = dict.fromkeys(x.name for file in files for x in file.used() if not is_ignored_name(x.name))
    has_background = not any(map(is_background, names))
    class_names = usable_names([*["background"] * has_background, *names])
    problems = [problem.text for file in files for problem in file.problems if problem.kind in FAULTY]
    why = f": {few(problems, '; ')}" if problems else ", as there are none"
    remarks = [] if names else [f"WARNING: there is nothing to learn: no annotation can be used{why}"]
    return GuessedClasses(class_names, remarks=remarks, are_named=True), has_background


def splits_of(folder: Path, partners: Sequence[tuple[Place, Place]]) -> tuple[dict[str, Split], list[Place], list[str]]:
    """Return the splits, recognized by words in folder names, the label places that they use, and remarks.

    A test set replaces a missing validation set.
    """
    by_split: dict[str, list[tuple[Place, Place]]] = defaultdict(list)
    for image, label in sorted(partners, key=lambda x: (x[0].pattern, x[1].pattern)):
        parts = image.pattern.parent.relative_to(folder).parts
        label_parts = label.pattern.relative_to(folder).with_suffix("").parts
        by_split[split_named(parts) or split_named(label_parts) or "train"].append((image, label))
    val = by_split["val"] or by_split["test"]
    train = by_split["train"] or val
    chosen = {"train": train, "val": val if train != val else []}
    splits = {split: split_at(folder, pairs) for split, pairs in chosen.items() if pairs}
    unused = [image for pairs in by_split.values() if pairs not in (train, val) for image, _ in pairs]
    remarks = (
        [f"left out: {few(x.below(folder) for x in unused)}, a test set beside a validation set"] if unused else []
    )
    return splits, list(dict.fromkeys(label for pairs in chosen.values() for _, label in pairs)), remarks


def split_at(folder: Path, pairs: Sequence[tuple[Place, Place]]) -> Split:
    """Return the split made of pairs of image and label places."""
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
            f"{folder}: {' and '.join(names)} are COCO-format files of the same split, which can have only one; merge "
            f"them, or choose one with {option_words('labels', names[0])}"
        )
    images = list(dict.fromkeys(image for image, _ in pairs))
    patterns = [image.below(folder) for image in images]
    if len(images) > 1 and (whole := common_folder(folder, images)):
        patterns = [whole]
    return Split(tuple(patterns), (files[0].below(folder),))


def common_folder(folder: Path, places: Sequence[Place]) -> str:
    """Return the folder that holds the image files of `places` and no others; "" if there is none."""
    shared = next(parent for parent in places[0].pattern.parents if all(parent in x.pattern.parents for x in places))
    files = {path for place in places for path in place.files}
    if not shared.is_relative_to(folder) or {path for path in files_below(shared) if is_image_file(path)} != files:
        return ""
    return shared.relative_to(folder).as_posix()
