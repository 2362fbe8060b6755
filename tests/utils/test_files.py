"""Writing files atomically."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write, require_writable


class Accident(Exception):
    pass


@pytest.mark.parametrize(("mode", "old", "new"), [("w", "alt\n", "neu ü\n"), ("wb", b"old", b"new\r\n\x00")])
def test_replaces_the_file_when_the_block_ends(tmp_path: Path, mode: str, old: str | bytes, new: str | bytes) -> None:
    path = tmp_path / "file"
    for content in (old, new):
        with atomic_write(path, mode) as file:
            file.write(content)
    assert path.read_bytes() == (new if mode == "wb" else new.encode())
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_meets_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 2  # the temporary file is in the same folder, so renaming is atomic
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [Accident, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_keeps_the_old_file_and_leaves_no_temporary_one(
    tmp_path: Path, error: type[BaseException], existed: bool
) -> None:
    path = tmp_path / "file"
    if existed:
        path.write_text("old")

    def write() -> None:
        with atomic_write(path) as file:
            file.write("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if existed else [])
    if existed:
        assert path.read_text() == "old"


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()

    def write() -> None:
        with atomic_write(path) as file:
            file.write("new")

    with pytest.raises(OSError, match="file"):
        write()
    assert os.listdir(tmp_path) == ["file"]
    assert path.is_dir()


def test_makes_missing_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with atomic_write(str(path)) as file:
        file.write("x")
    assert path.read_text() == "x"


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write("x")
        assert os.umask(0o027) == 0o027  # unchanged
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_full_disk_is_said_even_behind_another_error(tmp_path: Path) -> None:
    def write_and_fail(*, second_error: bool) -> None:
        with atomic_write(tmp_path / "file"):
            try:
                raise OSError(errno.ENOSPC, "no space")
            finally:
                if second_error:  # as torch.save does
                    raise RuntimeError("unexpected pos")

    for second_error in (False, True):
        with pytest.raises(UserError, match=r"file: not written, the disk is full"):
            write_and_fail(second_error=second_error)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_tried_before_it_is_needed(tmp_path: Path) -> None:
    require_writable(tmp_path / "new/folder", "OUTPUT_DIR")
    assert os.listdir(tmp_path / "new/folder") == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"OUTPUT_DIR .*file/out: cannot be written to: Not a directory"):
        require_writable(tmp_path / "file/out", "OUTPUT_DIR")
