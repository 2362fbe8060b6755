"""On a data set where a class is rare, each means against it shows that class sooner than a plain training."""

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
MEANS = {
    "plain": (),
    "images": ("DATALOADER.RARE_CLASS_TEMPERATURE", "0.01"),
    "weights": ("MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "['auto']"),
}


def paint(folder: Path, split: str, number: int, *, sign: bool) -> None:
    """Sky above a road, in noise, and with `sign` a disc that fills a twentieth of the picture."""
    rng = np.random.default_rng([number, split == "b"])
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[rng.integers(24, 40) :] = 1
    if sign:
        rows, columns = np.mgrid[:SIDE, :SIDE]
        y, x = rng.integers(8, SIDE - 8, 2)
        labels[(rows - y) ** 2 + (columns - x) ** 2 < 64] = 2
    image = COLORS[labels] + rng.normal(0, 15, (SIDE, SIDE, 3))
    write_pair(folder, split, f"{number:02d}", labels, image.clip(0, 255).astype(np.uint8))
