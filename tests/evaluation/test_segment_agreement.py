"""Our panoptic quality agrees with torchmetrics, our average precision with pycocotools and faster-coco-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from semask_d2.d2 import Boxes, DatasetCatalog, Instances, MetadataCatalog
from semask_d2.evaluation import InstanceEvaluator, instances
from semask_d2.evaluation import coco as coco_evaluation
from semask_d2.evaluation.image_precision import image_precision
from semask_d2.evaluation.panoptic import PanopticCounts
from tests.evaluation.test_segments import blurred, random_segments

CLASSES, THINGS = 3, (0, 2)
SIZES = ((40, 60), (130, 200), (100, 90))  # small, medium and large objects


@pytest.mark.slow  # importing torchmetrics.detection is slow
def test_torchmetrics() -> None:
    """Compare without void predictions: torchmetrics ignores such pixels in the ground truth, COCO's tool does not."""
    detection = pytest.importorskip("torchmetrics.detection", reason="torchmetrics is not installed")
    stuff = {*range(CLASSES)} - {*THINGS}
    metric = detection.PanopticQuality({*THINGS}, stuff, return_sq_and_rq=True, return_per_class=True)
    counts, rng = PanopticCounts(CLASSES), np.random.default_rng(0)
    for _ in range(40):
        true, truth = one_stuff_segment(*random_segments(rng, 6, crowds=False))
        predicted, segments = one_stuff_segment(*blurred(rng, true, truth))
        if not segments:
            continue
        predicted[predicted == 0] = segments[0]["id"]
        counts.update(predicted, segments, true, truth)
        metric.update(*(torch.from_numpy(colors(*x))[None] for x in ((predicted, segments), (true, truth))))
    ours = np.stack([counts.by_class()[name] for name in ("PQ", "SQ", "RQ")], 1)
    expected = 100 * metric.compute().double().reshape(-1, 3).numpy()
    np.testing.assert_allclose(ours[[*THINGS, *stuff]], expected, rtol=1e-6)
    assert (counts.counts >= 5).all()


def one_stuff_segment(ids: np.ndarray, segments: list[dict[str, Any]]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the map with the segments of each stuff class merged."""
    ids, kept = ids.copy(), {}
    for x in segments:
        key = x["id"] if x["category_id"] in THINGS else -x["category_id"]
        ids[ids == x["id"]] = kept.setdefault(key, x)["id"]
    return ids, list(kept.values())


def colors(ids: np.ndarray, segments: list[dict[str, Any]]) -> np.ndarray:
    """Return torchmetrics' format: class and number of each pixel (H, W, 2), an unused class for void."""
    category = np.full(ids.shape, CLASSES + 7)
    for x in segments:
        category[ids == x["id"]] = x["category_id"]
    return np.stack([category, ids], -1)


def random_blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a random filled ellipse (H, W)."""
    y, x = np.mgrid[: size[0], : size[1]]
    center, radii = rng.random(2) * size, 3 + rng.random(2) * np.array(size) / 2
    return ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1


def encoded(mask: np.ndarray) -> dict[str, Any]:
    rle: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [*map(int, rle["size"])], "counts": rle["counts"].decode()}


@pytest.fixture
def instance_case(tmp_path: Path):
    """A COCO file and a result file, and the same as a registered dataset and a model's outputs.

    Images without truth, without predictions and without either, crowds, polygons, more predictions than count.
    """
    rng = np.random.default_rng(5)
    images, annotations, results, outputs = [], [], [], []
    for number in range(14):
        size = SIZES[number % len(SIZES)]
        images.append({"id": number + 1, "file_name": f"{number}.jpg", "height": size[0], "width": size[1]})
        masks = [mask for _ in range(0 if number in (3, 4) else 6) if (mask := random_blob(rng, size)).any()]
        classes = rng.integers(0, CLASSES, len(masks) + 8)
        for mask, category in zip(masks, classes.tolist(), strict=False):
            crowd = int(rng.random() < 0.2)
            segmentation: Any = encoded(mask)
            annotations.append({"iscrowd": crowd, "area": float(mask.sum()), "bbox": [0, 0, *size[::-1]]})
            if not crowd and rng.random() < 0.3:
                left, top, right, bottom = 2.0, 3.0, 2.0 + rng.integers(9, 30), 3.0 + rng.integers(9, 30)
                segmentation = [[left, top, right, top, right, bottom, left, bottom]]
            annotations[-1] |= {"segmentation": segmentation, "category_id": category}
            annotations[-1] |= {"image_id": number + 1, "id": len(annotations)}
        guesses = [] if number in (2, 4) else [*masks, *(random_blob(rng, size) for _ in range(8))]
        shifted = np.array([np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) for mask in guesses], bool)
        shifted = shifted.reshape(-1, *size)
        scores = torch.rand(len(shifted), generator=torch.Generator().manual_seed(number))
        predicted_classes = torch.from_numpy(np.where(rng.random(len(classes)) < 0.8, classes, 0))[: len(shifted)]
        for mask, score, category in zip(shifted, scores.tolist(), predicted_classes.tolist(), strict=True):
            entry = {"image_id": number + 1, "category_id": category, "score": score, "segmentation": encoded(mask)}
            results.append(entry)
        fields = {"pred_masks": torch.from_numpy(shifted), "scores": scores, "pred_classes": predicted_classes}
        outputs.append(Instances(size, pred_boxes=Boxes(torch.zeros(len(shifted), 4)), **fields))
    content = {"images": images, "annotations": annotations, "categories": [{"id": i} for i in range(CLASSES)]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    dicts = [{**x, "annotations": [a for a in annotations if a["image_id"] == x["id"]]} for x in images]
    name = "segment_agreement_test"
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(thing_classes=[f"c{i}" for i in range(CLASSES)])
    yield name, dicts, outputs, tmp_path / "truth.json", results
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def ours(case: tuple, max_instances: int = 100) -> dict[str, float]:
    name, dicts, outputs, *_ = case
    evaluator = InstanceEvaluator(name, max_instances=max_instances)
    for x, output in zip(dicts, outputs, strict=True):
        evaluator.process([x], [{"instances": output}])
    return evaluator.evaluate()["segm"]


def without_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_evaluation, "find_spec", lambda _: None)


@pytest.mark.parametrize("max_instances", [100, 3])
def test_pycocotools(instance_case: tuple, max_instances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_faster(monkeypatch)
    *_, file, results = instance_case
    truth = COCO(str(file))
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.params.maxDets = [1, 2, max_instances]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    metrics = ours(instance_case, max_instances)
    if max_instances == 100:
        evaluation.summarize()
        assert [metrics[x] for x in ("AP", "AP50", "AP75", "APs", "APm", "APl")] == pytest.approx(
            (100 * evaluation.stats[:6]).tolist()
        )
    assert metrics["AP"] == pytest.approx(100 * precision[:, :, :, 0].mean())
    assert 5 < metrics["AP"] < 95
    for i in range(CLASSES):
        assert metrics[f"AP-c{i}"] == pytest.approx(100 * precision[:, :, i, 0].mean())


def test_faster_coco_eval(instance_case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    assert "faster" in coco_evaluation.coco_classes()[1].__name__
    nothing = (*instance_case[:2], [x[:0] for x in instance_case[2]], *instance_case[3:])
    faster = [ours(instance_case), ours(instance_case, 3), ours(nothing)]
    without_faster(monkeypatch)
    assert coco_evaluation.coco_classes() == (COCO, COCOeval)
    for quick, plain in zip(faster, [ours(instance_case), ours(instance_case, 3), ours(nothing)], strict=True):
        assert quick == pytest.approx(plain, rel=1e-12, nan_ok=True)
    assert faster[2]["AP"] == 0


@pytest.mark.parametrize("max_instances", [100, 3])
def test_an_images_own_precision_is_that_of_a_data_set_of_it_alone(
    instance_case: tuple, max_instances: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare results, some with equal scores and equal masks."""
    without_faster(monkeypatch)
    name, dicts, outputs, *_ = instance_case
    evaluator = InstanceEvaluator(name, max_instances=max_instances)
    for number, (x, output) in enumerate(zip(dicts, outputs, strict=True)):
        if number % 2:
            output.scores[:] = (output.scores * 4).round() / 4
        again = torch.arange(len(output) + len(output) // 3) % max(len(output), 1)
        evaluator.process([x], [{"instances": output[again]}])
    differing = 0
    for image in evaluator.measured:
        content = {
            "info": {},
            "images": [{"id": image.number, **evaluator.size(image.number)}],
            "annotations": [{**x, "id": i} for i, x in enumerate(image.truth, start=1)],
            "categories": [{"id": i} for i in range(CLASSES)],
        }
        alone = coco_evaluation.coco_precision(content, image.predictions, max_instances)
        quick = image_precision(image.truth, image.predictions, CLASSES, max_instances)
        np.testing.assert_allclose(quick.precision[..., 0], alone.precision[..., 0], rtol=1e-12)
        differing += len(np.unique(quick.precision)) > 3
    assert differing >= 2


def test_coco_evaluation_runs_once_for_all_images(instance_case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(truth: dict[str, Any], predictions: list[dict[str, Any]], max_instances: int):
        calls.append(len(truth["images"]))
        return coco_evaluation.coco_precision(truth, predictions, max_instances)

    monkeypatch.setattr(instances, "coco_precision", counted)
    ours(instance_case)
    assert calls == [14]
