"""Panoptic maps and instances as training reads them."""

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
from semask_d2.data.loader import has_instances
from semask_d2.data.mappers import build_mapper
from semask_d2.data.segment_mapper import InstanceMapper, visible_segments
from semask_d2.data.segments import panoptic_segments
from semask_d2.evaluation.panoptic import PanopticCounts
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, TINY


def task_cfg(task: str, *options: object) -> CfgNode:
    file = ROOT / f"configs/toy_scenes_{task}/semask_swin_mini_msfapn_m2f.yaml"
    return get_cfg(file, [*TINY, *map(str, options)])


def plain_mapper(**options: Any) -> InstanceMapper:
    """Return a mapper for instances of two classes, without augmentation."""
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
        assert torch.equal(implied, mapped["sem_seg"].long())  # toy_scenes has no crowds
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
    with pytest.raises(UserError, match="has no pan_seg_file_name"):
        mapper({"file_name": sample["file_name"]})
    with pytest.raises(UserError, match="has no annotations"):
        plain_mapper()({"file_name": sample["file_name"]})
    wrong = {"category_id": 2, "iscrowd": 0, "segmentation": box(1, 1, 3, 3)}
    with pytest.raises(UserError, match=r"a\.png holds label id 2, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 2"):
        plain_mapper()(make_sample(tmp_path, wrong))


def test_a_segment_without_a_pixel_is_left_out(toy_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapper = build_mapper(task_cfg("panoptic"), is_train=True)
    sample = get_dataset_dicts("toy_scenes_panoptic_train")[0]
    ghost = sample["segments_info"][0] | {"id": 999}
    one, other = (
        mapper(sample | {"segments_info": [*sample["segments_info"], *more]}, rng=np.random.default_rng(0))
        for more in ([], [ghost])
    )
    assert torch.equal(one["segments"].masks, other["segments"].masks)
    assert torch.equal(one["segments"].classes, other["segments"].classes)
    assert "has no pixel of segment 999, which its annotations name; left out" in caplog.text


def test_annotations_that_cannot_be_used_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = {"id": 5, "category_id": 1, "segmentation": box(1, 1, 3, 3)}
    bad = [
        {"id": 6, "category_id": 0, "iscrowd": None, "segmentation": [[1, 2]]},
        {"id": 7, "category_id": 0, "segmentation": None, "bbox": [1, 1, 4, 4]},
        {"id": 8, "category_id": 0, "segmentation": [[2, 2, float("nan"), 2, 4, 4]]},
        {"id": 9, "category_id": 0, "segmentation": box(-9, -9, 3, 3)},
        {"category_id": 0, "segmentation": []},
    ]
    masks, classes = plain_mapper()(make_sample(tmp_path, *bad, good))["segments"]
    assert classes.tolist() == [1]
    assert masks.nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    for annotation in (6, 7, 8, 9, 4):  # an annotation without an id is named by its index
        assert f"a.png: annotation {annotation}: " in caplog.text


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("sides", [{"height": 40}, {"width": 48}, {"height": 40, "width": 48}])
def test_annotations_for_another_size_are_refused(tmp_path: Path, is_train: bool, sides: dict[str, int]) -> None:
    sample = make_sample(tmp_path, {"category_id": 1, "segmentation": box(1, 1, 3, 3)}) | sides
    mapper = plain_mapper()
    mapper.is_train = is_train
    with pytest.raises(UserError, match=r"a\.png is 12 x 10, but its annotations are for .*same size"):
        mapper(sample)


def test_sizes_may_be_left_out(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, {"category_id": 1, "segmentation": box(1, 1, 3, 3)})
    without = {key: value for key, value in sample.items() if key not in ("height", "width")}
    for sizes in ({}, {"height": None, "width": None}):
        mapped = plain_mapper()(without | sizes)
        assert (mapped["height"], mapped["width"]) == (10, 12)
        assert mapped["segments"].classes.tolist() == [1]


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 3)])
def test_a_segment_may_have_the_id_zero(tmp_path: Path, numbers: tuple[int, int, int]) -> None:
    Image.new("RGB", (12, 10)).save(tmp_path / "a.png")
    ids = np.zeros((10, 12, 3), np.uint8)
    ids[..., 0] = np.repeat(numbers, 4)
    Image.fromarray(ids).save(tmp_path / "p.png")
    segments = [{"id": number, "category_id": i} for i, number in enumerate(numbers)]
    sample = {"file_name": str(tmp_path / "a.png"), "pan_seg_file_name": str(tmp_path / "p.png")}
    sample["segments_info"] = segments
    segment_ids, facts = panoptic_segments(sample)
    assert [(segment_ids[0, 4 * i], x["category_id"], x["iscrowd"]) for i, x in enumerate(facts)] == [
        (x["id"], i, 0) for i, x in enumerate(facts)
    ]
    assert 0 not in segment_ids
    quality = PanopticCounts(3)
    quality.update(segment_ids, facts, segment_ids, facts)
    assert quality.by_class()["PQ"].tolist() == [100.0] * 3
    for wrong, message in (([segments[0]] * 2, "several segments"), (None, "no segments_info")):
        with pytest.raises(UserError, match=message):
            panoptic_segments(sample | {"segments_info": wrong})
