"""COCO's datasets under Detectron2's names: classes, files, and missing files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semask_d2 import get_cfg
from semask_d2.d2 import BACKEND, DatasetCatalog, MetadataCatalog
from semask_d2.data import build_mapper, get_dataset_dicts, register_all
from semask_d2.data.datasets import with_classes
from semask_d2.data.datasets.coco import CATEGORIES, COCO_INSTANCE, COCO_PANOPTIC, STUFF, THINGS
from semask_d2.evaluation.tasks import main_metric
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT
from tests.helpers.examples import NEEDS_DETECTRON2

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]


def write_coco(root: Path, split: str = "val") -> None:
    """Two images in COCO's directory layout; the second has a crowd, or one segment of stuff."""
    home = root / "coco"
    for folder in ("annotations", f"{split}2017", f"panoptic_{split}2017"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": f"{i:012}.jpg", "height": 10, "width": 12} for i in (9, 4)]
    for image in images:
        Image.new("RGB", (12, 10)).save(home / f"{split}2017" / image["file_name"])
    thing = {"id": 1, "image_id": 9, "category_id": 90, "segmentation": SQUARE, "area": 16, "bbox": [2, 2, 4, 4]}
    crowd = {**thing, "id": 2, "image_id": 4, "category_id": 1, "iscrowd": 1}
    categories = [{"id": x.id, "name": x.name, "isthing": int(x.is_thing)} for x in CATEGORIES]
    instances = {"images": images, "annotations": [{**thing, "iscrowd": 0}, crowd], "categories": categories[:80]}
    (home / f"annotations/instances_{split}2017.json").write_text(json.dumps(instances))

    def segment(number: int, category: int) -> dict[str, int | list[int]]:
        return {"id": number, "category_id": category, "iscrowd": 0, "area": 120, "bbox": [0, 0, 12, 10]}

    panoptic = {
        "images": images,
        "annotations": [
            {"image_id": 9, "file_name": f"{9:012}.png", "segments_info": [segment(5, 90)]},
            {"image_id": 4, "file_name": f"{4:012}.png", "segments_info": [segment(6, 200)]},
        ],
        "categories": categories,
    }
    (home / f"annotations/panoptic_{split}2017.json").write_text(json.dumps(panoptic))
    for number, value in ((9, 5), (4, 6)):
        ids = np.zeros((10, 12, 3), np.uint8)
        ids[..., 0] = value
        Image.fromarray(ids).save(home / f"panoptic_{split}2017/{number:012}.png")


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_coco(tmp_path)
    return tmp_path / "coco"


def test_there_are_80_things_and_53_of_stuff() -> None:
    assert (len(THINGS), len(STUFF)) == (80, 53)
    ids = [x.id for x in CATEGORIES]
    assert ids == sorted({*ids})
    assert len({x.name for x in CATEGORIES}) == len({x.color for x in CATEGORIES}) == 133
    assert {*range(1, 91)} - {*ids} == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # these were never annotated
    assert (ids[79], ids[80], ids[132]) == (90, 92, 200)


@pytest.mark.parametrize("split", ["train", "val"])
def test_metadata_are_detectron2s(split: str) -> None:
    """The metadata agree with ours, also on the detectron2 backend, where they are Detectron2's."""
    register_all()
    for dataset, name, count in (
        (COCO_INSTANCE, f"coco_2017_{split}", 80),
        (COCO_PANOPTIC, f"coco_2017_{split}_panoptic", 133),
    ):
        metadata = MetadataCatalog.get(name)
        expected = dataset.metadata(name)
        assert len(expected["thing_classes"]) == len(expected["thing_colors"]) == count
        if BACKEND == "detectron2":
            assert getattr(DatasetCatalog[name], "__module__", "").startswith("detectron2.")
        for key, value in expected.items():
            assert metadata.get(key) == value, key
    assert main_metric(f"coco_2017_{split}") == ("segm", "AP")
    assert main_metric(f"coco_2017_{split}_panoptic") == ("panoptic_seg", "PQ")
    things = MetadataCatalog.get(f"coco_2017_{split}_panoptic").thing_dataset_id_to_contiguous_id
    assert (things[1], things[90], len(things)) == (0, 79, 80)


def test_instances_are_listed_with_classes(coco: Path) -> None:
    first, second = get_dataset_dicts("coco_2017_val")
    assert first["file_name"] == str(coco / "val2017/000000000004.jpg")
    assert (first["image_id"], first["height"], first["width"]) == (4, 10, 12)
    assert [(x["category_id"], x["iscrowd"]) for x in first["annotations"]] == [(0, 1)]
    assert [(x["category_id"], x["segmentation"]) for x in second["annotations"]] == [(79, SQUARE)]


def test_panoptic_maps_are_listed_with_classes(coco: Path) -> None:
    first, second = get_dataset_dicts("coco_2017_val_panoptic")
    assert first["file_name"] == str(coco / "val2017/000000000004.jpg")
    assert first["pan_seg_file_name"] == str(coco / "panoptic_val2017/000000000004.png")
    assert [(x["id"], x["category_id"]) for x in first["segments_info"]] == [(6, 132)]
    assert [(x["id"], x["category_id"]) for x in second["segments_info"]] == [(5, 79)]


@pytest.mark.parametrize(("task", "name"), [("instance", "coco_2017_val"), ("panoptic", "coco_2017_val_panoptic")])
def test_a_config_of_coco_maps_them(coco: Path, task: str, name: str) -> None:
    cfg = get_cfg(f"coco_{task}/r50_m2f.yaml", ["INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SCALE", "1"])
    sample = next(x for x in get_dataset_dicts(name) if x["image_id"] == 9)
    mapped = build_mapper(cfg, is_train=True)(sample, rng=np.random.default_rng(0))
    assert mapped["image"].shape == (3, 64, 64)
    assert mapped["segments"].classes.tolist() == [79]
    assert mapped["segments"].masks.shape == mapped["sem_seg"].shape == (64, 64)


def test_a_data_set_is_known_by_its_classes() -> None:
    register_all()
    names = [x.name for x in CATEGORIES]
    assert with_classes(names) == "coco_2017_val_panoptic"
    assert with_classes(names[:80]) == "coco_2017_val"
    assert with_classes(names[:81]) is None


@NEEDS_DETECTRON2
def test_the_lists_are_those_of_detectron2s_functions(coco: Path) -> None:
    from detectron2.data.datasets import load_coco_json
    from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json

    reference = load_coco_json(coco / "annotations/instances_val2017.json", str(coco / "val2017"), "coco_2017_val")
    for mine, other in zip(get_dataset_dicts("coco_2017_val"), reference, strict=True):
        assert {key: mine[key] for key in other if key != "annotations"} == {
            key: value for key, value in other.items() if key != "annotations"
        }
        for x, y in zip(mine["annotations"], other["annotations"], strict=True):
            assert {key: x[key] for key in y if key != "bbox_mode"} == {k: v for k, v in y.items() if k != "bbox_mode"}
    metadata = {
        "thing_dataset_id_to_contiguous_id": COCO_PANOPTIC.metadata("")["thing_dataset_id_to_contiguous_id"],
        "stuff_dataset_id_to_contiguous_id": COCO_PANOPTIC.metadata("")["stuff_dataset_id_to_contiguous_id"],
    }
    folders = [str(coco / name) for name in ("val2017", "panoptic_val2017")]
    reference = load_coco_panoptic_json(str(coco / "annotations/panoptic_val2017.json"), *folders, metadata)
    reference = {x["file_name"]: x for x in reference}
    mine = {x["file_name"]: x for x in get_dataset_dicts("coco_2017_val_panoptic")}
    assert mine.keys() == reference.keys()
    for name, x in reference.items():
        assert mine[name]["pan_seg_file_name"] == x["pan_seg_file_name"]
        for segment, other in zip(mine[name]["segments_info"], x["segments_info"], strict=True):
            assert segment == {key: other[key] for key in segment}


# Faults


@pytest.mark.parametrize(
    ("name", "part", "what"),
    [
        ("coco_2017_val", "val2017", "no folder"),
        ("coco_2017_val", "annotations/instances_val2017.json", "no file"),
        ("coco_2017_val_panoptic", "panoptic_val2017", "no folder"),
        ("coco_2017_val_panoptic", "annotations/panoptic_val2017.json", "no file"),
    ],
)
def test_what_is_missing_is_named(coco: Path, name: str, part: str, what: str) -> None:
    (coco / part).rename(coco / "elsewhere")
    with pytest.raises(UserError) as caught:
        get_dataset_dicts(name)
    message = str(caught.value)
    assert message.startswith(f'dataset "{name}" is not there: {what} {coco / part}')
    assert "get it from cocodataset.org and lay it out as datasets/README.md says" in message
    assert "\n" not in message


def test_without_the_data_set_its_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match=rf"no folder {tmp_path}/coco/train2017 \(DETECTRON2_DATASETS is {tmp_path}\)"):
        get_dataset_dicts("coco_2017_train_panoptic")


def test_every_config_names_data_sets_that_are_registered() -> None:
    register_all()
    named = [
        name
        for path in (ROOT / "configs/data").glob("*.yaml")
        for names in yaml.safe_load(path.read_text(encoding="utf-8"))["DATASETS"].values()
        for name in names
    ]
    assert {"coco_2017_train", "coco_2017_val_panoptic"} <= {*named}
    assert {*named} <= {*DatasetCatalog.list()}
