"""Datasets registered by a program, as in Detectron2's tutorial, whose dicts have less than COCO's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from semask_d2 import get_cfg
from semask_d2.d2 import DatasetCatalog, MetadataCatalog
from semask_d2.data.annotations import mask_run_lengths
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.quick_check import check_some_pairs
from semask_d2.data.segments import true_instances
from semask_d2.engine import Trainer
from semask_d2.evaluation import InstanceEvaluator
from semask_d2.evaluation.tasks import dataset_task
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY

POLYGON = [10.0, 10.0, 30.0, 10.0, 30.0, 40.0, 10.0, 40.0]


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """Yield a function that registers a list of dicts with metadata under a name."""
    names = []

    def add(name: str, dicts: list[dict], **metadata: Any) -> None:
        DatasetCatalog.register(name, lambda: dicts)
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def train_and_evaluate(name: str, task: str, num_classes: int, folder: Path) -> dict[str, Any]:
    """Train a tiny model for two steps and return its results."""
    cfg = get_cfg(f"toy_scenes_{task}/semask_swin_mini_msfapn_m2f.yaml", [*TINY, "SOLVER.MAX_ITER", "2"])
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.SOLVER.WARMUP_ITERS = cfg.TEST.EVAL_PERIOD = 0
    cfg.OUTPUT_DIR = str(folder)
    Trainer(cfg).train()
    return Trainer.test(cfg, Trainer.build_model(cfg))


def balloons(folder: Path) -> list[dict[str, Any]]:
    """Return dicts of five images: as in the tutorial, with arrays, run lengths, without sizes, without an object."""
    mask = np.zeros((64, 80), np.uint8, order="F")
    mask[10:40, 10:30] = 1
    shapes: list[Any] = [[POLYGON], [np.array(POLYGON)], coco_mask.encode(mask), [POLYGON]]
    dicts: list[dict[str, Any]] = []
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (64, 80, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.jpg")
        sample = {"file_name": str(folder / f"{i}.jpg"), "image_id": i, "height": 64, "width": 80, "annotations": []}
        if i < len(shapes):
            box = {"bbox": [10, 10, 30, 40], "bbox_mode": 0, "category_id": 0}
            sample["annotations"].append({**box, "segmentation": shapes[i]})
        dicts.append(sample)
    del dicts[3]["height"], dicts[3]["width"]
    dicts[1]["annotations"][0] |= {"iscrowd": None, "area": None, "bbox": None}
    return dicts


def test_values_of_numpy_and_pytorch_are_read(tmp_path: Path) -> None:
    plain = balloons(tmp_path)[0]
    (expected,) = true_instances(plain, (80, 64))
    mask = expected.mask
    for shape in (mask, mask.astype(np.uint8), torch.tensor(mask), torch.tensor([POLYGON]), [torch.tensor(POLYGON)],
                  np.array(POLYGON).reshape(4, 2), np.array(POLYGON), np.array(POLYGON).reshape(1, 4, 2),
                  {"size": np.array([64, 80]), "counts": np.asarray(mask_run_lengths(mask))}):  # fmt: skip
        annotation = {"category_id": np.int64(0), "iscrowd": np.bool_(False), "segmentation": shape}
        sample = plain | {"height": np.float64(64), "width": np.int32(80), "annotations": [annotation]}
        (instance,) = true_instances(sample)
        np.testing.assert_array_equal(instance.mask, mask)
        assert (instance.category_id, instance.is_crowd) == (0, False)
    unfit = plain | {"annotations": [{"category_id": 0, "segmentation": mask[:10]}]}
    assert true_instances(unfit, (80, 64)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [5]}, "annotations[0]: expected a mapping"),
        ({"height": "64"}, "height: expected a whole number of at least 1, got '64', a text"),
        ({"annotations": [{"category_id": "cat", "segmentation": [POLYGON]}]}, "category_id: expected a whole number"),
    ],
)
def test_invalid_values_are_named(change: dict, message: str, tmp_path: Path) -> None:
    sample = balloons(tmp_path)[0] | change
    with pytest.raises(UserError, match=r"0\.jpg") as caught:
        true_instances(sample)
    assert message in str(caught.value)


@pytest.mark.parametrize("entry", [5, {}, {"file_name": None}, {"image_id": 3}])
def test_entries_without_an_image_are_named(entry: object, register: Callable[..., None]) -> None:
    register("test_entries", [{"file_name": Path("a.jpg")}, entry])
    with pytest.raises(UserError, match=r"dataset test_entries: entry 1 is .*; expected a dict with an image's"):
        get_dataset_dicts("test_entries")


def test_a_label_file_may_be_none(tmp_path: Path, register: Callable[..., None]) -> None:
    register("test_unlabeled", [x | {"sem_seg_file_name": None} for x in balloons(tmp_path)], thing_classes=["a"])
    cfg = get_cfg("toy_scenes_instance/semask_swin_mini_msfapn_m2f.yaml")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("test_unlabeled",)
    check_some_pairs(cfg)


@pytest.mark.slow
def test_the_tutorials_instances_are_trained_and_evaluated(
    tmp_path: Path, register: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    register("test_balloon", balloons(tmp_path), thing_classes=["balloon"])  # without an evaluator_type
    assert dataset_task("test_balloon") == "instance"
    results = train_and_evaluate("test_balloon", "instance", 1, tmp_path / "run")
    assert results["segm"]["AP"] >= 0
    assert (tmp_path / "run/report.html").is_file()
    assert "No report" not in caplog.text


def test_every_form_of_a_mask_gives_the_same_ground_truth(tmp_path: Path, register: Callable[..., None]) -> None:
    register("test_balloon", balloons(tmp_path), thing_classes=["balloon"], evaluator_type="coco")
    evaluator = InstanceEvaluator("test_balloon")
    truth = [evaluator.true_annotations(i) for i in range(5)]
    assert [len(x) for x in truth] == [1, 1, 1, 1, 0]
    areas = {x["area"] for (x,) in truth[:4]}
    assert len({x["segmentation"]["counts"] for (x,) in truth[:4]}) == len(areas) == 1
    assert [x["iscrowd"] for (x,) in truth[:4]] == [0] * 4
    assert evaluator.size(3) == {"height": 64, "width": 80}


@pytest.mark.slow
def test_panoptic_dicts_may_name_a_segment_zero_and_one_without_a_pixel(
    tmp_path: Path, register: Callable[..., None]
) -> None:
    dicts = []
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (64, 80, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.jpg")
        ids = np.zeros((64, 80, 3), np.uint8)
        ids[:, 40:, 0], ids[20:40, 10:30, 0] = 1, 2
        Image.fromarray(ids).save(tmp_path / f"{i}.png")
        segments = [{"id": number, "category_id": number} for number in range(3)] + [{"id": 77, "category_id": 2}]
        files = {"file_name": str(tmp_path / f"{i}.jpg"), "pan_seg_file_name": str(tmp_path / f"{i}.png")}
        dicts.append({**files, "image_id": i, "segments_info": segments})
    names = ["soil", "field", "crop"]
    register(
        "test_fields",
        dicts,
        stuff_classes=names,
        thing_classes=names,
        thing_dataset_id_to_contiguous_id={2: 2},
        stuff_dataset_id_to_contiguous_id={0: 0, 1: 1},
        ignore_label=255,
        evaluator_type="coco_panoptic_seg",
    )
    results = train_and_evaluate("test_fields", "panoptic", 3, tmp_path / "run")["panoptic_seg"]
    assert all(0 <= results[f"PQ-{name}"] <= 100 for name in names)
    assert np.isfinite(results["PQ"])


def test_an_evaluation_without_a_test_set_is_an_error(tiny_run: Path, in_process) -> None:
    words = ("--config-file", tiny_run / "config.yaml", "--eval-only", "MODEL.WEIGHTS", tiny_run / "model_best.pth")
    code, _, err = in_process("train_net.py", *words, "DATASETS.TEST", "()", "OUTPUT_DIR", tiny_run / "evaluation")
    assert code == 1
    assert err.strip().endswith(
        "error: no dataset to evaluate on: add --data my.yaml, the file that describes your images and labels (semask "
        "init-data drafts it), or name a registered one with DATASETS.TEST"
    )
