"""Datasets as bytes: dicts are restored exactly, and loading processes see the same."""

from __future__ import annotations

import numpy as np
import pytest

from semask_d2 import get_cfg
from semask_d2.data import get_dataset_dicts
from semask_d2.data.labels import CocoLabels, CocoSegment, LabelFormat
from semask_d2.data.loader import build_test_loader, build_train_loader
from semask_d2.data.serialized import SerializedDicts
from tests.helpers.commands import TINY, TOY_CONFIG

FORMAT = LabelFormat(255, id_map=tuple((i, i % 7) for i in range(500)))
SEGMENTS = (CocoSegment(1, 2, [[0.5, 1, 2, 3, 4, 5]]), CocoSegment("b", 0, {"size": [4, 5], "counts": [20]}))
DICTS = [
    {"file_name": "a.jpg", "sem_seg_file_name": "a.png", "label_format": FORMAT},
    {"file_name": "ä.jpg", "height": None, "annotations": [{"bbox": [1, 2.5], "iscrowd": 0}], "label_format": FORMAT},
    {"file_name": "c.jpg", "coco_labels": CocoLabels("c", 4, 5, 255, SEGMENTS), "label_format": LabelFormat(0)},
    {"box": np.arange(4)},
    {},
]


def test_dicts_come_back_as_they_were() -> None:
    stored = SerializedDicts(DICTS)
    assert len(stored) == 5
    assert [x for x in stored if "box" not in x] == [x for x in DICTS if "box" not in x]
    assert stored[3]["box"].tolist() == [0, 1, 2, 3]
    assert stored[-1] == {} == stored[np.int64(4)]
    assert stored[1:3] == DICTS[1:3]
    assert stored[0]["label_format"] is stored[1]["label_format"]  # one object per dataset, not one per image
    for index in (5, -6):
        with pytest.raises(IndexError):
            stored[index]
    assert list(SerializedDicts([])) == []


def test_each_reading_is_a_dict_of_its_own() -> None:
    stored = SerializedDicts(DICTS)
    stored[1]["annotations"].clear()
    stored[1]["target_class"] = 3
    assert stored[1] == DICTS[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_hold_bytes_and_give_the_data_set(toy_data, workers: int) -> None:
    cfg = get_cfg(TOY_CONFIG, [*TINY, "DATALOADER.NUM_WORKERS", str(workers)])
    train, test = build_train_loader(cfg), build_test_loader(cfg, "toy_scenes_val")
    assert isinstance(train.dicts, SerializedDicts)
    assert isinstance(test.loader.dataset.dicts, SerializedDicts)
    assert list(train.dicts) == get_dataset_dicts("toy_scenes_train")
    names = [x["file_name"] for batch in test for x in batch]
    assert names == [x["file_name"] for x in get_dataset_dicts("toy_scenes_val")]
