"""The scans of a JPEG file, counted without decoding: each goes over the whole picture, and takes a few bytes."""

from __future__ import annotations

import re
from typing import IO

# A camera's file has one, a progressive one about ten. libtiff has the same limit for the JPEG data within a TIFF file.
MAX_SCANS = 100
MAX_BYTES = 2**28  # that are looked at: a file of the largest size in pixels ends before
START_OF_SCAN, END_OF_IMAGE, TEMPORARY = 0xDA, 0xD9, 0x01
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
RESTART = range(0xD0, 0xD9)  # RST0 to RST7 and SOI, which have no content


def count_scans(file: IO[bytes]) -> int:
    """Return the number of scans of the first picture in a JPEG `file`, from its beginning.

    Where thousands of markers would have to be followed, counting ends above MAX_SCANS.
    """
    file.seek(0)
    data = file.read(MAX_BYTES)
    most = data.count(b"\xff\xda")  # quick; more than there are where such bytes lie in a thumbnail or after the end
    return most if most <= MAX_SCANS else _followed(data)


def _followed(data: bytes) -> int:
    """Return the number of scans, by following the markers as a decoder does."""
    scans = position = 0
    while scans <= MAX_SCANS and (found := MARKER.search(data, position)):
        marker, position = found[1][0], found.end()
        if marker == END_OF_IMAGE:
            break
        if marker in RESTART or marker == TEMPORARY:
            continue
        scans += marker == START_OF_SCAN
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return scans
