"""Fixtures shared by the tests of `semask_d2.d2`: Detectron2's logs, and a small training run."""

from __future__ import annotations

import logging

import pytest

from semask_d2 import d2
from tests.helpers.toy_run import Run


@pytest.fixture
def d2_log(caplog):
    """Records of Detectron2's loggers, whether or not they propagate."""
    logger = logging.getLogger("detectron2")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(caplog.handler)
    return caplog


@pytest.fixture
def make_run(tmp_path):
    """A function that returns a run in `tmp_path/run`; its arguments are settings as KEY, VALUE pairs."""

    def make(*opts):
        cfg = d2.get_cfg()
        cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path / "run"), "DATASETS.TEST", ("toy_val",), *opts])
        return Run(cfg)

    return make
