"""Lock files that allow only one training run at a time in an output folder.

`training.lock` names the host, process and start time of the run. A lock is taken over if its process has ended, or if
its process id now belongs to another program. A process on another machine or in another container cannot be checked;
it touches its lock every `REFRESH_SECONDS`, and counts as ended after `STALE_SECONDS` without a touch.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.foreign import Section

LOCK_NAME = "training.lock"
REFRESH_SECONDS = 30
STALE_SECONDS = 300
MAX_BYTES = 10_000

_held: dict[str, threading.Event] = {}  # by folder: the event that ends the thread touching its lock


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock; process ids can only be compared if `machine` is equal."""

    host: str
    machine: str
    pid: int
    start: str
    time: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.time}"


def this_process() -> Owner:
    """Return the content of a lock held by this process."""
    namespace = ""  # containers may share a host name, and each counts its processes from 1
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    pid = os.getpid()
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return Owner(socket.gethostname(), f"{socket.gethostname()} {namespace}", pid, start_of(pid) or "", now)


def start_of(pid: int) -> str | None:
    """Return the start of a process on this machine, for comparison only; None if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = status.rpartition(")")[2].split()  # after the program's name, which may contain anything
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return "" if _exists(pid) else None
    return None if state in "ZX" else f"{boot} {fields[18]}"  # a zombie has ended


def _exists(pid: int) -> bool:
    """Return whether a process exists, on systems without /proc."""
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def take(folder: str | os.PathLike) -> str:
    """Lock `folder` for this process, which may already hold it; return a line about a lock taken over, or "".

    Raises `UserError` if another training run holds the lock.
    """
    home = os.path.realpath(folder)
    if home in _held:
        return ""
    path = Path(folder, LOCK_NAME)
    me = this_process()
    line = ""
    with _opened(path) as descriptor:
        content = os.read(descriptor, MAX_BYTES)
        if content:
            line = _require_stale(path, content, os.fstat(descriptor).st_mtime, me)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
        os.fsync(descriptor)
    _held[home] = threading.Event()
    threading.Thread(target=_refresh, args=(path, _held[home]), daemon=True, name="training lock").start()
    atexit.register(release, home)
    return line


def release(folder: str | os.PathLike) -> None:
    """Release the lock on `folder` if this process holds it."""
    home = os.path.realpath(folder)
    ended = _held.pop(home, None)
    if ended is None:
        return
    ended.set()
    path = Path(home, LOCK_NAME)
    with suppress(OSError, UserError), _opened(path, create=False) as descriptor:
        if _is_ours(os.read(descriptor, MAX_BYTES), path):  # no other process has taken it over
            path.unlink()


def read_owner(content: bytes, source: str) -> Owner:
    """Return the owner named in a lock file; raises `UserError` if the file is damaged."""
    try:
        section = Section.of(json.loads(content), source)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not a training lock ({' '.join(str(error).split())})") from error
    texts = {key: section.text(key) for key in ("host", "machine", "start", "time")}
    return Owner(pid=section.integer("pid", low=1, high=2**31), **texts)


def _is_ours(content: bytes, path: Path) -> bool:
    owner, me = read_owner(content, str(path)), this_process()
    return (owner.machine, owner.pid, owner.start) == (me.machine, me.pid, me.start)


def _require_stale(path: Path, content: bytes, touched: float, me: Owner) -> str:
    """Return a line about a lock whose run has ended; raises `UserError` if the run continues or may continue."""
    silent = time.time() - touched
    try:
        owner: Owner | None = read_owner(content, str(path))
    except UserError:
        owner = None
    if owner is not None and owner.machine == me.machine:
        if (owner.pid, owner.start) != (me.pid, me.start) and start_of(owner.pid) == owner.start:
            raise UserError(
                f"OUTPUT_DIR {path.parent}: a training run is active there ({owner}); choose another folder, or end it"
            )
        return f"{path}: its training run has ended ({owner}); taken over"
    holder = owner or "an unknown process"
    if silent < STALE_SECONDS:
        raise UserError(
            f"OUTPUT_DIR {path.parent}: a training run is active there ({holder}, last seen {max(0, silent):.0f} s "
            f"ago); choose another folder; if the run has ended, delete {path} or wait until {STALE_SECONDS} s have "
            "passed since it was last seen"
        )
    return f"{path}: its training run ({holder}) was last seen {silent:.0f} s ago and counts as ended; taken over"


@contextmanager
def _opened(path: Path, *, create: bool = True) -> Iterator[int]:
    """Open the lock file and, if the file system supports it, keep other processes from opening it meanwhile."""
    require_regular(path)
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (os.O_CREAT if create else 0)
    while True:
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened as a training lock: {error.strerror}") from error
        try:
            _exclude_others(descriptor)
            if not os.path.exists(path) or not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                continue  # its previous owner has deleted it
            yield descriptor
            return
        finally:
            os.close(descriptor)


def _exclude_others(descriptor: int) -> None:
    with suppress(ImportError, OSError):  # Windows; file systems without locks
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _refresh(path: Path, ended: threading.Event) -> None:
    """Touch a lock until its run ends or loses the lock, for example because it was suspended and counted as ended."""
    while not ended.wait(REFRESH_SECONDS):
        with suppress(OSError, UserError):
            if not _is_ours(path.read_bytes(), path):
                return
            os.utime(path)
