"""Panoptic quality and average precision, compared with the plain formula and over two processes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semask_d2.d2 import Boxes, Instances
from semask_d2.data import get_dataset_dicts
from semask_d2.data.annotations import decoded_mask
from semask_d2.data.segments import read_segment_ids
from semask_d2.evaluation import InstanceEvaluator, PanopticEvaluator, instances
from semask_d2.evaluation.panoptic import PanopticCounts
from semask_d2.utils.errors import UserError
from tests.helpers.evaluation_files import assert_written_alike
from tests.helpers.processes import process_group

CLASSES = 3


def random_segments(rng: np.random.Generator, count: int, *, crowds: bool) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return a map of blocks of 4 x 4 pixels with `count` segments and void, and the segments."""
    ids = rng.integers(0, count + 1, (4, 5)).repeat(4, 0).repeat(4, 1) * 7
    ids[rng.random(ids.shape) < 0.1] = 0
    segments = [
        {"id": int(i), "category_id": int(rng.integers(CLASSES)), "iscrowd": int(crowds and rng.random() < 0.3)}
        for i in np.unique(ids[ids > 0])
    ]
    return ids, segments


def blurred(rng: np.random.Generator, ids: np.ndarray, segments: list[dict[str, Any]]) -> tuple[np.ndarray, list]:
    """Return a prediction near the ground truth, with some pixels, ids and classes changed."""
    wrong = rng.random(ids.shape) < 0.25
    predicted = np.where(wrong, rng.permutation(ids.ravel()).reshape(ids.shape), ids) * 3
    predicted_segments = [
        {"id": 3 * x["id"], "category_id": x["category_id"] if rng.random() < 0.8 else int(rng.integers(CLASSES))}
        for x in segments
    ]
    return predicted, [x for x in predicted_segments if (predicted == x["id"]).any()]


def plain_counts(predicted: np.ndarray, predicted_segments: list, true: np.ndarray, truth: list) -> np.ndarray:
    """Compute the definition, mask by mask."""
    counts = np.zeros((CLASSES, 4))
    hit: set[int] = set()
    for t in (x for x in truth if not x["iscrowd"]):
        mask, missed = true == t["id"], True
        for p in (x for x in predicted_segments if x["category_id"] == t["category_id"]):
            predicted_mask = predicted == p["id"]
            iou = (predicted_mask & mask).sum() / ((predicted_mask & (true != 0)) | mask).sum()
            if iou > 0.5:
                counts[t["category_id"]] += (iou, 1, 0, 0)
                hit.add(p["id"])
                missed = False
        counts[t["category_id"], 3] += missed
    for p in (x for x in predicted_segments if x["id"] not in hit):
        predicted_mask, excused = predicted == p["id"], true == 0
        crowd = None
        for t in truth:  # panopticapi keeps one crowd per class in a dict: the last
            if t["iscrowd"] and t["category_id"] == p["category_id"]:
                crowd = true == t["id"]
        excused = excused if crowd is None else excused | crowd
        counts[p["category_id"], 2] += (predicted_mask & excused).sum() <= predicted_mask.sum() / 2
    return counts


def test_counts_equal_the_definition() -> None:
    rng = np.random.default_rng(0)
    total = np.zeros((CLASSES, 4))
    for _ in range(60):
        true, truth = random_segments(rng, 6, crowds=True)
        predicted, predicted_segments = blurred(rng, true, truth)
        counts = PanopticCounts(CLASSES)
        counts.update(predicted, predicted_segments, true, truth)
        np.testing.assert_allclose(counts.counts, plain_counts(predicted, predicted_segments, true, truth))
        total += counts.counts
    assert total.min() > 3  # every kind of count in every class


@pytest.mark.parametrize(("order", "wrong"), [((1, 2), 1), ((2, 1), 0), ((1, 2, 3), 1)])
def test_of_several_crowds_of_a_class_the_last_counts(order: tuple[int, ...], wrong: int) -> None:
    """Compare a segment of 20 pixels, 14 in crowd 1 and 6 in crowd 2; crowd 3 has no pixel."""
    true = np.repeat([1, 2], [14, 6])[None]
    crowds = [{"id": i, "category_id": 0, "iscrowd": 1} for i in order]
    others = [{"id": 9, "category_id": 1, "iscrowd": 1}]
    counts = PanopticCounts(2)
    counts.update(np.full((1, 20), 5), [{"id": 5, "category_id": 0}], true, [*crowds, *others])
    assert counts.counts.tolist() == [[0, 0, wrong, 0], [0, 0, 0, 0]]


def panoptic_output(sample: dict[str, Any], *, without: int = 0) -> dict[str, Any]:
    """A model that predicts the ground truth without its last segments."""
    ids = read_segment_ids(sample["pan_seg_file_name"]).astype(np.int32)
    segments = sample["segments_info"][: len(sample["segments_info"]) - without]
    ids[~np.isin(ids, [x["id"] for x in segments])] = 0
    return {"panoptic_seg": (torch.from_numpy(ids), [{**x, "isthing": True} for x in segments])}


def instance_output(sample: dict[str, Any], *, without: int = 0) -> dict[str, Any]:
    """A model that predicts the ground truth without its last objects."""
    height, width = sample["height"], sample["width"]
    kept = sample["annotations"][: max(0, len(sample["annotations"]) - without)]
    masks = [decoded_mask(x["segmentation"], height, width, "") for x in kept]
    stacked = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, height, width), bool))
    fields = {
        "pred_masks": stacked,
        "pred_boxes": Boxes(torch.zeros(len(kept), 4)),
        "scores": torch.linspace(0.9, 0.5, len(kept)),
        "pred_classes": torch.tensor([x["category_id"] for x in kept], dtype=torch.int64),
    }
    return {"instances": Instances((height, width), **fields)}


def measure(kind: str, share: slice, without: int, folder: Path | None = None) -> dict[str, float]:
    """Evaluate these images of toy_scenes and return the results; files go to `folder` if given."""
    name = f"toy_scenes_{kind}_val"
    evaluator = (PanopticEvaluator if kind == "panoptic" else InstanceEvaluator)(name, output_dir=folder)
    make = panoptic_output if kind == "panoptic" else instance_output
    for sample in get_dataset_dicts(name)[share]:
        evaluator.process([sample], [make(sample, without=without)])
    (results,) = evaluator.evaluate().values()
    return {name: value for name, value in results.items() if not math.isnan(value)}


@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_the_truth_is_perfect_and_less_is_not(toy_data: Path, kind: str) -> None:
    best, less = (measure(kind, slice(None), without) for without in (0, 1))
    assert all(value == pytest.approx(100) for value in best.values())
    assert 0 < less["PQ" if kind == "panoptic" else "AP"] < 99
    if kind == "panoptic":
        assert less["SQ"] == pytest.approx(100)
        assert less["PQ_th"] < 99
        classes = [value for name, value in less.items() if name.startswith("PQ-")]
        assert less["PQ"] == pytest.approx(np.mean(classes))


def test_without_a_single_instance_precision_is_zero(toy_data: Path) -> None:
    assert measure("instance", slice(None), 99)["AP"] == 0


@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_the_files_hold_what_was_measured(toy_data: Path, tmp_path: Path, kind: str) -> None:
    results = measure(kind, slice(None), 1, tmp_path)
    folder = tmp_path / f"toy_scenes_{kind}_val"
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "images.json", "classes.csv"}
    content = json.loads((folder / "metrics.json").read_text())
    assert content["task"] == kind
    assert {name: x for name, x in content["metrics"].items() if x is not None} == results
    samples = get_dataset_dicts(f"toy_scenes_{kind}_val")
    key = "segments_info" if kind == "panoptic" else "annotations"
    main, others = ("PQ", ("SQ", "RQ")) if kind == "panoptic" else ("AP", ("AP50", "AP75"))
    counted = {"panoptic": "segments", "instance": "instances"}[kind]
    with open(folder / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["name", main, *others, counted]
    for row, entry in zip(rows, content["classes"], strict=True):
        assert row["name"] == entry["name"]
        assert (float(row[main]) if row[main] else None) == entry[main] == results.get(f"{main}-{row['name']}")
    assert sum(int(row[counted]) for row in rows) == sum(len(x[key]) for x in samples)
    assert_written_alike(folder, tmp_path / "again")
    images = json.loads((folder / "images.json").read_text())
    assert [x["file_name"] for x in images] == [x["file_name"] for x in samples]
    for place, (image, sample) in enumerate(zip(images, samples, strict=True)):
        alone = measure(kind, slice(place, place + 1), 1)
        if kind == "panoptic":
            assert (image["matched"], image["wrong"], image["missed"]) == (len(sample[key]) - 1, 0, 1)
            assert image["pan_seg_file_name"] == sample["pan_seg_file_name"]
        class_values = {name.removeprefix(f"{main}-"): x for name, x in alone.items() if name.startswith(f"{main}-")}
        assert image["classes"] == pytest.approx(class_values, rel=1e-12)  # pycocotools adds an epsilon to a divisor
        for name in (main, *others):  # NaN for an image without objects
            assert image[name] == (pytest.approx(alone[name], rel=1e-12) if name in alone else None)


def one_of_two(rank: int, folder: Path, kind: str) -> None:
    with process_group(folder / kind, rank, 2):
        share = slice(0, 3) if rank == 0 else slice(3, None)
        if rank:  # a call would raise
            instances.coco_precision = None
        (folder / f"{kind}{rank}.json").write_text(json.dumps(measure(kind, share, 1, folder / "two")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_two_processes_measure_what_one_does(toy_data: Path, tmp_path: Path, kind: str) -> None:
    alone = measure(kind, slice(None), 1, tmp_path / "one")
    torch.multiprocessing.spawn(one_of_two, (tmp_path, kind), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f"{kind}{rank}.json").read_text()) == pytest.approx(alone, rel=1e-9)
    for name in ("metrics.json", "images.json", "classes.csv"):
        one, two = (tmp_path / f"{count}/toy_scenes_{kind}_val/{name}" for count in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("wrong", [-1, 99])
def test_segments_of_classes_that_there_are_not_are_refused(toy_data: Path, wrong: int) -> None:
    sample = get_dataset_dicts("toy_scenes_panoptic_val")[0]
    output = panoptic_output(sample)
    output["panoptic_seg"][1][-1]["category_id"] = wrong
    with pytest.raises(UserError, match=rf"the model predicts the class ids \[{wrong}\]"):
        PanopticEvaluator("toy_scenes_panoptic_val").process([sample], [output])
    sample = next(x for x in get_dataset_dicts("toy_scenes_instance_val") if x["annotations"])
    output = instance_output(sample)
    output["instances"].pred_classes[0] = wrong
    with pytest.raises(UserError, match=rf"the model predicts the class ids \[{wrong}\]"):
        InstanceEvaluator("toy_scenes_instance_val").process([sample], [output])


def test_models_that_do_not_find_what_is_measured_are_told(toy_data: Path) -> None:
    for kind, key, evaluator in (
        ("panoptic", "PANOPTIC_ON", PanopticEvaluator("toy_scenes_panoptic_val")),
        ("instance", "INSTANCE_ON", InstanceEvaluator("toy_scenes_instance_val")),
    ):
        sample = get_dataset_dicts(f"toy_scenes_{kind}_val")[0]
        with pytest.raises(UserError, match=rf"set MODEL\.MASK_FORMER\.TEST\.{key} True"):
            evaluator.process([sample], [{"sem_seg": torch.zeros(2, 4, 4)}])
        with pytest.raises(UserError, match="no image to evaluate"):
            evaluator.evaluate()
    with pytest.raises(UserError, match="does not define its classes"):
        PanopticEvaluator("nothing_known_of_this")
