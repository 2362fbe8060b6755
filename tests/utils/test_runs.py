"""Choosing the checkpoint of a run, and the newest run."""

from __future__ import annotations

import os
from pathlib import Path

from semask_d2.utils.runs import newest_run, run_weights


def make_run(folder: Path, *names: str, time: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("VERSION: 2\n")
    for name in names:
        (folder / name).write_text("")
        os.utime(folder / name, (time, time))
    return folder


def test_the_newest_run_has_the_newest_weights(tmp_path: Path) -> None:
    assert newest_run(tmp_path / "nowhere") is None
    make_run(tmp_path / "untrained", time=9)
    assert newest_run(tmp_path) is None
    make_run(tmp_path / "z", "model_best.pth", time=1)
    newer = make_run(tmp_path / "deep/er/a", "model_final.pth", time=2)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/model_best.pth").write_text("")  # not a run, as there is no config
    os.utime(tmp_path / "z/config.yaml", (5, 5))
    assert newest_run(tmp_path) == newer


def test_a_last_checkpoint_that_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", time=1)
    (run / "last_checkpoint").write_text("model_0000001.pth")
    assert run_weights(run) is None
    (run / "last_checkpoint").write_text("")
    assert run_weights(run) is None
