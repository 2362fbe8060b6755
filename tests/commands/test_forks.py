"""`semask predict` in several processes: the same pictures as in one, its pace, its errors, and Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from semask_d2.__main__ import main
from semask_d2.data.parallel import usable_cores
from semask_d2.utils.files import MARK
from tests.helpers.forks import two_forks_for_few_items

# torch warns where there is a single core
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
COUNT = 5
PACE = r"^{} images in \d+\.\d s, \d+\.\d\d images per second$"


@pytest.fixture
def photos(toy_root: Path, tmp_path: Path) -> Path:
    """Return a folder of images."""
    folder = tmp_path / "photos"
    shutil.copytree(toy_root / "toy_scenes/images/validation", folder)
    assert len(list(folder.iterdir())) == COUNT
    return folder


@pytest.fixture
def two_forks() -> Iterator[None]:
    """Let two forks draw however few images there are."""
    with two_forks_for_few_items():
        yield


def predict(run: Path, photos: Path, output: Path, workers: int) -> int:
    words = ("--weights", run, "--input", photos, "--output", output, "--labels", "DATALOADER.NUM_WORKERS", workers)
    return main(["predict", *map(str, words)])


def test_forks_draw_what_one_process_does(two_forks, tiny_run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    outputs = []
    for workers in (1, 0):
        if not workers:
            torch.set_num_threads(1)  # as in a fork: products of several threads are rounded differently
        assert predict(tiny_run, photos, tmp_path / str(workers), workers) == 0
        outputs.append(capsys.readouterr().out)
    for path in photos.iterdir():
        for name in (f"{path.stem}.png", f"labels/{path.stem}.png"):
            assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    for number, out in zip((1, 0), outputs, strict=True):
        lines = [f"{path} -> {tmp_path / str(number) / path.stem}.png" for path in sorted(photos.iterdir())]
        assert [line for line in out.splitlines() if "->" in line] == lines
        assert re.search(PACE.format(COUNT), out, re.M)


def test_each_input_that_cannot_be_drawn_is_named(two_forks, tiny_run: Path, photos: Path, tmp_path: Path, capsys):
    (photos / "0001.jpg").write_bytes(b"no image")
    (photos / "0003.jpg").write_bytes((photos / "0000.jpg").read_bytes()[:300])
    assert predict(tiny_run, photos, tmp_path / "out", 1) == 1
    out, err = capsys.readouterr()
    assert re.search(PACE.format(COUNT - 2), out, re.M)
    lines = err[err.index("error: ") :].splitlines()
    assert lines[0] == f"error: 2 of {COUNT} inputs could not be drawn:"
    assert [name in line for name, line in zip(("0001.jpg", "0003.jpg"), lines[1:], strict=True)] == [True, True]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["0000.png", "0002.png", "0004.png"]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a process that a script has put in the background ignores it


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or usable_cores() < 2, reason="forks need Linux and two cores")
def test_ctrl_c_leaves_whole_pictures_and_no_process(tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    for number in range(400):
        (photos / f"more_{number}.jpg").hardlink_to(photos / "0000.jpg")
    output = tmp_path / "out"
    words = ("--weights", tiny_run, "--input", photos, "--output", output, "DATALOADER.NUM_WORKERS", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "semask_d2", "predict", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    while len(list(output.glob("*.png"))) < 5:  # drawn by forks, after the first image
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    forked = children(process.pid)
    assert len(forked) == 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to all processes of the command
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].endswith("interrupted")
    assert "Traceback" not in err
    assert not any(Path("/proc", pid).exists() for pid in forked)
    pictures = list(output.glob("*.png"))
    assert 5 <= len(pictures) < 405
    for path in pictures:
        Image.open(path).verify()
    assert not [path for path in output.iterdir() if MARK in path.name]
