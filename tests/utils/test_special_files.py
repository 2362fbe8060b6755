"""Special files (links, devices, pipes, sockets, folders), names that are paths, and moving files aside."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.files import (
    UnwritableFile,
    atomic_write,
    folder_name,
    move_aside,
    put_in_place,
    require_enclosed,
    require_regular,
    require_writable,
    temporary_beside,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, devices and pipes are POSIX's")


class Accident(Exception):
    pass


def write(path: Path | str, text: str = "new") -> None:
    with atomic_write(path) as file:
        file.write(text)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    regular, pipe, link, bound = (tmp_path / name for name in ("regular", "pipe", "link", "socket"))
    regular.write_text("x")
    os.mkfifo(pipe)
    link.symlink_to(regular)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(bound))
        for path in (regular, link, tmp_path / "missing"):  # `open` reports a missing file better
            assert require_regular(path) == path
        for path in (pipe, bound, "/dev/zero", "/dev/null"):
            with pytest.raises(UnreadableFile, match=rf"^{path}: not a regular file"):
                require_regular(path)
    with pytest.raises(UnreadableFile, match="this is a folder"):
        require_regular(tmp_path)
    with pytest.raises(UnreadableFile, match="not a file name"):
        require_regular("a\0b")
    with pytest.raises(UnreadableFile, match=r"^images: key 3: not a regular file"):
        require_regular(pipe, "images: key 3")


@pytest.mark.parametrize("name", ["ade20k_sem_seg_val", "my data (2)", "données", ".hidden", "a" * 200])
def test_plain_names_become_folders(name: str) -> None:
    assert folder_name(name, "name") == name


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../x", "/etc", "a/b", "a\\b", "a\0b", "a\nb", "\udcff", "a" * 201, "é" * 101]
)
def test_a_name_that_is_a_path_becomes_no_folder(name: str) -> None:
    with pytest.raises(UserError, match=r"^DATASETS.TEST: .* is not a plain name"):
        folder_name(name, "DATASETS.TEST")


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, target in (("absolute", tmp_path / "there/a"), ("relative", "there/b"), ("to a link", "absolute")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name, name)  # the first two links were dangling
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "there/a").read_text() == "to a link"
    assert (tmp_path / "there/b").read_text() == "relative"
    assert sorted(os.listdir(tmp_path / "there")) == ["a", "b"]
    (tmp_path / "dangling").symlink_to("missing/c")
    write(tmp_path / "dangling")
    assert (tmp_path / "missing/c").read_text() == "new"


def test_an_error_keeps_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")

    def fail() -> None:
        with atomic_write(tmp_path / "link"):
            raise Accident

    with pytest.raises(Accident):
        fail()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_links_in_a_circle_and_folders_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to folder").symlink_to("folder")
    for name, reason in (("a", "Too many levels"), ("folder", "there is a folder"), ("to folder", "there is a folder")):
        with pytest.raises(UnwritableFile, match=rf"{name}: cannot be written: {reason}"):
            write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "folder", "to folder"]


def test_devices_are_written_to_and_stay(tmp_path: Path) -> None:
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    (tmp_path / "link").symlink_to("/dev/null")
    write(tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "/dev/null"
    with temporary_beside("/dev/null", ".mp4") as temporary:  # like writing a video
        assert temporary.parent != Path("/dev")
        temporary.write_bytes(b"film")
        put_in_place(temporary, "/dev/null")
    assert not temporary.exists()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    if Path("/dev/full").exists():
        with pytest.raises(UnwritableFile, match="disk is full"):
            write("/dev/full")


def test_a_pipe_passes_on_the_content(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UnwritableFile, match=r"pipe: cannot be written: nobody reads it; start its reader"):
        write(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(pipe, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_socket_stays(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(tmp_path / "socket"))
        with pytest.raises(UnwritableFile, match="nobody reads it"):
            write(tmp_path / "socket")
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


def test_an_open_file_named_by_its_descriptor_keeps_its_content(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="utf-8") as file:
        file.write("first, ")
        file.flush()
        write(f"/dev/fd/{file.fileno()}")
    assert (tmp_path / "out").read_text() == "first, new"


def test_the_probe_of_a_folder_follows_no_link_of_its_maker(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / "run").mkdir()
    for name in (".writable", ".probe"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    require_writable(tmp_path / "run", "OUTPUT_DIR")
    assert (tmp_path / "precious").read_text() == "x"


def test_links_that_lead_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run/inference").mkdir(parents=True)
    (tmp_path / "link to run").symlink_to("run")
    (tmp_path / "run/metrics.json").symlink_to("inference/m.json")  # a link that stays inside
    for folder in (tmp_path / "run", tmp_path / "link to run"):
        require_enclosed(folder, ["*.json", "inference"])
    (tmp_path / "run/log.txt").symlink_to(tmp_path / "dangling")
    require_enclosed(tmp_path / "run", ["*.json", "inference"])
    with pytest.raises(UserError, match=r"run/log.txt is a link that leads out of its folder, to .*/dangling"):
        require_enclosed(tmp_path / "run", ["*.json", "log.txt*"])


def test_what_moves_aside_keeps_its_place_and_takes_nothing_along(tmp_path: Path) -> None:
    for name in ("a", "sub/b", "sub/mine", "full/c", "full/deep/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "previous_1").symlink_to("nowhere")
    moved = move_aside(tmp_path, [tmp_path / name for name in ("a", "sub/b", "full/c", "full/deep/d")])
    assert moved.name == "previous_2"
    for name in ("a", "sub/b", "full/c", "full/deep/d"):
        assert (moved / name).read_text() == name
    assert sorted(os.listdir(tmp_path)) == ["previous_1", "previous_2", "sub"]
    assert os.listdir(tmp_path / "sub") == ["mine"]
