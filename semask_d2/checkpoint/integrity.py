"""Whether a weight file is as it was written: the checksums of torch's zip files, and one of our own in safetensors."""

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
ZIP_END_SIZE = 22  # without a comment, and torch writes none
NO_CHECKSUM = "crc32:00000000"
CHECKSUM = re.compile(r"crc32:[0-9a-f]{8}")


class Damaged(Exception):
    """A file is not what was written; the text says by which sign."""


class Unsound(Exception):
    """A file that its format's own writer would not write; the text says why."""


def check_torch_file(file: str | os.PathLike | IO[bytes]) -> None:
    """Raise `Unsound` or `Damaged` unless a zip of torch's is uncompressed and its members have their checksums.

    Of a torch file of either format, raise `pickle.UnpicklingError` where its pickle would overflow the stack.
    """
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return check_torch_file(opened)
    start = file.read(len(ZIP_START))
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ZIP_END_SIZE))
    end = file.read()
    file.seek(0)
    if start == ZIP_START:  # what torch goes by
        if not end.startswith(ZIP_END) or not end.endswith(b"\0\0"):  # else readers may see different members
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
    """As `check_torch_file`, for a zip file of this size."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(x.compress_type != zipfile.ZIP_STORED or x.compress_size != x.file_size for x in members):
            raise Unsound("it is compressed, as PyTorch never writes it; unpack it and save it again with torch.save")
        if sum(member.file_size for member in members) > size:
            raise Unsound("its parts are larger than the file")
        has_checksums = any(member.CRC for member in members)  # PyTorch can be told to write none
        for member in members:
            if not has_checksums:
                member.CRC = None  # which zipfile does not compare
            with archive.open(member) as part:
                if member.filename.lower().endswith("data.pkl"):
                    check_pickle(part.read())
                while part.read(CHUNK):  # raises at the end of a part with another checksum
                    pass


def with_checksum(content: bytes) -> Iterable[bytes | memoryview]:
    """The parts to write of a safetensors file whose header holds `NO_CHECKSUM`, with the checksum in its place."""
    stop = 8 + int.from_bytes(content[:8], "little")
    checksum = f"crc32:{zlib.crc32(content):08x}"
    head, found, tail = content[:stop].rpartition(NO_CHECKSUM.encode())
    assert found, "the header has a place for the checksum"
    return head, checksum.encode(), tail, memoryview(content)[stop:]


def check_safetensors(path: str | os.PathLike, header: dict) -> None:
    """Raise `Damaged` unless the file has the checksum that `header`, what `saving` left in it, names, if any."""
    if "checksum" not in header:
        return
    expected = header["checksum"]
    if not isinstance(expected, str) or not CHECKSUM.fullmatch(expected):
        raise Damaged("its checksum is no checksum")
    with open(path, "rb") as file:
        size = file.read(8)
        head = file.read(int.from_bytes(size, "little"))
        before, _, after = head.rpartition(expected.encode())
        found = zlib.crc32(before + NO_CHECKSUM.encode() + after, zlib.crc32(size))
        while chunk := file.read(CHUNK):
            found = zlib.crc32(chunk, found)
    if expected != f"crc32:{found:08x}":
        raise Damaged(f"checksum {found:08x}, written with {expected.removeprefix('crc32:')}")


def header_of(metadata: dict[str, str] | None) -> dict:
    """What `saving` left in the metadata of a safetensors file; empty where it is none of ours."""
    header = json.loads((metadata or {}).get("semask_d2", "{}"))
    if not isinstance(header, dict):
        raise Damaged("its header holds no dict")
    return header
