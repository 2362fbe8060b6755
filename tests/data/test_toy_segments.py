"""Segments of toy_scenes agree with its labels, are the same everywhere, and are added to folders that lack them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from semask_d2.d2 import MetadataCatalog
from semask_d2.data import get_dataset_dicts
from semask_d2.data.annotations import decoded_mask
from semask_d2.data.datasets import toy_painter, toy_scenes, toy_segments
from semask_d2.data.image_io import read_labels
from semask_d2.data.segments import read_segment_ids
from semask_d2.utils.errors import UserError


def test_they_are_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for number in range(4):
        digest.update(toy_segments.paint_segments(0, number)[0].tobytes())
    assert digest.hexdigest()[:16] == "b168f712ee46e4e5"


def test_segments_imply_the_labels(toy_data: Path) -> None:
    things = {*MetadataCatalog.get("toy_scenes_panoptic_train").thing_dataset_id_to_contiguous_id.values()}
    assert things == {*toy_painter.THINGS}
    several = False
    for sample in get_dataset_dicts("toy_scenes_panoptic_train"):
        labels = read_labels(Path(sample["file_name"].replace("images", "annotations")).with_suffix(".png"))
        ids = read_segment_ids(sample["pan_seg_file_name"])
        assert {0, *(x["id"] for x in sample["segments_info"])} == {0, *np.unique(ids).tolist()}
        painted = np.full_like(labels, 255)
        for segment in sample["segments_info"]:
            mask = ids == segment["id"]
            painted[mask] = segment["category_id"]
            left, top, width, height = segment["bbox"]
            assert segment["area"] == mask.sum() == mask[top : top + height, left : left + width].sum()
        np.testing.assert_array_equal(painted, labels)
        classes = [x["category_id"] for x in sample["segments_info"]]
        assert not [c for c in set(classes) - things if classes.count(c) > 1]
        several |= len(set(classes)) < len(classes)
    assert several  # objects of one class are separate segments


def test_instances_are_the_things_of_the_panoptic_maps(toy_data: Path) -> None:
    panoptic = get_dataset_dicts("toy_scenes_panoptic_val")
    names = MetadataCatalog.get("toy_scenes_instance_val").thing_classes
    assert names == [toy_painter.CLASSES[i] for i in toy_painter.THINGS]
    for whole, sample in zip(panoptic, get_dataset_dicts("toy_scenes_instance_val"), strict=True):
        ids = read_segment_ids(whole["pan_seg_file_name"])
        things = [x for x in whole["segments_info"] if x["category_id"] in toy_painter.THINGS]
        for thing, x in zip(things, sample["annotations"], strict=True):
            assert names[x["category_id"]] == toy_painter.CLASSES[thing["category_id"]]
            mask = decoded_mask(x["segmentation"], sample["height"], sample["width"], "")
            np.testing.assert_array_equal(mask, ids == thing["id"])


def test_a_folder_without_them_gets_them_and_keeps_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    toy_scenes.generate(tmp_path / "toy_scenes", {"training": 2, "validation": 1})
    files = {p: p.read_bytes() for p in (tmp_path / "toy_scenes").rglob("*") if p.is_file()}
    assert len(get_dataset_dicts("toy_scenes_panoptic_train")) == 2
    assert {p: p.read_bytes() for p in files} == files
    monkeypatch.setattr(toy_painter, "paint_objects", None)
    assert len(get_dataset_dicts("toy_scenes_instance_val")) == 1
    assert not [p for p in (tmp_path / "toy_scenes").iterdir() if p.name.startswith(".")]


def test_faults_of_the_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    toy_scenes.generate(tmp_path / "toy_scenes", {"training": 1, "validation": 1})
    get_dataset_dicts("toy_scenes_panoptic_train")
    file = tmp_path / "toy_scenes/segments/panoptic_training.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(
        UserError,
        match=r"panoptic_training\.json: .*0000\.jpg: segments_info\[0\]: a segment with unknown category id 77",
    ):
        get_dataset_dicts("toy_scenes_panoptic_train")
    file.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(UserError, match=r"0000\.jpg has 0 annotations"):
        get_dataset_dicts("toy_scenes_panoptic_train")
    file.write_text("{}")
    with pytest.raises(UserError, match=r"not in COCO format: expected images, annotations with segments_info"):
        get_dataset_dicts("toy_scenes_panoptic_train")
    file.unlink()
    with pytest.raises(UserError, match=r"toy_scenes_panoptic_train.* is not there: no file .*remove the whole folder"):
        get_dataset_dicts("toy_scenes_panoptic_train")
