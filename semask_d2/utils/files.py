"""Writing files so that a reader, or a crash, never meets half of one, and which files may be read at all."""

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
BROKEN = (errno.EIO, errno.EROFS, errno.EFBIG)  # of the disk or the file system, whatever was being written
PROBE_BYTES = 2**20
MAX_NAME_BYTES = 200  # of a name that becomes a folder's or a file's, with room for an ending
MARK = ".semask-tmp"
DESCRIPTOR = re.compile(r"/dev/(std(in|out|err)|fd/.+)|/proc/.+")  # names of what a program has open
TEMPORARY = re.compile(rf"\..+{re.escape(MARK)}(\.\w+)?", re.DOTALL)
NAME_BYTES = 100  # of the target's name in the temporary file's: both fit where names have at most 143 bytes


def require_regular(path: str | os.PathLike, source: str = "") -> Path:
    """Return `path`; `UnreadableFile` where it is there and no regular file, or a link to one, or is no file name.

    A FIFO would be waited for without end, and a device may have no end. A missing file is left for `open` to report.
    `source` is how a message calls the file, by default its path.
    """
    source = source or os.fspath(path)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return Path(path)
    except ValueError as error:
        raise UnreadableFile(f"{source!r}: no file name: {error}") from error
    if stat.S_ISDIR(mode):
        raise UnreadableFile(f"{source}: expected a file, this is a folder")
    if not stat.S_ISREG(mode):
        raise UnreadableFile(f"{source}: not a regular file (a device, pipe or socket); save its content as a file")
    return Path(path)


def folder_name(name: str, source: str, ending: str = "") -> str:
    """Return `name` where it can be that of a folder or file inside another folder: one plain part of a path.

    Raises `UserError`, which begins with `source`, for any other, or one too long to be followed by `ending`.
    """
    longest = MAX_NAME_BYTES - len(os.fsencode(ending))
    is_path = "/" in name or "\\" in name or name.strip() in ("", ".", "..")
    if is_path or not name.isprintable() or len(os.fsencode(name)) > longest:
        raise UserError(
            f"{source}: {name[:60]!r} is no plain name; expected one without slashes and control characters, not . "
            f"or .., of at most {longest} bytes"
        )
    return name


class UnwritableFile(UserError, OSError):
    """A file that the system does not let us write; `errno` and `strerror` are the system's, where it gave any."""

    def __init__(self, message: str, cause: OSError | None = None):
        super().__init__(message)
        if cause is not None:
            self.errno, self.strerror = cause.errno, cause.strerror or str(cause)

    def __str__(self) -> str:
        return self.args[0]


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    A link at `path` stays, and the file that it leads to is written. A device or pipe is written to, not replaced.
    `mode` is "w" (UTF-8 text) or "wb". On an error the temporary file is removed and an older `path` stays as it was.
    Raises `UnwritableFile` where the system refuses; errors of other files, which name them, pass as they are.
    """
    # a file's name need not be text: what no encoding has is spelled out, as \udcff
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    with temporary_beside(path) as temporary:
        with open(temporary, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)


@contextmanager
def temporary_beside(path: str | os.PathLike, suffix: str = "") -> Iterator[Path]:
    """An empty temporary file in the folder of `path`, which is made where it is missing; removed after the block.

    That of a link is beside the file that it leads to, that of a device or pipe in the folder for temporary files. Its
    name ends in MARK and `suffix`. Errors are those of `atomic_write`; a folder at `path` is one.
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
            with suppress(OSError):  # gone by now if all went well, and of no interest if the disk is
                temporary.unlink(missing_ok=True)


def put_in_place(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Rename a temporary file that is written out to `path`, with the permissions of any new file.

    Links and what is no file are treated as `atomic_write` says.
    """
    if is_written_through(path):
        return _copy_through(temporary, path)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide the file from the user's group
    os.replace(temporary, os.path.realpath(path))
    return None


def is_written_through(path: str | os.PathLike) -> bool:
    """Return whether there is a device, a pipe or an open descriptor at `path`: renaming a file to it would remove it.

    Raises `UnwritableFile` for a disk, `OSError` for a folder or links in a circle.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise UnwritableFile(f"{os.fspath(path)!r}: cannot be written: no file name: {error}") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "there is a folder of this name", os.fspath(path))
    if stat.S_ISBLK(mode):
        raise UnwritableFile(f"{path}: cannot be written: it is a disk; name a file")
    return not stat.S_ISREG(mode) or DESCRIPTOR.fullmatch(os.path.abspath(path)) is not None


def _copy_through(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Append the content of `source` to a device, pipe or descriptor."""
    try:  # a pipe that nobody reads would be waited for
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise UnwritableFile(f"{path}: cannot be written: nobody reads it; start its reader, or name a file") from error
    os.set_blocking(descriptor, True)
    with open(source, "rb") as content, open(descriptor, "wb") as target:
        shutil.copyfileobj(content, target)


def unwritable(path: Path, error: BaseException) -> UnwritableFile | None:
    """The error to raise where the system's refusal to write `path` is, or is behind, `error`; else None."""
    cause: BaseException | None = None if isinstance(error, UserError) else error
    while cause is not None:
        # torch.save raises another error on its way out, but not every OSError that was met before is the reason
        telling = cause is error or (isinstance(cause, OSError) and cause.errno in FULL + BROKEN)
        if isinstance(cause, OSError) and telling and _is_of(path, cause):
            break
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if cause.errno in FULL:
        return UnwritableFile(f"{path}: not written, the disk is full; make room or choose another folder", cause)
    if cause.errno == errno.ENAMETOOLONG:
        advice = "choose a shorter name"
    else:
        advice = "see that its folder is there and may be written to, or choose another"
    reason = cause.strerror or str(cause) or type(cause).__name__
    return UnwritableFile(f"{path}: cannot be written: {reason}; {advice}", cause)


def _is_of(path: Path, error: OSError) -> bool:
    """Whether an error is of `path`, its folders or its temporary file, and not of another file that it names."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    file = Path(os.fsdecode(error.filename))
    if TEMPORARY.fullmatch(file.name):
        return True
    return any(file == name or file in name.parents for name in (path, Path(os.path.realpath(path))))


def require_writable(folder: str | os.PathLike, key: str) -> None:
    """Make `folder` where it is missing; `UserError`, naming the setting `key`, if it takes no file of 1 MB."""
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
        raise UserError(f"{key} {os.fspath(folder)!r}: no folder's name: {error}") from error
    except OSError as error:
        if error.errno in FULL:
            raise UserError(f"{key} {folder}: the disk is full; make room or choose another folder") from error
        raise UserError(f"{key} {folder}: cannot be written to: {error.strerror}; choose another folder") from error


def require_enclosed(folder: str | os.PathLike, patterns: Iterable[str]) -> None:
    """Raise `UserError` where a path in `folder` that matches one of `patterns` is a link that leads out of it.

    The folder may be a stranger's, and what is written into it must stay there.
    """
    home = os.path.realpath(folder)
    paths = [Path(folder, pattern) for pattern in patterns if not has_magic(pattern)]  # glob omits links to nothing
    paths += [path for pattern in patterns if has_magic(pattern) for path in Path(folder).glob(pattern)]
    for path in paths:
        target = os.path.realpath(path)
        if os.path.commonpath([home, target]) != home:
            raise UserError(
                f"{path} is a link that leads out of its folder, to {target}, and would be written to; remove the link"
            )


def move_aside(folder: str | os.PathLike, paths: Iterable[Path]) -> Path:
    """Move `paths`, which lie in `folder`, to the first `previous_N` in it that there is not yet, and return that.

    They keep their places in the folder's own folders; those that are empty then are removed.
    """
    number = 1
    while os.path.lexists(target := Path(folder, f"previous_{number}")):
        number += 1
    target.mkdir()
    for path in paths:
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
        with suppress(OSError):  # what is not empty stays
            for parent in path.relative_to(folder).parents[:-1]:
                Path(folder, parent).rmdir()
    return target


def remove_stale(folder: str | os.PathLike, older_than_seconds: float = 3600) -> list[Path]:
    """Delete the temporary files that killed programs have left in `folder` itself, and return their paths.

    Only files named as `temporary_beside` names them, and not written to for so long, are deleted; what cannot be is
    left alone.
    """
    removed = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not TEMPORARY.fullmatch(entry.name):
                continue
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > older_than_seconds:
                    os.unlink(entry.path)
                    removed.append(Path(entry.path))
    return removed
