"""Logs of a job that cannot be written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from semask_d2.engine.setup import LOGGERS, setup
from tests.helpers.tiny_model import tiny_cfg


def test_a_log_that_cannot_be_written_does_not_bury_what_a_job_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cfg = tiny_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    setup(cfg, training=False, resume=False)
    handlers = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
    assert handlers

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    for handler in handlers:
        monkeypatch.setattr(handler, "format", fail)
    capsys.readouterr()
    logging.getLogger("semask_d2").warning("something")
    assert capsys.readouterr().err == ""
    assert logging.raiseExceptions is True  # of other libraries' logs
