"""The trainer, called from a user's program."""

from __future__ import annotations

from pathlib import Path

import pytest

from semask_d2 import Predictor, get_cfg
from semask_d2.engine import Trainer
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.fixture
def cfg(tmp_path: Path, toy_data: Path):
    options = ("SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(tmp_path / "run"))
    return get_cfg(TOY_CONFIG, [*TINY, *options])


def test_a_run_from_python_can_be_predicted_with(cfg) -> None:
    results = Trainer(cfg).train()
    assert results["sem_seg"]["mIoU"] >= 0
    predictor = Predictor.from_run(cfg.OUTPUT_DIR)
    assert predictor.cfg.MODEL.SWIN == cfg.MODEL.SWIN


def test_settings_are_checked_before_anything_is_built(cfg) -> None:
    cfg.SOLVER.MAX_ITER = 0
    with pytest.raises(UserError, match=r"SOLVER\.MAX_ITER: expected at least 1, got 0"):
        Trainer(cfg)
    assert not Path(cfg.OUTPUT_DIR).exists()
