"""A small custom dataset: images and label files in folders, and the YAML file that describes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("sky", "road", "car")
TEXT = """
train: {images: "img/a/*.png", labels: "lab/a/*.png"}
val: {images: "img/b/*.png", labels: "lab/b/*.png"}
names: [sky, road, car]
"""


def write_pair(folder: Path, split: str, name: str, labels: np.ndarray, image: np.ndarray | None = None) -> None:
    """Write `img/SPLIT/NAME.png` and `lab/SPLIT/NAME.png`; the default image depends on its labels and its name."""
    if image is None:
        noise = np.random.default_rng(list(f"{split}{name}".encode())).integers(0, 60, (*labels.shape, 3))
        image = (noise + 60 * (labels[:, :, None] % 3)).astype(np.uint8)
    for kind, picture in (("img", image), ("lab", labels)):
        path = folder / kind / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def write_data(folder: Path, text: str = TEXT, *, count: int = 4, size: tuple[int, int] = (12, 16)) -> Path:
    """Write `count` pairs with all classes for each of two splits, and `mine.yaml`; return its path."""
    rng = np.random.default_rng(0)
    for split in ("a", "b"):
        for number in range(count):
            labels = rng.integers(0, len(NAMES), size).astype(np.uint8)
            labels[0, :4] = (0, 1, 2, 255)
            write_pair(folder, split, str(number), labels)
    return write_file(folder, text)


def write_file(folder: Path, text: str) -> Path:
    """Write `mine.yaml`."""
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return folder / "mine.yaml"
