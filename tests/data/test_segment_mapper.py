"""Panoptic maps and instances as training sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2.config import get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.data import get_dataset_dicts
from semask_d2.data.loader import build_train_loader, has_instances
from semask_d2.data.mappers import build_mapper
from semask_d2.data.segment_mapper import InstanceMapper, visible_segments
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, TINY


def task_cfg(task: str, *options: object) -> CfgNode:
    file = ROOT / f"configs/toy_scenes_{task}/semask_swin_mini_msfapn_m2f.yaml"
    return get_cfg(file, [*TINY, *map(str, options)])


def plain_mapper(**options: Any) -> InstanceMapper:
    """Of instances of two classes, without augmentation."""
    settings = {"image_format": "RGB", "num_classes": 2, "ignore_label": 255, "short_edges": [0], "max_size": 99}
    return InstanceMapper(True, **(settings | options))


def box(left: int, top: int, width: int, height: int) -> list[list[int]]:
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def make_sample(folder: Path, *annotations: dict[str, Any]) -> dict[str, Any]:
    Image.new("RGB", (12, 10)).save(folder / "a.png")
    return {"file_name": str(folder / "a.png"), "height": 10, "width": 12, "annotations": [*annotations]}


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_segments_and_labels_are_of_one_view(toy_data: Path, task: str) -> None:
    cfg = task_cfg(task)
    mapper = build_mapper(cfg, is_train=True)
    for seed, sample in enumerate(get_dataset_dicts(f"toy_scenes_{task}_train")):
        mapped = mapper(sample, rng=np.random.default_rng(seed))
        masks, classes = mapped["segments"]
        assert mapped["image"].shape[1:] == masks.shape == mapped["sem_seg"].shape == (64, 64)
        assert masks.unique().tolist() in ([*range(len(classes) + 1)], [*range(1, len(classes) + 1)])
        implied = torch.cat([torch.tensor([255]), classes])[masks.long()]
        assert torch.equal(implied, mapped["sem_seg"].long())  # the toy has no crowds
        assert not {"annotations", "segments_info"} & mapped.keys()


def test_objects_that_overlap_are_masks_and_others_a_map(tmp_path: Path) -> None:
    first = {"category_id": 0, "iscrowd": 0, "segmentation": box(0, 0, 6, 6)}
    beside = {"category_id": 1, "iscrowd": 0, "segmentation": box(6, 0, 3, 3)}
    above = {"category_id": 1, "iscrowd": 0, "segmentation": box(2, 2, 3, 3)}
    masks, classes = plain_mapper()(make_sample(tmp_path, first, beside))["segments"]
    assert masks.shape == (10, 12)
    assert classes.tolist() == [0, 1]
    assert [(masks == i).sum() for i in (1, 2)] == [36, 9]
    mapped = plain_mapper()(make_sample(tmp_path, first, above))
    masks, classes = mapped["segments"]
    assert masks.shape == (2, 10, 12)
    assert masks.sum((1, 2)).tolist() == [36, 9]
    assert mapped["sem_seg"][3, 3] == 1  # the smaller one is on top
    assert mapped["sem_seg"][9, 9] == 255


def test_crowds_are_labels_and_no_segments(tmp_path: Path) -> None:
    crowd = {"category_id": 1, "iscrowd": 1, "segmentation": {"size": [10, 12], "counts": [0, 20, 100]}}
    sample = make_sample(tmp_path, crowd)
    mapped = plain_mapper()(sample)
    assert mapped["segments"].masks.shape == (10, 12)
    assert len(mapped["segments"].classes) == 0
    assert (mapped["sem_seg"] == 1).sum() == 20
    assert not has_instances(sample)
    assert has_instances({"annotations": [crowd, crowd | {"iscrowd": 0}]})
    assert has_instances({"segments_info": []})


def test_what_a_crop_leaves_nothing_of_is_left_out() -> None:
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, :2] = masks[2, 1:] = 1
    kept, classes = visible_segments(masks, [5, 6, 7])
    assert classes.tolist() == [5, 7]
    assert torch.equal(kept, torch.from_numpy(masks[[0, 2]]))
    ids, classes = visible_segments(np.array([[0, 3], [1, 3]]), [5, 6, 7])
    assert classes.tolist() == [5, 7]
    assert ids.tolist() == [[0, 2], [1, 2]]
    for nothing in (np.zeros((2, 4, 4), np.uint8), np.zeros((4, 4), np.int32)):
        ids, classes = visible_segments(nothing, [5, 6])
        assert ids.shape == (4, 4)
        assert not ids.any()
        assert len(classes) == 0


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_large_scale_jitter_fills_a_square(toy_data: Path, task: str) -> None:
    options = ("INPUT.DATASET_MAPPER_NAME", f"coco_{task}_lsj", "INPUT.IMAGE_SIZE", 96)
    sample = get_dataset_dicts(f"toy_scenes_{task}_train")[0]
    for scales, padded in (((0.5, 0.5), True), ((2.0, 2.0), False)):
        cfg = task_cfg(task, *options, "INPUT.MIN_SCALE", scales[0], "INPUT.MAX_SCALE", scales[1])
        mapped = build_mapper(cfg, is_train=True)(sample, rng=np.random.default_rng(0))
        masks = mapped["segments"].masks
        assert mapped["image"].shape == (3, 96, 96)
        assert masks.shape == mapped["sem_seg"].shape == (96, 96)
        assert bool((masks[48:] == 0).all() and (mapped["sem_seg"][:, 48:] == 255).all()) == padded
    assert build_mapper(cfg, is_train=False)(sample)["image"].shape == (3, 64, 64)
    with pytest.raises(UserError, match=r"INPUT\.MIN_SCALE: expected above 0"):
        build_mapper(task_cfg(task, *options, "INPUT.MIN_SCALE", 3.0), is_train=True)


def test_what_does_not_fit_is_named(toy_data: Path, tmp_path: Path) -> None:
    mapper = build_mapper(task_cfg("panoptic"), is_train=True)
    sample = get_dataset_dicts("toy_scenes_panoptic_train")[0]
    with pytest.raises(UserError, match="which no annotation names"):
        mapper(sample | {"segments_info": sample["segments_info"][1:]})
    extra = sample["segments_info"][0] | {"id": 999}
    with pytest.raises(UserError, match="no pixel of the segment 999"):
        mapper(sample | {"segments_info": [*sample["segments_info"], extra]})
    with pytest.raises(UserError, match="has no pan_seg_file_name"):
        mapper({"file_name": sample["file_name"]})
    with pytest.raises(UserError, match="neither polygons nor RLE"):
        plain_mapper()(make_sample(tmp_path, {"category_id": 0, "iscrowd": 0, "segmentation": [[1, 2]]}))


def test_images_without_objects_are_left_out_of_training(toy_data: Path) -> None:
    full = get_dataset_dicts("toy_scenes_instance_train")
    count = sum(bool(x["annotations"]) for x in full)
    assert len(build_train_loader(task_cfg("instance")).dicts) == count
