"""Rare-class sampling and class weights: each lets the model learn a class that few images show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semask_d2.__main__ import main
from tests.helpers.commands import TINY
from tests.helpers.own_data import write_file, write_pair

SIDE = 64
COLORS = np.array([(110, 140, 180), (120, 120, 110), (220, 60, 50)])
TEXT = """
train: {images: "img/a/*.png", labels: "lab/a/*.png"}
val: {images: "img/b/*.png", labels: "lab/b/*.png"}
names: [sky, road, sign]
"""
TRAINING = (
    *("SOLVER.MAX_ITER", "150", "SOLVER.IMS_PER_BATCH", "8", "SOLVER.WARMUP_ITERS", "5", "SOLVER.BASE_LR", "0.01"),
    *("TEST.EVAL_PERIOD", "150", "SOLVER.CHECKPOINT_PERIOD", "150", "INPUT.COLOR_AUG_SSD", "False"),
)


def draw(folder: Path, split: str, number: int, *, sign: bool) -> None:
    """Write an image of sky over road, with a red disc on 5% of its area if it has a `sign`."""
    rng = np.random.default_rng([number, split == "b"])
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[rng.integers(24, 40) :] = 1
    if sign:
        rows, columns = np.mgrid[:SIDE, :SIDE]
        y, x = rng.integers(8, SIDE - 8, 2)
        labels[(rows - y) ** 2 + (columns - x) ** 2 < 64] = 2
    image = COLORS[labels] + rng.normal(0, 15, (SIDE, SIDE, 3))
    write_pair(folder, split, f"{number:02d}", labels, image.clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_a_rare_class_is_learned_by_sampling_and_by_weights(tmp_path: Path) -> None:
    for number in range(40):
        draw(tmp_path, "a", number, sign=number < 3)
    for number in range(8):
        draw(tmp_path, "b", number, sign=True)
    data = write_file(tmp_path, TEXT)

    def iou(name: str, *settings: str) -> float:
        folder = tmp_path / name
        config = ("--config-file", "toy_scenes/semask_swin_mini_fpn.yaml", "--data", str(data))
        assert main(["train", *config, *TINY, *TRAINING, "OUTPUT_DIR", str(folder), *settings]) == 0
        (metrics,) = folder.glob("inference/*/metrics.json")
        return next(x["IoU"] for x in json.loads(metrics.read_text())["classes"] if x["name"] == "sign")

    plain = iou("plain")
    sampled = iou("sampled", "DATALOADER.RARE_CLASS_TEMPERATURE", "0.01")
    weighted = iou("weighted", "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "['auto']")
    assert sampled > plain + 10
    assert weighted > plain + 5
