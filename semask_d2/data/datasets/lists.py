"""Text files that list pairs: an image, a tab and its label file on each line."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from semask_d2.data.datasets.walking import existing_part
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.foreign import shown

COMMENT, QUOTE = "#", '"'
LINE_END = re.compile(r"\r\n|\r|\n")


def listed_pairs(file: Path, root: Path, source: str) -> list[tuple[Path, Path]]:
    """Return the pairs of a list; paths are relative to `root`.

    Accepts byte-order marks, UTF-16, backslashes, the line ends of all systems, comments, and quoted names as written
    by `list_line`.
    """
    try:
        content = require_regular(file).read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = LINE_END.split(content.decode("utf-16" if is_wide else "utf-8-sig"))
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"{source}: {file} cannot be read as a list of pairs: {error}; expected text in UTF-8"
        ) from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        parts = [part.strip() for part in line.split("\t")]
        is_comment = line.startswith(COMMENT) and not exists(parts[0], root)
        if not line.strip() or is_comment:
            continue
        if "\0" in line:
            raise UserError(f"{source}: {file}, line {number} holds null characters: save it as text in UTF-8")
        if len(parts) != 2:
            raise UserError(
                f"{source}: {file}, line {number}: expected an image, a tab and its label file, got {shown(line)}"
            )
        image, label = (listed_path(part, root) for part in parts)
        pairs.append((image, label))
    if not pairs:
        raise UserError(f"{source}: {file} lists no pairs")
    return pairs


def exists(word: str, root: Path) -> bool:
    """Return whether a file or folder with this name exists."""
    return "\0" not in word and not existing_part(word, root)[1]


def listed_path(word: str, root: Path) -> Path:
    """Return the path that a name in a list refers to; a quoted name is read as JSON unless such a file exists."""
    if len(word) > 1 and word[0] == word[-1] == QUOTE and not exists(word, root):
        with suppress(ValueError):
            word = json.loads(word)
    base, rest = existing_part(word, root)
    return base.joinpath(*rest)


def list_line(paths: Iterable[str | os.PathLike], root: Path) -> str:
    """Return the line of a list for the paths of a pair, relative to `root` if they are inside it."""
    return "\t".join(as_listed(relative(Path(path), root)) for path in paths) + "\n"


def as_listed(name: str) -> str:
    """Return a name as written in a list, quoted if it would otherwise be misread."""
    is_plain = name == name.strip() and name.isprintable() and name[0] not in (COMMENT, QUOTE) and "\\" not in name
    return name if is_plain else json.dumps(name, ensure_ascii=False)


def relative(path: Path, root: Path) -> str:
    """Return a path relative to `root` if it is inside it, else an absolute path."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else os.path.abspath(path)
