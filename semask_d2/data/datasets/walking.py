"""Listing the files in a folder or matching a pattern, by the same rules for all datasets.

Links to folders are followed, and each real folder is visited once. Hidden files and anything but regular files are
skipped. Names are compared in one Unicode form, because systems such as macOS store accented letters differently.
"""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from semask_d2.data.rasters import ARRAY_SUFFIX
from semask_d2.utils.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
MAGIC = "*?["  # a name with one of these is a pattern, unless a file has exactly that name
ANY_FOLDERS = "**"


def composed(name: str) -> str:
    """Return a name in the Unicode form used for comparisons."""
    return unicodedata.normalize("NFC", name)


def files_below(folder: str | os.PathLike, depth: int | None = None) -> list[Path]:
    """Return the regular files below `folder`, ordered by path, down to `depth` levels of folders.

    A `depth` of 1 means `folder` alone. A folder with several links to it is listed under its real path if that is
    below `folder`, else under the first link. Links to a parent of `folder` are skipped. Raises `UserError` for a
    folder that cannot be listed.
    """
    home = os.path.realpath(folder)
    folders, links = deque([(Path(folder), 1)]), deque[tuple[Path, int]]()
    taken: set[str] = set()
    files = []
    while folders or links:
        place, level = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(place)
        if real in taken or (real != home and os.path.commonpath([real, home]) == real):
            continue
        taken.add(real)
        try:
            entries = sorted(os.scandir(place), key=lambda x: x.name)
        except OSError as error:
            raise UserError(f"folder {place} cannot be listed: {error.strerror}") from None
        for entry in entries:
            if entry.name[0] == ".":
                continue
            if entry.is_file():
                files.append(place / entry.name)
            elif entry.is_dir() and (depth is None or level < depth):
                (links if entry.is_symlink() else folders).append((place / entry.name, level + 1))
    return sorted(files)


def existing_part(word: str, root: Path) -> tuple[Path, tuple[str, ...]]:
    """Split a path or pattern into the longest leading path that exists, and the remaining parts.

    `root` itself is never a pattern. Backslashes as in Windows, and ~, are expanded unless a file has such a name.
    """
    if not os.path.lexists(root / word.split("/")[0]):
        word = os.path.expanduser(word.replace("\\", "/"))
    path = Path(os.path.abspath(root / word))
    base = Path(path.parts[0])
    for number, part in enumerate(path.parts[1:], start=1):
        child = child_named(base, part)
        if child is None:
            return base, path.parts[number:]
        base = child
    return base, ()


def child_named(folder: Path, name: str) -> Path | None:
    """Return the file or folder with this name in `folder`, in any Unicode form; None if there is none."""
    if os.path.exists(folder / name):
        return folder / name
    if name.isascii() or not os.path.isdir(folder):
        return None
    return next((folder / other for other in sorted(os.listdir(folder)) if composed(other) == composed(name)), None)


def is_pattern(parts: Sequence[str]) -> bool:
    """Return whether any of the names is a pattern."""
    return any(letter in part for part in parts for letter in MAGIC)


def matching_files(base: Path, pattern: Sequence[str]) -> list[Path]:
    """Return the files below `base` whose relative path matches `pattern`, in which ** matches any number of folders.

    Image suffixes match in lower and upper case.
    """
    pattern = [composed(part) for part in pattern]
    pattern[-1] = small_suffix(pattern[-1])
    depth = None if ANY_FOLDERS in pattern else len(pattern)
    return [path for path in files_below(base, depth) if fits(path.relative_to(base).parts, pattern)]


def fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match the parts of a pattern."""
    names = [*map(composed, parts[:-1]), small_suffix(composed(parts[-1]))]
    reached = {0}  # possible numbers of pattern parts matched so far
    for name in names:
        reached = after_any_folders(reached, pattern)
        reached = {
            at if pattern[at] == ANY_FOLDERS else at + 1
            for at in reached
            if at < len(pattern) and (pattern[at] == ANY_FOLDERS or fnmatchcase(name, pattern[at]))
        }
    return len(pattern) in after_any_folders(reached, pattern)


def after_any_folders(reached: set[int], pattern: Sequence[str]) -> set[int]:
    """Return `reached` with the positions after each ** added, as ** may match no folder."""
    result = set(reached)
    for at, part in enumerate(pattern):
        if at in result and part == ANY_FOLDERS:
            result.add(at + 1)
    return result


def small_suffix(name: str) -> str:
    """Return a name with its image suffix, if any, in lower case."""
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower() if suffix.lower() in (*SUFFIXES, ARRAY_SUFFIX) else name


def stem_of(place: str) -> str:
    """Return a composed path without its image suffixes, such as "a" for a.jpg.png."""
    stem, suffix = os.path.splitext(composed(place))
    return stem_of(stem) if suffix.lower() in (*SUFFIXES, ARRAY_SUFFIX) else stem + suffix
