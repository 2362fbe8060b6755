"""Fixtures of the data tests: a small folder of images and labels, and a config that trains on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2.config import add_semask_config
from semask_d2.d2 import CfgNode, get_cfg

CLASSES = 5


@pytest.fixture
def pairs(tmp_path: Path) -> list[dict[str, str]]:
    """Seven images of 40 x 30 with labels 0..4 and 255; the red of every pixel is 40 times its id (200: ignored)."""
    rng = np.random.default_rng(0)
    dicts = []
    for number in range(7):
        ids = rng.integers(0, CLASSES + 1, (3, 4)).repeat(10, axis=0).repeat(10, axis=1).astype(np.uint8)
        image = np.stack([40 * ids, np.full_like(ids, number), np.full_like(ids, 90)], axis=-1)
        labels = np.where(ids == CLASSES, 255, ids).astype(np.uint8)
        dicts.append(
            {
                "file_name": str(tmp_path / f"{number}.image.png"),
                "sem_seg_file_name": str(tmp_path / f"{number}.png"),
            }
        )
        Image.fromarray(image).save(dicts[-1]["file_name"])
        Image.fromarray(labels).save(dicts[-1]["sem_seg_file_name"])
    return dicts


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_semask_config(cfg)
    cfg.SEED = 7
    cfg.MODEL.META_ARCHITECTURE = "SeMaskMaskFormer"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 30, 45)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [32, 32]
    cfg.INPUT.SIZE_DIVISIBILITY = 32
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg
