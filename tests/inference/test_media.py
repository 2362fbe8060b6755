"""Media files: finding inputs, naming results, writing images and videos atomically."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from semask_d2.data.image_io import save_picture
from semask_d2.inference import media
from semask_d2.inference.media import Video, VideoFile, distinct_names, find_inputs, has_display, is_media, show
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.files import remove_stale
from tests.helpers.commands import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "clip.mp4", "notes.txt", ".hidden.jpg", "sub/c.jpg", "sub/deep/d.jpg", "w[1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names_of_inputs(folder: Path, *words: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_inputs([str(folder / word) for word in words])]


def test_files_folders_and_globs(folder: Path) -> None:
    assert names_of_inputs(folder, "") == ["a.PNG", "b.jpg", "clip.mp4", "w[1].jpg"]
    assert names_of_inputs(folder, "sub/c.jpg", "b.jpg") == ["sub/c.jpg", "b.jpg"]
    assert names_of_inputs(folder, "*.jpg") == ["b.jpg", "w[1].jpg"]
    assert names_of_inputs(folder, "sub/**/*.jpg") == ["sub/c.jpg", "sub/deep/d.jpg"]
    assert names_of_inputs(folder, "w[1].jpg") == ["w[1].jpg"]
    assert names_of_inputs(folder, "b.jpg", "*.jpg", "") == ["b.jpg", "w[1].jpg", "a.PNG", "clip.mp4"]
    assert names_of_inputs(folder, "gone.jpg", "notes.txt") == [
        "gone.jpg",
        "notes.txt",
    ]  # reading them reports the error


def test_inputs_without_media_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"\*\.tif: matches no image"):
        names_of_inputs(folder, "*.tif")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no image or video in this folder"):
        names_of_inputs(folder, "empty")


def test_skipped_files_and_subfolders_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    names_of_inputs(folder, "b.jpg", "*.jpg")
    assert not caplog.text
    (folder / "phone.HEIC").touch()
    names_of_inputs(folder, "")
    assert caplog.text.count("skipped 2 file(s) of other kinds (.heic, .txt) and 1 subfolder(s)") == 1
    caplog.clear()
    names_of_inputs(folder, "*")
    assert "skipped 2 file(s) of other kinds (.heic, .txt)" in caplog.text  # for a pattern, too
    caplog.clear()
    names_of_inputs(folder, "sub/deep")
    assert not caplog.text
    (folder / "heic").mkdir()
    (folder / "heic/phone.heic").touch()
    with pytest.raises(UserError, match=r"heic: no image or video .*; it holds 1 file\(s\) of other kinds \(\.heic\)"):
        names_of_inputs(folder, "heic")


def test_a_name_that_is_too_long_is_a_missing_file(folder: Path) -> None:
    assert names_of_inputs(folder, 300 * "n") == [300 * "n"]
    with pytest.raises(UnreadableFile, match="does not exist"):
        Video(300 * "n" + ".mp4")


def test_names_of_results_do_not_collide() -> None:
    names = distinct_names([Path(p) for p in ("x/a/1.jpg", "x/b/1.jpg", "x/b/1.png", "x/2.jpg", "x/3.jpg", "x/3.PNG")])
    assert names == ["a_1", "b_1", "b_1_2", "2", "3_jpg", "3_PNG"]
    assert distinct_names([Path("a/1.jpg"), Path("b/1.jpg"), Path("a_1.jpg")]) == ["a_1", "b_1", "a_1_2"]
    assert distinct_names([Path("A.jpg"), Path("a.png")]) == ["A_jpg", "a_png"]  # one file where case is ignored


def test_names_of_many_files_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def commonpath(paths: list[str], common=os.path.commonpath) -> str:
        nonlocal compared
        compared += len(paths)
        return common(paths)

    monkeypatch.setattr(os.path, "commonpath", commonpath)
    paths = [Path(f"{folder}/{number}.jpg") for folder in "ab" for number in range(50)]
    paths += [Path(f"{number}/same.jpg") for number in range(50)]
    assert len(set(distinct_names(paths))) == len(paths)
    assert compared <= len(paths)


def test_images_and_ids_are_read_back_unchanged(tmp_path: Path) -> None:
    ids = np.array([[0, 255], [3, 4]])
    save_picture(tmp_path / "new/ids.png", ids)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new/ids.png")), ids)
    save_picture(tmp_path / "many.png", ids * 2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "many.png")), ids * 2)
    save_picture(tmp_path / "photo.jpg", np.zeros((8, 8, 3), np.uint8))
    assert Image.open(tmp_path / "photo.jpg").format == "JPEG"


def test_a_video_is_read_back_unchanged(tmp_path: Path) -> None:
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    with VideoFile(tmp_path / "clip.mp4", 12) as file:
        for color in colors:
            file.write(np.full((47, 65, 3), color, np.uint8))
    video = Video(tmp_path / "clip.mp4")
    assert video.fps == pytest.approx(12)
    assert video.count == 3
    frames = list(video)
    assert [frame.shape for frame in frames] == [(48, 66, 3)] * 3  # even sides
    for frame, color in zip(frames, colors, strict=True):
        np.testing.assert_allclose(frame[:40, :40].mean((0, 1)), color, atol=12)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_video_that_fails_leaves_nothing_but_an_interrupted_camera_keeps_its_frames(tmp_path: Path) -> None:
    def write_and_fail(error: type[BaseException]) -> None:
        with VideoFile(tmp_path / "clip.mp4", 12) as file:
            file.write(np.zeros((32, 32, 3), np.uint8))
            raise error

    for error, names in ((ValueError, []), (KeyboardInterrupt, ["clip.mp4"])):
        with pytest.raises(error):
            write_and_fail(error)
        assert [path.name for path in tmp_path.iterdir()] == names


def write_video(path: Path, shapes: list[tuple[int, int]]) -> None:
    with VideoFile(path, 12) as file:
        for number, shape in enumerate(shapes):
            file.write(np.full((*shape, 3), 20 * number, np.uint8))


REAL_WRITER = cv2.VideoWriter


class CutWriter:
    """Writer whose file ends too early, as on a full disk; like OpenCV's, it reports nothing."""

    fourcc = staticmethod(REAL_WRITER.fourcc)

    def __init__(self, path: str, *arguments: object):
        self.path, self.writer, self.frames = path, REAL_WRITER(path, *arguments), 0

    def isOpened(self) -> bool:
        return True

    def write(self, frame: np.ndarray) -> None:
        self.frames += 1
        if self.cut or self.frames < 4:
            self.writer.write(frame)

    def release(self) -> None:
        self.writer.release()
        if self.cut:
            os.truncate(self.path, os.path.getsize(self.path) * 2 // 3)


@pytest.mark.parametrize(("cut", "frames"), [(True, "0 of 9"), (False, "3 of 9")])
def test_a_video_that_lacks_frames_does_not_replace_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: bool, frames: str
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"older")
    monkeypatch.setattr(cv2, "VideoWriter", CutWriter)
    monkeypatch.setattr(CutWriter, "cut", cut, raising=False)
    with pytest.raises(UserError, match=rf"clip\.mp4: not written, only {frames} frames"):
        write_video(tmp_path / "clip.mp4", [(48, 64)] * 9)
    assert (tmp_path / "clip.mp4").read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_a_frame_of_another_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only 1 of 2 frames"):
        write_video(tmp_path / "clip.mp4", [(48, 64), (48, 66)])
    assert os.listdir(tmp_path) == []


LIMITED = """
import resource, sys
import numpy as np
from semask_d2.inference.media import VideoFile
from semask_d2.utils.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rng = np.random.default_rng(0)
try:
    with VideoFile(sys.argv[1], 12) as file:
        for _ in range(40):
            file.write(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of a process's files are POSIX's")
def test_a_video_that_the_system_cuts_does_not_replace_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"older")
    command = [sys.executable, "-c", LIMITED, tmp_path / "clip.mp4"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "clip.mp4: not written, only" in result.stdout
    assert (tmp_path / "clip.mp4").read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_a_full_disk_at_the_end_of_a_video_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=r"clip\.mp4: not written, the disk is full"):
        write_video(tmp_path / "clip.mp4", [(48, 64)])
    assert os.listdir(tmp_path) == []


def test_the_temporary_file_of_a_killed_video_is_known(tmp_path: Path) -> None:
    program = (
        "import os, sys, numpy as np; from semask_d2.inference.media import VideoFile; "
        "file = VideoFile(sys.argv[1], 12).__enter__(); file.write(np.zeros((48, 64, 3), np.uint8)); os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / (240 * "n" + ".mp4"))]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 9
    (leftover,) = tmp_path.iterdir()
    assert not is_media(leftover)  # the next run does not take it as an input
    assert remove_stale(tmp_path, older_than_seconds=-1) == [leftover]


def test_invalid_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"gone\.mp4 does not exist"):
        Video(tmp_path / "gone.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UnreadableFile, match=r"pipe\.mp4: not a regular file"):
        Video(tmp_path / "pipe.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableFile, match=r"text\.mp4 is not a video"):
        Video(tmp_path / "text.mp4")


def test_a_video_of_frames_too_large_is_refused_before_one_is_decoded(tmp_path: Path, monkeypatch) -> None:
    with VideoFile(tmp_path / "a.mp4", 25) as file:
        file.write(np.zeros((64, 96, 3), np.uint8))
    monkeypatch.setattr(media, "MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(UnreadableFile, match=r"a\.mp4 has frames of 96 x 64 pixels, but at most 6143 are read"):
        Video(tmp_path / "a.mp4")


def test_opencv_without_windows_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "imshow", refuse)
    with pytest.raises(UserError, match=r"install opencv-python instead$"):
        show("title", np.zeros((4, 4, 3), np.uint8), 1)


def test_the_environment_tells_if_there_is_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert has_display()
