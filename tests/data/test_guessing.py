"""`semask init-data`: a folder's images, labels, splits and ids, as a file that the check accepts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semask_d2.__main__ import main
from tests.helpers.own_data import write_data


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(path)


def labels(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.repeat(20, axis=0).repeat(10, axis=1)).save(path)


IDS = np.array([[7, 7, 8, 26, 255], [8, 8, 7, 7, 26]], np.uint8)
COLORS = np.array([[0, 0, 0], [128, 64, 128], [220, 20, 60]], np.uint8)


def described(folder: Path, tmp_path: Path) -> dict:
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml")]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())


def test_folders_of_splits_and_ids_with_gaps(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(4):
            photograph(tmp_path / f"data/images/{split}/{number}.jpg", number + 10 * (split == "val"))
            labels(tmp_path / f"data/masks/{split}/{number}.png", IDS)
    content = described(tmp_path / "data", tmp_path)
    assert content["train"] == {"images": "images/train/*.jpg", "labels": "masks/train/*.png"}
    assert content["val"] == {"images": "images/val/*.jpg", "labels": "masks/val/*.png"}
    assert content["names"] == {0: "class_0", 1: "class_1", 2: "class_2"}
    assert content["map"] == {7: 0, 8: 1, 26: 2}
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0


def test_endings_several_folders_colors_and_no_split(tmp_path: Path) -> None:
    for place in ("x", "y"):
        for number in range(8):
            photograph(tmp_path / f"data/pictures/{place}/{number}_left.jpg", number + 10 * (place == "y"))
            colored = COLORS[np.arange(10).reshape(2, 5) % 3]
            labels(tmp_path / f"data/drawn/{place}/{number}_ids.png", colored)
    content = described(tmp_path / "data", tmp_path)
    assert content["train"]["images"] == ["pictures/x/*_left.jpg", "pictures/y/*_left.jpg"]
    assert content["train"]["labels"] == ["drawn/x/*_ids.png", "drawn/y/*_ids.png"]
    assert content["val"] == 0.1
    assert content["rgb"] == {"#000000": 0, "#804080": 1, "#dc143c": 2}
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0


def test_images_and_labels_in_one_folder(tmp_path: Path) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/{number}.jpg", number)
        labels(tmp_path / f"data/{number}.png", IDS % 7)
    assert described(tmp_path / "data", tmp_path)["train"] == {"images": "*.jpg", "labels": "*.png"}


def test_folders_that_tell_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    photograph(tmp_path / "photos/a.jpg", 0)
    for folder, message in (
        ("gone", "there is no such folder"),
        ("empty", "no picture in it"),
        ("photos", "found photographs in 1 place(s) and label files in 0"),
    ):
        assert main(["init-data", str(tmp_path / folder), "--output", str(tmp_path / "new.yaml")]) == 1
        assert message in capsys.readouterr().err
    file = write_data(tmp_path)
    assert main(["init-data", str(tmp_path / "photos"), "--output", str(file)]) == 1
    assert "is there already" in capsys.readouterr().err
