"""Folders of images and label files as users have them, and what `semask init-data` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from semask_d2.__main__ import main


def photograph(path: Path, seed: int) -> None:
    """Write a picture (40, 50) of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(path)


def labels(path: Path, values: np.ndarray) -> None:
    """Write a label file (40, 50) of ids or colors (2, 5), each in a block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.repeat(20, axis=0).repeat(10, axis=1)).save(path)


IDS = np.array([[7, 7, 8, 26, 255], [8, 8, 7, 7, 26]], np.uint8)
COLORS = np.array([[0, 0, 0], [128, 64, 128], [220, 20, 60]], np.uint8)


def described(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The file that `init-data` writes, with no word but the folder."""
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml")]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())


def with_ids(folder: Path, values: np.ndarray, suffix: str = ".png") -> None:
    """Three photographs with label files of the values, three times each."""
    for number in range(3):
        photograph(folder / f"images/{number}.jpg", number)
        (folder / "masks").mkdir(exist_ok=True)
        picture = Image.fromarray(np.resize(values, (2, 5)).repeat(20, axis=0).repeat(10, axis=1))
        picture.save(folder / f"masks/{number}{suffix}")


def follow(folder: Path, tmp_path: Path, words: list[str]) -> dict[str, Any]:
    """The file that the advice leads to, which the check takes."""
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml"), *words]) == 0
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())
