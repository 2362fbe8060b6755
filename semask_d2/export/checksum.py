"""Checksum in the metadata of an exported file, so that a damaged file is rejected instead of run.

It is the SHA-256 of the bytes of the file, with its own digits counted as zeros. For the two files of OpenVINO it
covers the XML, then the weights. A program of torch.export is a zip archive: it covers the metadata, then the name and
content of each other member, in the order of names.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import re
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from semask_d2.utils.errors import UserError

FIELD = "sha256"
BLANK = "0" * 64  # placeholder in the metadata until the file is written
NAME = FIELD.encode()
DIGITS = re.compile(NAME + rb'(?:"|&quot;): ?(?:"|&quot;)([0-9a-f]{64})(?:"|&quot;)')  # in JSON, or JSON within XML
Bytes = bytes | mmap.mmap


def seal(paths: Sequence[Path]) -> None:
    """Write the checksum of an exported file (all of its `paths`) over BLANK in the first of them."""
    place, digits = _digest_of_files(paths)
    assert place is not None, f"{paths[0]}: no checksum field in the metadata"
    with open(paths[0], "r+b") as file:
        file.seek(place)
        file.write(digits)


def verify(paths: Sequence[Path], source: str | os.PathLike) -> bool:
    """Return whether an exported file (all of its `paths`) has a checksum; `UserError` naming `source` if wrong."""
    place, digits = _digest_of_files(paths)
    if place is None:
        return False
    with open(paths[0], "rb") as file:
        file.seek(place)
        _require_equal(file.read(len(digits)), digits, source)
    return True


def sealed_archive(data: bytes, member: str) -> bytes:
    """Rewrite a zip archive without compression, with its checksum in the metadata `member`."""
    members = _members(data, member)
    place, digits = _digest(_parts(members))
    assert place is not None, f"no checksum field in {member}"
    name, metadata = members[0]
    members[0] = (name, metadata[:place] + digits + metadata[place + len(digits) :])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def verify_archive(path: Path, member: str) -> None:
    """Raise `UserError` if an archive written by `sealed_archive` has changed."""
    try:
        members = _members(path.read_bytes(), member)
    except Exception as error:  # zipfile passes on errors of many types
        raise _damaged(path) from error
    place, digits = _digest(_parts(members))
    if place is None:
        raise UserError(f"{path}: has no checksum; export it again with semask export")
    _require_equal(members[0][1][place : place + len(digits)], digits, path)


def _require_equal(written: bytes, digits: bytes, source: str | os.PathLike) -> None:
    if written != digits:
        raise _damaged(source)


def _damaged(source: str | os.PathLike) -> UserError:
    return UserError(f"{source}: damaged (wrong checksum); copy the file again, or export it again with semask export")


def _digest_of_files(paths: Sequence[Path]) -> tuple[int | None, bytes]:
    with ExitStack() as stack:
        parts: list[Bytes] = []
        for path in paths:
            file = stack.enter_context(open(path, "rb"))
            empty = os.fstat(file.fileno()).st_size == 0  # an empty file cannot be mapped
            parts.append(b"" if empty else stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        return _digest(parts)


def _digest(parts: Sequence[Bytes]) -> tuple[int | None, bytes]:
    """Return the position of the single checksum in the first of `parts`, or None, and the correct digits."""
    first, *others = parts
    places, at = [], first.find(NAME)
    while at >= 0:
        if (match := DIGITS.match(first, at)) is not None:
            places.append(match.start(1))
        at = first.find(NAME, at + 1)
    if len(places) != 1:
        return None, b""
    digest = hashlib.sha256()
    with memoryview(first) as view:
        digest.update(view[: places[0]])
        digest.update(BLANK.encode())
        digest.update(view[places[0] + len(BLANK) :])
    for part in others:
        digest.update(part)
    return places[0], digest.hexdigest().encode()


def _members(data: bytes, member: str) -> list[tuple[str, bytes]]:
    """Return names and contents of the members of an archive, with the metadata first."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = sorted(archive.namelist(), key=lambda name: (not name.endswith(member), name))
        return [(name, archive.read(name)) for name in names]


def _parts(members: Sequence[tuple[str, bytes]]) -> list[Bytes]:
    (_, metadata), *others = members
    return [metadata, *(part for name, content in others for part in (name.encode(), content))]
