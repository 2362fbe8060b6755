"""Atomic writing of files, so that no reader and no crash leaves half a file, and checks of the files to read."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path
from typing import IO

from semask_d2.utils.errors import UnreadableFile, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO, errno.EROFS, errno.EFBIG)  # failures of the disk or the file system, for any file
PROBE_BYTES = 2**20
MAX_NAME_BYTES = 200  # of a file or folder name, which leaves room for an ending
MARK = ".semask-tmp"
DESCRIPTOR = re.compile(r"/dev/(std(in|out|err)|fd/.+)|/proc/.+")  # names of a program's open files
TEMPORARY = re.compile(rf"\..+{re.escape(MARK)}(\.\w+)?", re.DOTALL)
NAME_BYTES = 100  # of the target's name within the temporary name, so that both fit in 143 bytes (eCryptfs)


def require_regular(path: str | os.PathLike, source: str = "") -> Path:
    """Return `path`; raises `UnreadableFile` if it is not a regular file (or a link to one) or not a valid file name.

    Reading a FIFO could block forever, and a device may have no end. A missing file is left for `open` to report.
    `source` names the file in messages; the default is its path.
    """
    source = source or os.fspath(path)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return Path(path)
    except ValueError as error:
        raise UnreadableFile(f"{source!r}: not a file name: {error}") from error
    if stat.S_ISDIR(mode):
        raise UnreadableFile(f"{source}: expected a file, this is a folder")
    if not stat.S_ISREG(mode):
        raise UnreadableFile(f"{source}: not a regular file (a device, pipe or socket); save its content as a file")
    return Path(path)


def folder_name(name: str, source: str, ending: str = "") -> str:
    """Return `name` if it is a valid name for a file or folder, without path separators.

    Raises `UserError`, starting with `source`, for any other name, or if `name` is too long to append `ending`.
    """
    longest = MAX_NAME_BYTES - len(os.fsencode(ending))
    is_path = "/" in name or "\\" in name or name.strip() in ("", ".", "..")
    if is_path or not name.isprintable() or len(os.fsencode(name)) > longest:
        raise UserError(
            f"{source}: {name[:60]!r} is not a plain name; expected one without slashes and control characters, not . "
            f"or .., of at most {longest} bytes"
        )
    return name


class UnwritableFile(UserError, OSError):
    """Error for a file that the system refuses to write; `errno` and `strerror` are the system's, if it gave any."""

    def __init__(self, message: str, cause: OSError | None = None):
        super().__init__(message)
        if cause is not None:
            self.errno, self.strerror = cause.errno, cause.strerror or str(cause)

    def __str__(self) -> str:
        return self.args[0]


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    If `path` is a link, its target is written and the link is kept. A device or pipe is written to, not replaced.
    `mode` is "w" (UTF-8 text) or "wb". After an error the temporary file is removed and `path` is unchanged. Raises
    `UnwritableFile` if the system refuses to write; errors about other files are raised unchanged.
    """
    # file names in the content may contain bytes that are not valid text, which are escaped as \udcff
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    with temporary_beside(path) as temporary:
        with open(temporary, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)


@contextmanager
def temporary_beside(path: str | os.PathLike, suffix: str = "") -> Iterator[Path]:
    """Create an empty temporary file in the folder of `path`, creating that folder if needed; removed after the block.

    For a link the file is created beside the link's target, for a device or pipe in the system's temporary folder. Its
    name ends in MARK and `suffix`. Raises the errors of `atomic_write`, also if `path` is a folder.
    """
    path = Path(path)
    temporary = None
    try:
        if is_written_through(path):
            folder = Path(tempfile.gettempdir())
        else:
            folder = Path(os.path.realpath(path)).parent
            folder.mkdir(parents=True, exist_ok=True)
        name = path.name.encode(errors="ignore")[:NAME_BYTES].decode(errors="ignore")
        descriptor, file = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=MARK + suffix)
        os.close(descriptor)
        temporary = Path(file)
        yield temporary
    except Exception as error:
        if (refused := unwritable(path, error)) is not None:
            raise refused from error
        raise
    finally:
        if temporary is not None:
            with suppress(OSError):  # already renamed on success; a failing disk has been reported
                temporary.unlink(missing_ok=True)


def put_in_place(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Rename a complete temporary file to `path`, with the default permissions of a new file.

    Links, devices and pipes are handled as in `atomic_write`.
    """
    if is_written_through(path):
        return _copy_through(temporary, path)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide the file from the user's group
    os.replace(temporary, os.path.realpath(path))
    return None


def is_written_through(path: str | os.PathLike) -> bool:
    """Return whether `path` is a device, a pipe or an open descriptor, which renaming a file to it would remove.

    Raises `UnwritableFile` for a disk, and `OSError` for a folder or circular links.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise UnwritableFile(f"{os.fspath(path)!r}: cannot be written: not a file name: {error}") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "there is a folder with this name", os.fspath(path))
    if stat.S_ISBLK(mode):
        raise UnwritableFile(f"{path}: cannot be written: it is a disk; name a file")
    return not stat.S_ISREG(mode) or DESCRIPTOR.fullmatch(os.path.abspath(path)) is not None


def _copy_through(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Append the content of `source` to a device, pipe or descriptor."""
    try:  # without O_NONBLOCK, opening a pipe that nobody reads would block
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise UnwritableFile(f"{path}: cannot be written: nobody reads it; start its reader, or name a file") from error
    os.set_blocking(descriptor, True)
    with open(source, "rb") as content, open(descriptor, "wb") as target:
        shutil.copyfileobj(content, target)


def unwritable(path: Path, error: BaseException) -> UnwritableFile | None:
    """Return the error to raise if `error` is, or was caused by, the system's refusal to write `path`; else None."""
    cause: BaseException | None = None if isinstance(error, UserError) else error
    while cause is not None:
        # torch.save raises another error after an OSError, but not every OSError in the chain is the reason
        is_reason = cause is error or (isinstance(cause, OSError) and cause.errno in FULL + BROKEN)
        if isinstance(cause, OSError) and is_reason and _concerns(path, cause):
            break
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if cause.errno in FULL:
        return UnwritableFile(f"{path}: not written, the disk is full; make room or choose another folder", cause)
    if cause.errno == errno.ENAMETOOLONG:
        advice = "choose a shorter name"
    else:
        advice = "check that its folder exists and is writable, or choose another"
    reason = cause.strerror or str(cause) or type(cause).__name__
    return UnwritableFile(f"{path}: cannot be written: {reason}; {advice}", cause)


def _concerns(path: Path, error: OSError) -> bool:
    """Return whether an error is about `path`, its folders or its temporary file, and does not name another file."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    file = Path(os.fsdecode(error.filename))
    if TEMPORARY.fullmatch(file.name):
        return True
    return any(file == name or file in name.parents for name in (path, Path(os.path.realpath(path))))


def require_writable(folder: str | os.PathLike, key: str) -> None:
    """Create `folder` if needed; raises `UserError`, naming the setting `key`, if it cannot hold a file of 1 MB."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor, probe = tempfile.mkstemp(dir=folder, prefix=".writable.", suffix=MARK)
        try:
            with open(descriptor, "wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            os.unlink(probe)
    except ValueError as error:
        raise UserError(f"{key} {os.fspath(folder)!r}: not a folder name: {error}") from error
    except OSError as error:
        if error.errno in FULL:
            raise UserError(f"{key} {folder}: the disk is full; make room or choose another folder") from error
        raise UserError(f"{key} {folder}: cannot be written to: {error.strerror}; choose another folder") from error


def require_enclosed(folder: str | os.PathLike, patterns: Iterable[str]) -> None:
    """Raise `UserError` if a path in `folder` that matches one of `patterns` is a link that leads out of the folder.

    The folder may come from a stranger, and files written to it must stay inside.
    """
    home = os.path.realpath(folder)
    paths = [Path(folder, pattern) for pattern in patterns if not has_magic(pattern)]  # glob omits dangling links
    paths += [path for pattern in patterns if has_magic(pattern) for path in Path(folder).glob(pattern)]
    for path in paths:
        target = os.path.realpath(path)
        if os.path.commonpath([home, target]) != home:
            raise UserError(
                f"{path} is a link that leads out of its folder, to {target}, and would be written to; remove the link"
            )


def move_aside(folder: str | os.PathLike, paths: Iterable[Path]) -> Path:
    """Move `paths`, which are inside `folder`, to its first unused subfolder `previous_N`, and return that subfolder.

    The paths keep their places within subfolders; subfolders that become empty are removed.
    """
    number = 1
    while os.path.lexists(target := Path(folder, f"previous_{number}")):
        number += 1
    target.mkdir()
    for path in paths:
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
        with suppress(OSError):  # a folder that is not empty is kept
            for parent in path.relative_to(folder).parents[:-1]:
                Path(folder, parent).rmdir()
    return target


def remove_stale(folder: str | os.PathLike, older_than_seconds: float = 3600) -> list[Path]:
    """Delete temporary files that killed programs left in `folder` (not in its subfolders), and return their paths.

    Only files with the names of `temporary_beside` that have not been written to for `older_than_seconds` are deleted.
    Files that cannot be deleted are skipped.
    """
    removed = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not TEMPORARY.fullmatch(entry.name):
                continue
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > older_than_seconds:
                    os.unlink(entry.path)
                    removed.append(Path(entry.path))
    return removed
