"""Class pixels of a dataset, compared with a loop over pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2.data.statistics import class_pixels
from semask_d2.utils.errors import UserError


def write_labels(folder: Path, maps: list[np.ndarray]) -> list[dict]:
    dicts = []
    for number, labels in enumerate(maps):
        path = folder / f"{number}.png"
        Image.fromarray(labels).save(path)
        dicts.append({"file_name": str(path.with_suffix(".jpg")), "sem_seg_file_name": str(path)})
    return dicts


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_are_those_of_a_loop(tmp_path: Path, workers: int) -> None:
    rng = np.random.default_rng(0)
    choices = np.array([0, 1, 2, 3, 255], np.uint8)
    maps = [choices[rng.integers(0, 5, (7, 9))] for _ in range(4)] + [np.full((3, 3), 300, np.uint16)]
    maps[-1][0] = 2
    dicts = write_labels(tmp_path, maps)
    wide = class_pixels(dicts, num_classes=301, ignore_label=255, workers=workers)
    slow = [[sum(int(x) == k for x in labels.flat) * (k != 255) for k in range(301)] for labels in maps]
    np.testing.assert_array_equal(wide, slow)
    assert wide.dtype == np.int64


def test_the_first_wrong_file_is_named(tmp_path: Path) -> None:
    dicts = write_labels(tmp_path, [np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8)])
    with pytest.raises(UserError, match=r"1\.png holds label id 7"):
        class_pixels(dicts, num_classes=3, ignore_label=255)
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        class_pixels([{"sem_seg_file_name": str(tmp_path / "gone.png")}], num_classes=3, ignore_label=255)
