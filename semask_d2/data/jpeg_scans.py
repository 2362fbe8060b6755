"""Counting of JPEG scans without decoding: a scan passes over the whole image, and can take just a few bytes."""

from __future__ import annotations

import re
from typing import IO

# A camera's file has one scan, a progressive file about ten. libtiff sets the same limit for JPEG data in TIFF files.
MAX_SCANS = 100
MAX_BYTES = 2**28  # read at most: more than a file of the largest permitted size in pixels
START_OF_SCAN, END_OF_IMAGE, TEMPORARY = 0xDA, 0xD9, 0x01
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
RESTART = range(0xD0, 0xD9)  # RST0 to RST7 and SOI, which have no payload


def count_scans(file: IO[bytes]) -> int:
    """Return the number of scans of the first image in a JPEG `file`, from its beginning.

    Counting stops above MAX_SCANS, so that a file with thousands of markers takes no longer.
    """
    file.seek(0)
    data = file.read(MAX_BYTES)
    bound = data.count(b"\xff\xda")  # quick upper bound: thumbnails, or bytes after the end, may hold such bytes, too
    return bound if bound <= MAX_SCANS else _count_by_markers(data)


def _count_by_markers(data: bytes) -> int:
    """Return the number of scans by following the markers as a decoder does."""
    scans = position = 0
    while scans <= MAX_SCANS and (match := MARKER.search(data, position)):
        marker, position = match[1][0], match.end()
        if marker == END_OF_IMAGE:
            break
        if marker in RESTART or marker == TEMPORARY:
            continue
        scans += marker == START_OF_SCAN
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return scans
