"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from semask_d2.utils.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
PROBE_BYTES = 2**20


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    `mode` is "w" (UTF-8 text) or "wb". On an error the temporary file is removed and an older `path` stays as it was.
    Raises `UserError` where the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(descriptor, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide the file from the user's group
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if _disk_is_full(error):
            raise UserError(f"{path}: not written, the disk is full; make room or choose another folder") from error
        raise


def require_writable(folder: str | os.PathLike, key: str) -> None:
    """Make `folder` where it is missing; `UserError`, naming the setting `key`, if it takes no file of 1 MB."""
    probe = Path(folder, ".writable")
    try:
        with atomic_write(probe, "wb") as file:
            file.write(bytes(PROBE_BYTES))
        probe.unlink()
    except UserError as error:
        raise UserError(f"{key} {folder}: the disk is full; make room or choose another folder") from error
    except OSError as error:
        raise UserError(f"{key} {folder}: cannot be written to: {error.strerror}; choose another folder") from error


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error; torch.save raises another one on its way out."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
