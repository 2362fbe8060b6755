"""Pairing of images and label files, which are found by patterns, folders or lists, by their names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from semask_d2.data.datasets.lists import listed_pairs
from semask_d2.data.datasets.walking import (
    SUFFIXES,
    composed,
    existing_part,
    files_below,
    is_pattern,
    matching_files,
    stem_of,
)
from semask_d2.data.rasters import ARRAY_SUFFIX
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few
from semask_d2.utils.files import require_regular

logger = logging.getLogger(__name__)

ESCAPED = re.compile(r"\[([*?[])\]")  # an escaped special character of patterns


class Problem(NamedTuple):
    """A problem with files, of one of the kinds of `semask check`; `refused` if the labels would be a guess.

    `sources` names the images that it concerns, in the form of `CocoLabels.source`.
    """

    kind: str
    text: str
    refused: bool = False
    sources: tuple[str, ...] = ()


LEFT_OUT = ("annotation", "area")  # kinds of problems for which training leaves out the annotations


def require_sound(problems: Sequence[Problem]) -> None:
    """Raise `UserError` with the first problems that make labels ambiguous; log the annotations that are left out."""
    if refused := [problem.text for problem in problems if problem.refused]:
        raise UserError(f"{few(refused, '; ')}; semask check lists all")
    if left_out := [problem.text for problem in problems if problem.kind in LEFT_OUT]:
        logger.warning("%d annotation(s) left out (semask check lists all): %s", len(left_out), few(left_out, "; "))


@dataclass
class Pairing:
    """Result of pairing: pairs (image, label file) ordered by name, files without a partner, and problems."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    unlabeled: list[Path] = field(default_factory=list)
    imageless: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: Pairing) -> None:
        """Add the files and problems of another pairing."""
        self.pairs += other.pairs
        self.unlabeled += other.unlabeled
        self.imageless += other.imageless
        self.problems += other.problems

    def require_whole(self, source: str) -> None:
        """Raise `UserError` with the first problems and files without a partner; `source` names the split."""
        require_sound(self.problems)
        complaints = []
        if self.unlabeled:
            complaints.append(f"{len(self.unlabeled)} image(s) without a label file: {few(self.unlabeled)}")
        if self.imageless:
            complaints.append(f"{len(self.imageless)} label file(s) without an image: {few(self.imageless)}")
        if complaints:
            raise UserError(
                f"{source}: {'; '.join(complaints)}. Pairs have equal names up to the ending; `semask check` lists "
                "all problems, and writes the good pairs with --list"
            )


def find_pairs(images: Sequence[str], labels: Sequence[str], root: Path, source: str) -> Pairing:
    """Return the pairs of patterns, folders or files below `root`; without `labels`, `images` names a list of pairs.

    Images and label files are paired by their path below the fixed part of their pattern, without the pattern's ending,
    so subfolders may contain equal names. With equally many patterns on both sides, patterns are paired one by one, and
    those that share a pattern of images or labels are handled together; two lists of files are paired in order. If one
    side's pattern also matches all files of the other, as *.png matches x_mask.png, those files belong to the other
    side only. Raises `UserError`, starting with `source`, if a pattern matches nothing or two files have the same name.
    """
    if not labels:
        base, missing = existing_part(images[0], root)
        pairs = listed_pairs(base.joinpath(*missing), root, source)
        return Pairing(pairs, problems=repeated_in_list(pairs, source))
    if len(images) == len(labels):
        groups = grouped(images, labels)
    else:
        groups = [(list(images), list(labels))]
    result = Pairing()
    for words in groups:
        of_images, of_labels = (
            [expand(word, root, f"{source}: {kind}") for word in some]
            for some, kind in zip(words, ("images", "labels"), strict=True)
        )
        if len(of_images) == len(of_labels) and all(map(is_file, (*of_images, *of_labels))):
            result.add(Pairing([(x[""], y[""]) for x, y in zip(of_images, of_labels, strict=True)]))
            continue
        files = merged(of_images, f"{source}: images"), merged(of_labels, f"{source}: labels")
        result.add(paired(*apart(*files)))
    return result


def grouped(images: Sequence[str], labels: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Return groups of image patterns and label patterns; pairs that share a pattern form one group."""
    groups: list[tuple[list[str], list[str]]] = []
    for image, label in zip(images, labels, strict=True):
        same = [group for group in groups if image in group[0] or label in group[1]]
        joined = ([*(x for group in same for x in group[0]), image], [*(x for group in same for x in group[1]), label])
        groups = [group for group in groups if group not in same] + [joined]
    return groups


def apart(images: dict[str, Path], labels: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return both sides; if one side contains all files of the other, they are removed from it."""
    of_images, of_labels = set(images.values()), set(labels.values())
    if of_labels < of_images:
        return {key: path for key, path in images.items() if path not in of_labels}, labels
    if of_images < of_labels:
        return images, {key: path for key, path in labels.items() if path not in of_images}
    return images, labels


def paired(images: dict[str, Path], labels: dict[str, Path]) -> Pairing:
    """Return the pairs with equal names, ordered by name, and the files without a partner.

    A label file may also be named after its image's full name, such as a.jpg.png for a.jpg.
    """
    labels = dict(labels)
    for key in sorted(labels.keys() - images.keys()):
        stem = stem_of(key)
        if stem in images and stem not in labels:
            labels[stem] = labels.pop(key)
    return Pairing(
        [(images[key], labels[key]) for key in sorted(images.keys() & labels.keys())],
        [images[key] for key in sorted(images.keys() - labels.keys())],
        [labels[key] for key in sorted(labels.keys() - images.keys())],
    )


def repeated_in_list(pairs: Sequence[tuple[Path, Path]], source: str) -> list[Problem]:
    """Return the problems of a list that gives an image several label files, or a label map several images."""
    problems = []
    for side, what in ((0, "label files"), (1, "images")):
        partners: dict[Path, set[Path]] = {}
        for pair in pairs:
            if pair[1].suffix.lower() != ".json":
                partners.setdefault(pair[side], set()).add(pair[1 - side])
        several = [path for path, some in partners.items() if len(some) > 1]
        problems += [Problem("repeated", f"{source}: the list gives {path} several {what}") for path in several]
    return problems


def is_file(files: dict[str, Path]) -> bool:
    """Return whether an entry names a single file."""
    return list(files) == [""]


def expand(word: str, root: Path, source: str) -> dict[str, Path]:
    """Return the image files that a pattern, folder or file name refers to, by the name to pair them by.

    Arrays (.npy) are used only if the pattern names them, since label tools write some beside their images. A single
    file has the name "". Leading folders that exist are taken literally, whatever characters they contain.
    """
    base, pattern = existing_part(word, root)
    if not pattern and not base.is_dir():
        return {"": require_regular(base)}
    if pattern and not is_pattern(pattern):
        path = base.joinpath(*pattern)
        raise UserError(f"{source}: {path} does not exist: expected a file, a folder, or a pattern with *")
    files = matching_files(base, pattern) if pattern else files_below(base)
    suffixes = (ARRAY_SUFFIX,) if word.lower().endswith(ARRAY_SUFFIX) else SUFFIXES
    pictures = [p for p in files if p.suffix.lower() in suffixes]
    if not pictures:
        path = base.joinpath(*pattern)
        kinds = ", ".join(sorted({p.suffix for p in files}))
        raise UserError(
            f"{source}: {path} matches {len(files)} file(s) of other kinds ({kinds}), but no image file "
            f"({', '.join(SUFFIXES[:5])}, ...)"
            if files
            else f"{source}: {path} matches no file"
        )
    ending = ending_of(pattern)
    paths = [(composed(picture.relative_to(base).as_posix()), picture) for picture in pictures]
    named = [(os.path.splitext(path)[0].removesuffix(ending), picture) for path, picture in paths]
    return by_name(named, source, "rename one of them")


def ending_of(pattern: Sequence[str]) -> str:
    """Return the text between the * in a pattern's last part and the suffix; "" if there is more than one *."""
    before, star, after = composed(pattern[-1] if pattern else "").partition("*")
    plain = ESCAPED.sub("", before + after)
    if not star or is_pattern([plain]):
        return ""
    return os.path.splitext(f"x{ESCAPED.sub(lambda found: found[1], after)}")[0][1:]


def merged(parts: Sequence[dict[str, Path]], source: str) -> dict[str, Path]:
    """Return the files of several patterns merged; a single file is named by its stem."""
    named = [(key or composed(path.stem), path) for part in parts for key, path in part.items()]
    return by_name(named, source, "give as many image patterns as label patterns, which are then paired one by one")


def by_name(named: Iterable[tuple[str, Path]], source: str, advice: str) -> dict[str, Path]:
    """Return files by the names to pair them by; `UserError`, with `source` and `advice`, if two have the same name."""
    files: dict[str, Path] = {}
    for name, path in named:
        if (other := files.setdefault(name, path)) != path:
            raise UserError(f"{source}: {other} and {path} have the same name; {advice}")
    return files
