"""Fixtures of the interoperation tests: documented examples, a small model, and a small dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import get_cfg
from semask_d2.d2 import CfgNode, DatasetCatalog, MetadataCatalog
from tests.helpers.commands import ROOT, TINY, TOY_CONFIG
from tests.helpers.examples import EXAMPLES


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs the documented example under a heading and returns the names it defines.

    It runs in the project's folder; `names` are the variables that the example expects.
    """

    def run_example(heading: str, folder: Path = ROOT, **names: object) -> dict[str, object]:
        monkeypatch.chdir(folder)
        exec(compile(EXAMPLES[heading], f"example: {heading}", "exec"), names)
        return names

    return run_example


@pytest.fixture
def cfg(tmp_path: Path, toy_data: Path) -> CfgNode:
    """Return the config of the tiny model with a temporary output folder."""
    return get_cfg(
        TOY_CONFIG, [*TINY, "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(tmp_path)]
    )


@pytest.fixture
def batch() -> list[dict]:
    """Return two 64 x 64 images with three classes and ignored pixels, in the format of Detectron2's mappers."""
    labels = torch.zeros(64, 64, dtype=torch.int64)
    labels[20:], labels[40:], labels[60:] = 3, 7, 255
    return [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), "sem_seg": labels} for _ in range(2)]


@pytest.fixture
def boxes(tmp_path: Path):
    """Yield a folder with the unregistered dataset `boxes`: four images of a white box, and their labels."""
    for kind in ("images", "labels"):
        (tmp_path / "boxes" / kind).mkdir(parents=True)
    for i in range(4):
        ids = np.zeros((48, 64), np.uint8)
        ids[8 * i : 8 * i + 16, 20:40] = 1
        Image.fromarray(255 * ids).convert("RGB").save(tmp_path / f"boxes/images/{i}.jpg")
        Image.fromarray(ids).save(tmp_path / f"boxes/labels/{i}.png")
    yield tmp_path
    if "boxes" in DatasetCatalog.list():
        DatasetCatalog.remove("boxes")
        MetadataCatalog.remove("boxes")
