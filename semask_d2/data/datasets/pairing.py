"""Images and label files that belong together: found by patterns, folders or lists, paired by their names."""

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
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few
from semask_d2.utils.files import require_regular

logger = logging.getLogger(__name__)

ESCAPED = re.compile(r"\[([*?[])\]")  # a letter of patterns that stands for itself


class Problem(NamedTuple):
    """Something wrong with files, of one of check's kinds; `refused` where the labels of an image would be a guess.

    `sources` are the images it concerns, as `CocoLabels.source` calls them.
    """

    kind: str
    text: str
    refused: bool = False
    sources: tuple[str, ...] = ()


LEFT_OUT = ("annotation", "area")  # the kinds of problems whose annotations a training goes on without


def require_sound(problems: Sequence[Problem]) -> None:
    """Raise `UserError` with the first problems that leave labels unknown; log a count of annotations left out."""
    if refused := [problem.text for problem in problems if problem.refused]:
        raise UserError(f"{few(refused, '; ')}; semask check lists all")
    if left_out := [problem.text for problem in problems if problem.kind in LEFT_OUT]:
        logger.warning("%d annotation(s) left out (semask check lists all): %s", len(left_out), few(left_out, "; "))


@dataclass
class Pairing:
    """Files by patterns: pairs (image, label file) in the order of their names, files without a partner, problems."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    unlabeled: list[Path] = field(default_factory=list)
    imageless: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: Pairing) -> None:
        """Take the files of another one as well."""
        self.pairs += other.pairs
        self.unlabeled += other.unlabeled
        self.imageless += other.imageless
        self.problems += other.problems

    def require_whole(self, source: str) -> None:
        """Raise UserError with the first problems, and files that have no partner; `source` names the split."""
        require_sound(self.problems)
        complaints = []
        if self.unlabeled:
            complaints.append(f"{len(self.unlabeled)} image(s) without a label file: {few(self.unlabeled)}")
        if self.imageless:
            complaints.append(f"{len(self.imageless)} label file(s) without an image: {few(self.imageless)}")
        if complaints:
            raise UserError(
                f"{source}: {'; '.join(complaints)}. Pairs have one name up to the ending; `semask check` lists all, "
                "and writes the good pairs with --list"
            )


def find_pairs(images: Sequence[str], labels: Sequence[str], root: Path, source: str) -> Pairing:
    """Return the pairs of patterns, folders or files below `root`; without `labels` the first of `images` lists pairs.

    Images and label files are paired by their path below the fixed part of their pattern, without the pattern's ending:
    folders within may hold equal names. As many patterns on both sides are paired one by one, those of one folder of
    labels, or of images, together; two lists of files are paired in their order. Where the files of one side are among
    those of the other, as x_mask.png is among *.png, they are of that side alone. Raises `UserError`, beginning with
    `source`, where a pattern matches nothing or two files have one name.
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
    """Return pairs of patterns, those that share one of images or of labels as one group."""
    groups: list[tuple[list[str], list[str]]] = []
    for image, label in zip(images, labels, strict=True):
        same = [group for group in groups if image in group[0] or label in group[1]]
        joined = ([*(x for group in same for x in group[0]), image], [*(x for group in same for x in group[1]), label])
        groups = [group for group in groups if group not in same] + [joined]
    return groups


def apart(images: dict[str, Path], labels: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return both sides, without the files of the other on the side that holds all of it and more."""
    of_images, of_labels = set(images.values()), set(labels.values())
    if of_labels < of_images:
        return {key: path for key, path in images.items() if path not in of_labels}, labels
    if of_images < of_labels:
        return images, {key: path for key, path in labels.items() if path not in of_images}
    return images, labels


def paired(images: dict[str, Path], labels: dict[str, Path]) -> Pairing:
    """Return the pairs of equal names, in their order, and what has no partner.

    Labels may be named by the whole name of their image, as a.jpg.png by a.jpg.
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
    """Return what a list says of one image, or of one label map, several times."""
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
    """Return whether an entry was the name of a single file."""
    return list(files) == [""]


def expand(word: str, root: Path, source: str) -> dict[str, Path]:
    """Return the picture files that a pattern, folder or file name means, by the name to pair them by ("" for a file).

    The part of a pattern that is there, with `root`, is no pattern, whatever letters are in it.
    """
    base, pattern = existing_part(word, root)
    if not pattern and not base.is_dir():
        return {"": require_regular(base)}
    if pattern and not is_pattern(pattern):
        path = base.joinpath(*pattern)
        raise UserError(f"{source}: {path} does not exist: expected a file, a folder, or a pattern with *")
    files = matching_files(base, pattern) if pattern else files_below(base)
    pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not pictures:
        path = base.joinpath(*pattern)
        kinds = ", ".join(sorted({p.suffix for p in files}))
        raise UserError(
            f"{source}: {path} matches {len(files)} file(s) of other kinds ({kinds}), and no picture "
            f"({', '.join(SUFFIXES[:5])}, ...)"
            if files
            else f"{source}: {path} matches no file"
        )
    ending = ending_of(pattern)
    paths = [(composed(picture.relative_to(base).as_posix()), picture) for picture in pictures]
    named = [(os.path.splitext(path)[0].removesuffix(ending), picture) for path, picture in paths]
    return by_name(named, source, "rename one of them")


def ending_of(pattern: Sequence[str]) -> str:
    """Return the letters between the * of a pattern's last part and the suffix; "" where there is more than one *."""
    before, star, after = composed(pattern[-1] if pattern else "").partition("*")
    plain = ESCAPED.sub("", before + after)
    if not star or is_pattern([plain]):
        return ""
    return os.path.splitext(f"x{ESCAPED.sub(lambda found: found[1], after)}")[0][1:]


def merged(parts: Sequence[dict[str, Path]], source: str) -> dict[str, Path]:
    """Return the files of several patterns together; a single file goes by its stem."""
    named = [(key or composed(path.stem), path) for part in parts for key, path in part.items()]
    return by_name(named, source, "give as many patterns of images as of labels, which are paired one by one")


def by_name(named: Iterable[tuple[str, Path]], source: str, advice: str) -> dict[str, Path]:
    """Return files by the names to pair them by; `UserError`, with `source` and `advice`, where two have one name."""
    files: dict[str, Path] = {}
    for name, path in named:
        if (other := files.setdefault(name, path)) != path:
            raise UserError(f"{source}: {other} and {path} have one name; {advice}")
    return files
