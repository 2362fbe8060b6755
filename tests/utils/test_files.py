"""Writing files atomically."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import stat
import time
from pathlib import Path

import pytest

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import (
    TEMPORARY,
    UnwritableFile,
    atomic_write,
    remove_stale,
    require_writable,
    temporary_beside,
)


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


def write(path: Path | str, text: str = "new") -> None:
    with atomic_write(path) as file:
        file.write(text)


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("os.replace", errno.EROFS),
        ("os.fsync", errno.EIO),
        ("os.chmod", errno.EPERM),
        ("tempfile.mkstemp", errno.EACCES),
        ("pathlib.Path.mkdir", errno.EACCES),
    ],
)
def test_what_the_system_refuses_is_a_line_with_path_and_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(UserError, match=rf"^{path}: cannot be written: {os.strerror(number)}; .*choose") as caught:
            write(path)
    assert isinstance(caught.value, OSError)  # callers may catch it as such
    assert caught.value.errno == number
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_is_deleted_or_a_file_is_said(tmp_path: Path) -> None:
    def write_into_nothing() -> None:
        with atomic_write(tmp_path / "new/file"):
            shutil.rmtree(tmp_path / "new")

    with pytest.raises(UserError, match=r"new/file: cannot be written: No such file"):
        write_into_nothing()
    (tmp_path / "plain").touch()
    with pytest.raises(UserError, match=r"plain/x/file: cannot be written: Not a directory"):
        write(tmp_path / "plain/x/file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(0o500)
    with pytest.raises(UserError, match=r"locked/file: cannot be written: Permission denied"):
        write(tmp_path / "locked/file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> tuple[int, str]:
        return os.open("/dev/null", os.O_RDONLY), "/dev/full"

    monkeypatch.setattr("tempfile.mkstemp", full)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"file: not written, the disk is full; make room"):
        write(tmp_path / "file")


def test_errors_of_other_files_pass_as_they_are(tmp_path: Path) -> None:
    def copy() -> None:
        with atomic_write(tmp_path / "file") as file:
            file.write((tmp_path / "gone").read_text())

    with pytest.raises(FileNotFoundError, match="gone") as caught:
        copy()
    assert not isinstance(caught.value, UserError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [200 * "n", 255 * "n", 127 * "ü", 63 * "𝛼"])
def test_long_names_are_written(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_name_beyond_the_file_systems_limit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnwritableFile, match=r"nnn: cannot be written: File name too long; choose a shorter name$"):
        write(tmp_path / (256 * "n"))
    assert os.listdir(tmp_path) == []


def test_old_temporary_files_are_removed_and_nothing_else(tmp_path: Path) -> None:
    def age(path: Path, seconds: float) -> Path:
        os.utime(path, 2 * (time.time() - seconds,), follow_symlinks=False)
        return path

    stale = []
    for target, suffix in (("a.png", ""), ("clip.mp4", ".mp4"), (255 * "n", "")):
        with temporary_beside(tmp_path / target, suffix) as temporary:
            stale.append(tmp_path / f"kept{len(stale)}")
            os.link(temporary, stale[-1])
        stale[-1] = stale[-1].rename(temporary)
        assert TEMPORARY.fullmatch(temporary.name)
    for path in stale:
        age(path, 7200)
    others = [".hidden", ".a.png.x.tmp", "a.semask-tmp", ".semask-tmp", "a.png", ".a.semask-tmp.more.mp4"]
    for name in others:
        (tmp_path / name).touch()
        age(tmp_path / name, 7200)
    (tmp_path / ".young.x.semask-tmp").touch()
    (tmp_path / ".folder.x.semask-tmp").mkdir()
    (tmp_path / ".link.x.semask-tmp").symlink_to("a.png")
    for name in (".folder.x.semask-tmp", ".link.x.semask-tmp"):
        age(tmp_path / name, 7200)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/.a.x.semask-tmp").touch()
    age(tmp_path / "sub/.a.x.semask-tmp", 7200)

    assert sorted(remove_stale(tmp_path, older_than_seconds=10000)) == []
    assert sorted(remove_stale(tmp_path)) == sorted(stale)
    kept = [*others, ".young.x.semask-tmp", ".folder.x.semask-tmp", ".link.x.semask-tmp", "sub"]
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    assert os.listdir(tmp_path / "sub") == [".a.x.semask-tmp"]
    assert remove_stale(tmp_path / "nowhere") == []


def test_a_folder_name_with_a_null_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^OUTPUT_DIR '.*a\\x00b': not a folder name"):
        require_writable(tmp_path / "a\0b", "OUTPUT_DIR")
