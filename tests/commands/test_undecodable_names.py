"""File names that are not valid UTF-8 through the commands: every message spells them with escapes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from semask_d2.__main__ import main
from semask_d2.d2 import BACKEND
from tests.helpers.commands import TINY, TOY_CONFIG
from tests.helpers.own_data import write_data

SHORT = (*TINY, "SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "TEST.VALIDATION_LOSS", "True")
NAME, ESCAPED = os.fsdecode(b"a\xff\xe9.png"), r"a\udcff\udce9.png"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write a dataset in which one image per split and its label file have an invalid name."""
    file = write_data(tmp_path, size=(64, 80))
    for kind in ("img", "lab"):
        for split in ("a", "b"):
            try:
                (tmp_path / kind / split / "0.png").rename(tmp_path / kind / split / NAME)
            except OSError:
                pytest.skip("this file system only allows names in UTF-8")
    return file


def test_check_writes_its_page(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copyfile(
        tmp_path / "img/a" / NAME, tmp_path / "img/a/1.png"
    )  # a duplicate, so that the report names the file
    assert main(["check", str(data), "--html", str(tmp_path / "x.html"), "--workers", "0"]) in (0, 1)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert ESCAPED in out
    assert ESCAPED in (tmp_path / "x.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_training_its_log_and_its_report(in_process, data: Path, tmp_path: Path) -> None:
    text = data.read_text(encoding="utf-8")
    data.write_text(
        text.replace("/b/", "/a/"), encoding="utf-8"
    )  # shared images, so that a warning in the log names them
    words = ("train_net.py", "--config-file", TOY_CONFIG, "--data", data, *SHORT, "OUTPUT_DIR", tmp_path / "run")
    code, out, err = in_process(*words)
    assert code == 0, err
    assert "Logging error" not in out + err
    assert ESCAPED in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    if BACKEND == "native":
        assert ESCAPED in (tmp_path / "run/log.txt").read_text(encoding="utf-8")
    assert main(["report", "--weights", str(tmp_path / "run")]) == 0
