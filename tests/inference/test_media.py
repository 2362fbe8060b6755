"""Finding inputs, naming results, writing pictures and videos whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from semask_d2.data.image_io import save_picture
from semask_d2.inference.media import Video, VideoFile, distinct_names, find_inputs, has_display, show
from semask_d2.utils.errors import UnreadableFile, UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "clip.mp4", "notes.txt", ".hidden.jpg", "sub/c.jpg", "sub/deep/d.jpg", "w[1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def found(folder: Path, *words: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_inputs([str(folder / word) for word in words])]


def test_files_folders_and_globs(folder: Path) -> None:
    assert found(folder, "") == ["a.PNG", "b.jpg", "clip.mp4", "w[1].jpg"]
    assert found(folder, "sub/c.jpg", "b.jpg") == ["sub/c.jpg", "b.jpg"]
    assert found(folder, "*.jpg") == ["b.jpg", "w[1].jpg"]
    assert found(folder, "sub/**/*.jpg") == ["sub/c.jpg", "sub/deep/d.jpg"]
    assert found(folder, "w[1].jpg") == ["w[1].jpg"]
    assert found(folder, "b.jpg", "*.jpg", "") == ["b.jpg", "w[1].jpg", "a.PNG", "clip.mp4"]
    assert found(folder, "gone.jpg", "notes.txt") == ["gone.jpg", "notes.txt"]  # their reader complains


def test_nothing_to_draw_is_said_at_once(folder: Path) -> None:
    with pytest.raises(UserError, match=r"\*\.tif: matches no image"):
        found(folder, "*.tif")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no image or video in this folder"):
        found(folder, "empty")


def test_names_of_results_do_not_collide() -> None:
    names = distinct_names([Path(p) for p in ("x/a/1.jpg", "x/b/1.jpg", "x/b/1.png", "x/2.jpg", "x/3.jpg", "x/3.PNG")])
    assert names == ["a_1", "b_1", "b_1_2", "2", "3_jpg", "3_PNG"]
    assert distinct_names([Path("a/1.jpg"), Path("b/1.jpg"), Path("a_1.jpg")]) == ["a_1", "b_1", "a_1_2"]
    assert distinct_names([Path("A.jpg"), Path("a.png")]) == ["A_jpg", "a_png"]  # one file where case is ignored


def test_pictures_and_ids_are_read_back_as_they_were(tmp_path: Path) -> None:
    ids = np.array([[0, 255], [3, 4]])
    save_picture(tmp_path / "new/ids.png", ids)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new/ids.png")), ids)
    save_picture(tmp_path / "many.png", ids * 2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "many.png")), ids * 2)
    save_picture(tmp_path / "photo.jpg", np.zeros((8, 8, 3), np.uint8))
    assert Image.open(tmp_path / "photo.jpg").format == "JPEG"


def test_a_video_is_read_back_as_it_was(tmp_path: Path) -> None:
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


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"gone\.mp4 does not exist"):
        Video(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableFile, match=r"text\.mp4 is no video"):
        Video(tmp_path / "text.mp4")


def test_a_window_without_opencvs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "imshow", refuse)
    with pytest.raises(UserError, match=r"install opencv-python in its place$"):
        show("title", np.zeros((4, 4, 3), np.uint8), 1)


def test_a_display_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert has_display()
