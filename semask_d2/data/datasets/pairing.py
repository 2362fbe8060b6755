"""Images and label files that belong together: found by patterns, folders or lists, paired by their names."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from semask_d2.utils.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
SHOWN = 3


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
    """What patterns gave: pairs (image, label file) in the order of their names, files without a partner, problems."""

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


def few(names: Iterable[object], separator: str = ", ") -> str:
    """Return the first of some names and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return separator.join(texts[:SHOWN]) + more


def find_pairs(images: Sequence[str], labels: Sequence[str], root: Path, source: str) -> Pairing:
    """The pairs of patterns, folders or files below `root`; without `labels` the first of `images` lists pairs.

    Images and label files are paired by their path below the fixed part of their pattern, without the pattern's ending:
    folders within may hold equal names. As many patterns on both sides are paired one by one, two lists of files in
    their order. Raises UserError, beginning with `source`, where a pattern matches nothing or two files have one name.
    """
    if not labels:
        return listed_pairs(root / images[0], root, source)
    files = [[expand(word, root, f"{source}: {kind}") for word in words] for kind, words in
             (("images", images), ("labels", labels))]  # fmt: skip
    if len(images) != len(labels):
        files = [[merged(found, f"{source}: {kind}")] for found, kind in zip(files, ("images", "labels"), strict=True)]
    result = Pairing()
    for of_images, of_labels in zip(*files, strict=True):
        if len(images) == len(labels) and is_file(of_images) and is_file(of_labels):
            result.add(Pairing([(*of_images.values(), *of_labels.values())]))  # type: ignore[list-item] - one of each
            continue
        both = sorted(of_images.keys() & of_labels.keys())
        result.add(
            Pairing(
                [(of_images[key], of_labels[key]) for key in both],
                [of_images[key] for key in sorted(of_images.keys() - of_labels.keys())],
                [of_labels[key] for key in sorted(of_labels.keys() - of_images.keys())],
            )
        )
    return result


def is_file(found: dict[str, Path]) -> bool:
    """Whether an entry was the name of a single file."""
    return list(found) == [""]


def expand(word: str, root: Path, source: str) -> dict[str, Path]:
    """The picture files that a pattern, folder or file name means, by the name to pair them by ("" for a file)."""
    path = Path(os.path.abspath(root / os.path.expanduser(word)))
    if path.is_file():
        return {"": path}
    if path.is_dir():
        base, ending, found = path, "", (p for p in path.rglob("*") if p.is_file())
    elif glob.has_magic(str(path)):
        magic = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        base = Path(*path.parts[:magic])
        before, star, after = path.name.partition("*")
        ending = after if star and not glob.has_magic(before + after) else ""
        found = map(Path, glob.glob(str(path), recursive=True))
    else:
        raise UserError(f"{source}: {path} does not exist: expected a file, a folder, or a pattern with *")
    files = sorted(p for p in found if p.name[0] != "." and p.is_file())
    pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not pictures:
        kinds = ", ".join(sorted({p.suffix for p in files}))
        raise UserError(
            f"{source}: {path} matches {len(files)} file(s) of other kinds ({kinds}), and no picture "
            f"({', '.join(SUFFIXES[:5])}, ...)"
            if files
            else f"{source}: {path} matches no file"
        )
    names: dict[str, Path] = {}
    for picture in pictures:
        place = picture.relative_to(base).as_posix()
        key = place.removesuffix(ending) if len(ending) > 1 else place
        key = os.path.splitext(key)[0] if key == place or "." not in ending else key
        if (other := names.setdefault(key, picture)) != picture:
            raise UserError(f"{source}: {other} and {picture} have one name; rename one of them")
    return names


def merged(found: list[dict[str, Path]], source: str) -> dict[str, Path]:
    """The files of several patterns together; a single file goes by its stem."""
    names: dict[str, Path] = {}
    for part in found:
        for key, path in part.items():
            key = key or path.stem
            if (other := names.setdefault(key, path)) != path:
                raise UserError(
                    f"{source}: {other} and {path} have one name; give as many patterns of images as of labels, which "
                    "are paired one by one"
                )
    return names


def listed_pairs(file: Path, root: Path, source: str) -> Pairing:
    """The pairs of a text file with an image, a tab and its label file in each line; paths start at `root`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: {file} cannot be read as a list of pairs: {error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.split("\t")
        if len(parts) != 2:
            raise UserError(f"{source}: {file}, line {number}: expected an image, a tab and its label file")
        pairs.append((root / parts[0].strip(), root / parts[1].strip()))
    if not pairs:
        raise UserError(f"{source}: {file} lists no pairs")
    return Pairing(pairs)
