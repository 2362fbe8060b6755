"""Messages for errors that are not the user's mistake, and escaping of strange names in the log."""

from __future__ import annotations

import errno
import logging
from typing import ClassVar

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from semask_d2.d2 import setup_logger
from semask_d2.engine.failures import explain
from semask_d2.engine.launch import ended_by_signal
from semask_d2.engine.setup import setup
from semask_d2.utils.arguments import ArgumentError
from semask_d2.utils.errors import UserError


class Component:
    config_keys: ClassVar = {"width": "MODEL.WIDTH"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("key: wrong"), "key: wrong"),
        (ArgumentError(Component(), "width", "expected 1"), "MODEL.WIDTH: expected 1"),
        (ArgumentError(Component(), "height", "expected 1"), "height: expected 1"),
        (OSError(errno.ENOSPC, "No space left on device", "a.pth"), "the disk is full at a.pth"),
        (PermissionError(errno.EACCES, "Permission denied", "run/log.txt"), "run/log.txt: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "run/log.txt"), "run/log.txt: Read-only file system"),
        (MemoryError(), "out of memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "out of GPU memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error."), "/dev/shm"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "NUM_WORKERS"),
    ],
)
def test_the_machines_refusals_are_one_line(error: Exception, expected: str) -> None:
    line = explain(error)
    assert line is not None
    assert expected in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("shape"), OSError(errno.ENOENT, "no name"), KeyError("x")]
)
def test_errors_in_the_program_keep_their_traceback(error: Exception) -> None:
    assert explain(error) is None


@pytest.mark.parametrize(
    ("name", "expected"), [("SIGKILL", "memory"), ("SIGBUS", "/dev/shm"), ("SIGTERM", "from outside")]
)
def test_a_process_that_a_signal_ended(name: str, expected: str) -> None:
    error = ProcessExitedException("x", error_index=1, error_pid=7, exit_code=-9, signal_name=name)
    assert expected in ended_by_signal(error)
    assert f"process 1 of this machine was ended by {name}" in ended_by_signal(error)


def test_names_with_escape_sequences_are_spelled_out_in_the_log(tmp_path, capsys: pytest.CaptureFixture) -> None:
    from semask_d2 import get_cfg

    cfg = get_cfg(None, ["OUTPUT_DIR", str(tmp_path)])
    setup(cfg, training=False, resume=False)
    logging.getLogger("semask_d2.test").warning("%s is damaged", "\x1b]0;title\x07.jpg")
    logged = (tmp_path / "log.txt").read_text()
    assert "\\x1b]0;title\\x07.jpg is damaged" in logged
    assert "\x1b]0;" not in capsys.readouterr().out
    setup_logger.cache_clear()
