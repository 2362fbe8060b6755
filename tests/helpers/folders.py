"""Folders of images and label files as users have them, and running `semask init-data` on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from semask_d2.__main__ import main


def photograph(path: Path, seed: int) -> None:
    """Write an image (40, 50) of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(path)


def labels(path: Path, values: np.ndarray) -> None:
    """Write a label file (40, 50) of ids or colors (2, 5), each in a block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.repeat(20, axis=0).repeat(10, axis=1)).save(path)


IDS = np.array([[7, 7, 8, 26, 255], [8, 8, 7, 7, 26]], np.uint8)
COLORS = np.array([[0, 0, 0], [128, 64, 128], [220, 20, 60]], np.uint8)


def described(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Run `init-data` with the folder as its only argument, and return the file that it writes."""
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml")]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())


def with_ids(folder: Path, values: np.ndarray, suffix: str = ".png") -> None:
    """Write three photographs with label files of the given values."""
    for number in range(3):
        photograph(folder / f"images/{number}.jpg", number)
        (folder / "masks").mkdir(exist_ok=True)
        picture = Image.fromarray(np.resize(values, (2, 5)).repeat(20, axis=0).repeat(10, axis=1))
        picture.save(folder / f"masks/{number}{suffix}")


def follow(folder: Path, tmp_path: Path, words: list[str]) -> dict[str, Any]:
    """Follow the advice in a message, and return the resulting file, which passes the check."""
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml"), *words]) == 0
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())
