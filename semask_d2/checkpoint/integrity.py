"""Integrity checks of weight files: the checksums of torch's zip files, and a checksum of ours in safetensors."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO

from semask_d2.checkpoint.nesting import check_legacy, check_pickle

CHUNK = 2**20
ZIP_START = b"PK\x03\x04"
ZIP_END = b"PK\x05\x06"
ZIP_END_SIZE = 22  # without a comment, which torch does not write
NO_CHECKSUM = "crc32:00000000"
CHECKSUM = re.compile(r"crc32:[0-9a-f]{8}")


class Damaged(Exception):
    """Error for a file whose content was changed after writing; the text says how that shows."""


class Unsound(Exception):
    """Error for a file that its format's regular writer would not produce; the text says why."""


def check_torch_file(file: str | os.PathLike | IO[bytes]) -> None:
    """Raise `Unsound` if a torch zip file is compressed, `Damaged` if a checksum in it is wrong.

    For torch files of either format, raise `pickle.UnpicklingError` if the pickle would overflow the stack.
    """
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return check_torch_file(opened)
    start = file.read(len(ZIP_START))
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ZIP_END_SIZE))
    end = file.read()
    file.seek(0)
    if start == ZIP_START:  # the criterion of torch
        if not end.startswith(ZIP_END) or not end.endswith(b"\0\0"):  # otherwise readers may see different members
            raise Damaged("its end is missing")
        try:
            check_members(file, size)
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise Damaged(f"checksum or table of contents: {error}") from error
    else:
        check_legacy(file)
    file.seek(0)
    return None


def check_members(file: IO[bytes], size: int) -> None:
    """Check a torch zip file of `size` bytes; raises the errors of `check_torch_file`."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(x.compress_type != zipfile.ZIP_STORED or x.compress_size != x.file_size for x in members):
            raise Unsound("it is compressed, which PyTorch never does; unpack it and save it again with torch.save")
        if sum(member.file_size for member in members) > size:
            raise Unsound("its parts are larger than the file")
        has_checksums = any(member.CRC for member in members)  # PyTorch can be configured to write none
        for member in members:
            if not has_checksums:
                member.CRC = None  # pyright: ignore[reportAttributeAccessIssue] - turns off zipfile's comparison
            with archive.open(member) as part:
                if member.filename.lower().endswith("data.pkl"):
                    check_pickle(part.read())
                while part.read(CHUNK):  # raises at the end of a part if its checksum is wrong
                    pass


def with_checksum(content: bytes) -> Iterable[bytes | memoryview]:
    """Return the parts to write of a safetensors file, with `NO_CHECKSUM` in its header replaced by its checksum."""
    stop = 8 + int.from_bytes(content[:8], "little")
    checksum = f"crc32:{zlib.crc32(content):08x}"
    head, placeholder, tail = content[:stop].rpartition(NO_CHECKSUM.encode())
    assert placeholder, "the header has a placeholder for the checksum"
    return head, checksum.encode(), tail, memoryview(content)[stop:]


def check_safetensors(path: str | os.PathLike, header: dict) -> None:
    """Raise `Damaged` if the file's checksum differs from the one in `header` (of `safetensors_header`), if any."""
    if "checksum" not in header:
        return
    expected = header["checksum"]
    if not isinstance(expected, str) or not CHECKSUM.fullmatch(expected):
        raise Damaged("its checksum entry is malformed")
    with open(path, "rb") as file:
        size = file.read(8)
        head = file.read(int.from_bytes(size, "little"))
        before, _, after = head.rpartition(expected.encode())
        actual = zlib.crc32(before + NO_CHECKSUM.encode() + after, zlib.crc32(size))
        while chunk := file.read(CHUNK):
            actual = zlib.crc32(chunk, actual)
    if expected != f"crc32:{actual:08x}":
        raise Damaged(f"checksum {actual:08x}, written with {expected.removeprefix('crc32:')}")


def safetensors_header(metadata: dict[str, str] | None) -> dict:
    """Return the header that `saving` wrote to the metadata of a safetensors file; empty for files of others."""
    header = json.loads((metadata or {}).get("semask_d2", "{}"))
    if not isinstance(header, dict):
        raise Damaged("its header is not a dict")
    return header
