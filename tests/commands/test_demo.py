"""Demo script as a user runs it: its inputs, models and outputs, and the inputs it refuses."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import Predictor, get_cfg
from semask_d2.inference.media import Video, VideoFile
from tests.helpers.commands import ROOT, TINY, TOY_CONFIG

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = re.search(r"## Quick start.*?```python\n(.*?)```", README, re.S)[1]
PAGE, FIRST_PAGE = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("predict.md", "first_model.md"))
PAGE_COMMANDS = re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].splitlines()
PROGRAM = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]


@pytest.fixture
def home(tiny_run: Path, toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create and enter a folder with trained runs, images and a video, on a machine without a display."""
    shutil.copytree(tiny_run, tmp_path / "output/run")
    panoptic_run(tiny_run, tmp_path / "output/panoptic_run")
    images = sorted((toy_root / "toy_scenes/images/validation").iterdir())
    labels = toy_root / "toy_scenes/annotations/validation"
    for folder in ("photos", "album", "labels"):
        (tmp_path / folder).mkdir()
    for i, path in enumerate(images[:2]):
        shutil.copy(path, tmp_path / "photos" / path.name)
        shutil.copy(labels / f"{path.stem}.png", tmp_path / "labels")
        Image.open(path).save(tmp_path / f"album/{i}.png")
    shutil.copy(images[2], tmp_path / "photo.jpg")
    with VideoFile(tmp_path / "drive.mp4", 5) as file:
        for i in range(3):
            file.write(np.full((48, 64, 3), 80 * i, np.uint8))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def panoptic_run(run: Path, folder: Path) -> None:
    """Write a run folder with a panoptic config and the weights of `run`, dated before `run`."""
    shutil.copytree(run, folder)
    config = ROOT / "configs/toy_scenes_panoptic/semask_swin_mini_msfapn_m2f.yaml"
    (folder / "config.yaml").write_text(get_cfg(config, list(TINY)).dump())
    os.utime(folder / "model_best.pth", (0, 0))


@pytest.fixture
def demo(in_process):
    return lambda *words: in_process("demo/demo.py", *words)


def files(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def assert_refused(result: tuple[int, str, str], *expected: str) -> None:
    code, out, err = result
    assert code == 1
    assert "error: " in err
    for text in expected:
        assert text in err
    assert "Traceback" not in out + err


class Camera:
    """Fake camera with two frames."""

    def __init__(self, *_: object):
        self.frames = 2

    def isOpened(self) -> bool:
        return True

    def get(self, *_: object) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.frames -= 1
        return (True, np.full((48, 64, 3), 90, np.uint8)) if self.frames >= 0 else (False, None)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("line", PAGE_COMMANDS)
def test_documented_commands(demo, home: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    words = shlex.split(line)
    assert words[:2] in (["python", "demo/demo.py"], ["semask", "predict"])
    shown = []
    if "--webcam" in words:
        monkeypatch.setattr(cv2, "VideoCapture", Camera)
        monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
        monkeypatch.setattr(cv2, "waitKey", lambda _: -1)
        monkeypatch.setenv("DISPLAY", ":0")
    code, _, err = demo(*words[2:])
    assert code == 0, err
    folders = [folder for folder in ("pictures", "predictions", "errors") if Path(folder).exists()]
    assert shown or any(map(files, folders))
    assert len(shown) in (0, 2)


def test_the_readmes_quick_start(home: Path, capsys: pytest.CaptureFixture) -> None:
    exec(compile(QUICK_START, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("{'")
    assert Path("segmented.png").is_file()


def test_the_documented_program(home: Path, capsys: pytest.CaptureFixture) -> None:
    exec(compile(PROGRAM, "predict.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "(480, 640) (12, 480, 640) (2, 3)",
        "(360, 480) (12, 360, 480) (2, 3)",
    ]


def test_the_first_models_program(home: Path, capsys: pytest.CaptureFixture) -> None:
    program = re.search(r"```python\n(.*?)```", FIRST_PAGE, re.S)[1]
    run, image = re.findall(r'"([^"]+/[^"]+)"', program)
    shutil.copytree("output/run", run)
    Path(image).parent.mkdir(parents=True)
    shutil.copy("photo.jpg", image)
    exec(compile(program, "first_model.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(128, 128) ['")


def test_the_newest_run_is_used_and_named(demo, home: Path) -> None:
    code, out, err = demo("--input", "photo.jpg", "--output", "pictures")
    assert code == 0, err
    assert "output/run/model_best.pth" in out.splitlines()[0]
    assert "photo.jpg -> pictures/photo.png" in out
    assert Image.open("pictures/photo.png").height == 512


def test_without_a_run_the_packaged_model_is_used_and_named(demo, home: Path) -> None:
    for file in Path("output").glob("*/model_best.pth"):
        file.unlink()
    code, out, err = demo("--input", "photo.jpg", "--output", "pictures")
    assert code == 0, err
    assert "No trained model under output/: using the packaged one" in out.splitlines()[0]
    assert files("pictures") == ["photo.png"]


@pytest.mark.parametrize("weights", ["output/run/model_best.pth", "output/run"])
def test_weights_alone_are_enough(demo, home: Path, weights: str) -> None:
    code, _, err = demo("--weights", weights, "--input", "photo.jpg", "--output", "one.jpg")
    assert code == 0, err
    assert Image.open("one.jpg").format == "JPEG"


def test_weights_without_a_config_beside_them_need_one(demo, home: Path) -> None:
    Path("output/run/model_best.pth").rename("lone.pth")
    assert_refused(demo("--weights", "lone.pth", "--input", "photo.jpg", "--output", "a"), "lone.pth", "--config-file")
    words = ("--weights", "lone.pth", "--config-file", "output/run/config.yaml", "--input", "photo.jpg")
    assert demo(*words, "--output", "a")[0] == 0


def test_a_config_uses_the_weights_beside_it_or_those_in_settings(demo, home: Path) -> None:
    assert demo("--config-file", "output/run/config.yaml", "--input", "photo.jpg", "--output", "a")[0] == 0
    assert_refused(demo("--config-file", TOY_CONFIG, "--input", "photo.jpg", "--output", "a"), "MODEL.WEIGHTS is empty")
    Path("output/run/model_best.pth").rename("lone.pth")
    opts = ("--opts", "MODEL.WEIGHTS", "lone.pth", "INPUT.MIN_SIZE_TEST", "48")
    assert demo("--config-file", "output/run/config.yaml", "--input", "photo.jpg", "--output", "b", *opts)[0] == 0
    by_name = "toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
    words = ("--weights", "lone.pth", "--config-file", by_name, "--input", "photo.jpg", "--output", "c")
    assert demo(*words, "--opts", *TINY)[0] == 0


def test_all_kinds_of_inputs_and_outputs(demo, home: Path) -> None:
    shutil.copy("photo.jpg", "album/photo.jpg")
    words = ("--input", "photos", "album/*", "photo.jpg", "drive.mp4", "--output", "out", "--labels")
    code, _, err = demo(*words)
    assert code == 0, err
    drawings = ["0.png", "0000.png", "0001.png", "1.png", "album_photo.png", "photo_jpg.png"]
    frames = [f"labels/drive/00000{i}.png" for i in range(3)]
    labels = [f"labels/{name}" for name in drawings]
    assert files("out") == sorted([*drawings, *labels, "drive.mp4", *frames, "labels/classes.txt"])
    assert Path("out/labels/classes.txt").read_text().splitlines()[:2] == ["0 sky", "1 water"]
    assert "7/7" in err  # the progress bar

    image = np.asarray(Image.open("photos/0000.jpg"))
    expected = Predictor.from_run("output/run")(image).labels
    assert np.array_equal(np.asarray(Image.open("out/labels/0000.png")), expected)


def test_a_drawn_video_has_the_same_frame_rate(demo, home: Path) -> None:
    code, _, err = demo("--input", "drive.mp4", "--output", "drawn.mp4", "--opacity", "0")
    assert code == 0, err
    video = Video("drawn.mp4")
    frames = list(video)
    assert video.fps == pytest.approx(5)
    assert len(frames) == 3
    assert frames[0].shape[0] == 384  # enlarged 8 times
    assert frames[0].shape[1] > 512  # a legend
    shades = [float(np.median(frame[:, :512])) for frame in frames]
    assert shades == pytest.approx([0, 80, 160], abs=8)


def test_the_camera_is_recorded_if_an_output_is_given(demo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = cv2.VideoCapture  # the real one, to read the result back
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", lambda source: Camera() if isinstance(source, int) else capture(source))
        code, _, err = demo("--webcam", "1", "--output", "out")
    assert code == 0, err
    assert len(list(Video("out/camera.mp4"))) == 2
    assert_refused(demo("--webcam", "99", "--output", "out"), "--webcam 99")


def test_one_unreadable_file_does_not_stop_the_others(demo, home: Path) -> None:
    Path("photos/0000b.jpg").write_bytes(Path("photos/0000.jpg").read_bytes()[:500])
    Path("photos/broken.mp4").write_text("no video")
    result = demo("--input", "photos", "gone.jpg", "--output", "out")
    assert_refused(
        result, "3 of 5 inputs", "0000b.jpg cannot be read", "broken.mp4 is not a video", "gone.jpg does not exist"
    )
    assert files("out") == ["0000.png", "0001.png"]


def test_a_huge_image_or_damaged_exif_does_not_stop_the_others(
    demo, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semask_d2.data.opening.MAX_PIXELS", 300_000)
    Image.new("RGB", (1000, 301)).save("photos/large.png")
    Image.new("RGB", (64, 48)).save("photos/noexif.png", exif=b"Exif\0\0 no EXIF")
    result = demo("--input", "photos", "--output", "out")
    assert_refused(result, "1 of 4 inputs", "photos/large.png is 1000 x 301 pixels, but the limit is 300000")
    assert files("out") == ["0000.png", "0001.png", "noexif.png"]


def test_very_thin_images_are_drawn(demo, home: Path) -> None:
    Path("thin").mkdir()
    Image.new("RGB", (6000, 1)).save("thin/wide.png")
    Image.new("RGB", (1, 6000)).save("thin/tall.png")
    Image.new("RGB", (1, 1)).save("thin/dot.png")
    code, _, err = demo("--input", "thin", "--output", "out", "--labels")
    assert code == 0, err
    assert Image.open("out/labels/wide.png").size == (6000, 1)
    assert Image.open("out/labels/tall.png").size == (1, 6000)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
)
def test_one_input_too_large_for_memory_does_not_stop_the_others(
    demo, home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    prepare = Predictor.prepare

    def refuse_one(self: Predictor, image: np.ndarray) -> dict:
        if image.shape[:2] == (30, 40):
            raise error
        return prepare(self, image)

    monkeypatch.setattr(Predictor, "prepare", refuse_one)
    Image.new("RGB", (40, 30)).save("photos/0000b.png")
    result = demo("--input", "photos", "--output", "out")
    assert_refused(result, "1 of 3 inputs", "0000b.png: out of memory", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
    assert "SOLVER" not in result[2]
    assert files("out") == ["0000.png", "0001.png"]


def test_a_bug_is_not_reported_as_a_failed_input(demo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Predictor, "__call__", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        demo("--input", "photos", "--output", "out")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--input album --output . --labels --compare labels", "labels/0.png is a file of --compare labels"),
        ("--input photos --output labels --compare labels", "labels/0000.png is a file of --compare labels"),
        ("--input photos --output link --labels --compare labels", "link/labels/0000.png is a file of --compare"),
        ("--input photo.jpg labels/0000.png --output . --labels", "labels/0000.png is an input"),
        ("--input drive.mp4 new/labels/drive/000001.png --output new --labels", "drive/000001.png is an input"),
        ("--input drive.mp4 --output drive.mp4", "drive.mp4 is an input"),
        ("--input photo.jpg --output linked.jpg", "linked.jpg is an input"),
        ("--input photo.jpg --output new --labels --compare new/labels", "labels/classes.txt is a file of --compare"),
    ],
)
def test_inputs_are_never_overwritten(demo, home: Path, words: str, expected: str) -> None:
    for i in range(2):
        shutil.copy("labels/0000.png", f"labels/{i}.png")
    Path("new/labels/drive").mkdir(parents=True)
    shutil.copy("labels/0000.png", "new/labels/drive/000001.png")
    Path("new/labels/classes.txt").write_text("0 mine\n")
    Path("link").symlink_to(home)
    Path("linked.jpg").symlink_to("photo.jpg")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert_refused(demo(*words.split()), expected, "would be overwritten")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_two_images_do_not_share_a_label_file(demo, home: Path) -> None:
    Path("more").mkdir()
    shutil.copy("photos/0001.jpg", "more/0000.jpg")
    result = demo("--input", "photos", "more", "--output", "out", "--compare", "labels")
    assert_refused(result, "photos/0000.jpg and more/0000.jpg would both be compared with labels/0000.png")
    assert not Path("out").exists()


def test_leftovers_of_killed_runs_are_removed(demo, home: Path) -> None:
    for folder in ("out", "out/labels", "out/labels/drive"):
        Path(folder).mkdir()
        for name in (".old.png.x.semask-tmp", ".clip.mp4.y.semask-tmp.mp4"):
            Path(folder, name).touch()
            os.utime(Path(folder, name), (0, 0))
        Path(folder, ".new.png.x.semask-tmp").touch()
    assert demo("--input", "photo.jpg", "drive.mp4", "--output", "out", "--labels")[0] == 0
    remaining = [name for name in files("out") if "semask-tmp" in name]
    assert remaining == [f"{folder}.new.png.x.semask-tmp" for folder in ("", "labels/", "labels/drive/")]


def test_skipped_files_of_a_folder_are_reported(demo, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("photos/deep").mkdir()
    Path("photos/a.HEIC").touch()
    assert demo("--input", "photos", "--output", "out")[0] == 0
    assert "photos: skipped 1 file(s) of other kinds (.heic) and 1 subfolder(s)" in caplog.text
    assert files("out") == ["0000.png", "0001.png"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--input NAME --output out", "File name too long"),
        ("--input photo.jpg --output NAME/out", "File name too long"),
        ("--input photo.jpg --output NAME.png", "nnn.png: cannot be written: File name too long; choose a shorter"),
        ("--input photo.jpg --output out --compare NAME", "nnn: no such folder"),
        ("--input photo.jpg --output out --weights NAME", "nnn: no such file"),
    ],
)
def test_a_name_that_is_too_long_is_one_line(demo, home: Path, words: str, expected: str) -> None:
    assert_refused(demo(*words.replace("NAME", 300 * "n").split()), expected)


@pytest.mark.slow
def test_images_of_every_mode_are_drawn(demo, home: Path) -> None:
    rgb = Image.open("photo.jpg")
    Path("modes").mkdir()
    for mode, suffix in (("L", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("P", "png"), ("1", "png")):
        rgb.convert(mode).save(f"modes/{mode}.{suffix}")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save("modes/16bit.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    rgb.crop((0, 0, 64, 32)).save("modes/turned.jpg", exif=exif)
    code, _, err = demo("--input", "modes", "--output", "out", "--labels")
    assert code == 0, err
    assert len([name for name in files("out") if name.endswith(".png")]) == 14
    assert Image.open("out/labels/turned.png").size == (32, 64)


def test_comparing_adds_panels_and_names_missing_labels(demo, home: Path) -> None:
    Path("labels/0001.png").unlink()
    result = demo("--input", "photos", "--output", "out", "--compare", "labels", "--semantic-priors")
    assert_refused(result, "1 of 2 inputs", "0001.jpg: no label file labels/0001.png")
    assert Image.open("out/0000.png").width > 4 * 300
    Image.fromarray(np.zeros((3, 3), np.uint8)).save("labels/0001.png")
    assert_refused(
        demo("--input", "photos", "--output", "out", "--compare", "labels"),
        "label file labels/0001.png is 3 x 3",
        "the same size",
    )
    Image.fromarray(np.full_like(np.asarray(Image.open("labels/0000.png")), 99)).save("labels/0001.png")
    assert_refused(demo("--input", "photos/0001.jpg", "--output", "out", "--compare", "labels"), "label id 99")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--input", "photo.jpg"], ["no display", "--output"]),
        (["--input", "photos", "--output", "one.png"], ["--output one.png", "folder"]),
        (["--input", "photo.jpg", "--output", "one.mp4"], ["--output one.mp4", ".png"]),
        (["--input", "drive.mp4", "--output", "one.avi"], ["--output one.avi", ".mp4"]),
        (["--input", "album", "--output", "album"], ["overwritten"]),
        (["--input", "photo.jpg", "--output", "photo.jpg/out"], ["--output photo.jpg/out", "cannot be written"]),
        (["--input", "output", "--output", "out"], ["output", "no image or video"]),
        (["--input", "*.gif", "--output", "out"], ["*.gif", "matches no"]),
        (["--input", "photo.jpg", "--output", "out", "--opacity", "7"], ["--opacity 7"]),
        (["--input", "photo.jpg", "--output", "out", "--compare", "nowhere"], ["--compare nowhere"]),
        (["--input", "drive.mp4", "--output", "out", "--compare", "labels"], ["--compare", "videos"]),
        (["--input", "photo.jpg", "--output", "out", "--weights", "gone.pth"], ["gone.pth"]),
        (["--input", "photo.jpg", "--output", "out", "--weights", "photos"], ["photos", "config.yaml"]),
    ],
)
def test_impossible_commands_are_one_line(demo, home: Path, words: list[str], expected: list[str]) -> None:
    assert_refused(demo(*words), *expected)


def test_a_window_needs_opencv_with_windows(demo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", refuse)
    assert_refused(demo("--input", "photo.jpg"), "install opencv-python instead")
