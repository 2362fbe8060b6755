"""Our metrics agree with torchmetrics, cityscapesScripts and Detectron2 on the same label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import d2
from semask_d2.d2 import DatasetCatalog, MetadataCatalog
from semask_d2.data.datasets.cityscapes import CITYSCAPES, CLASSES
from semask_d2.evaluation import SemanticEvaluator

COUNT = len(CLASSES)


@pytest.fixture
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ground truth of all classes with ignored pixels, and predictions that are mostly correct."""
    rng = np.random.default_rng(0)
    map_pairs = []
    for _ in range(4):
        truth = rng.integers(0, COUNT, (9, 14)).repeat(6, 0).repeat(5, 1).astype(np.uint8)
        prediction = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, COUNT, truth.shape), truth)
        truth[rng.random(truth.shape) < 0.1] = 255
        map_pairs.append((prediction.astype(np.int64), truth))
    return map_pairs


@pytest.fixture
def dataset(pairs, tmp_path: Path):
    """Write the same as files of a registered dataset."""
    name = "agreement_test"
    dicts = []
    for i, (_, truth) in enumerate(pairs):
        Image.fromarray(truth).save(tmp_path / f"{i}.png")
        dicts.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(tmp_path / f"{i}.png")})
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(stuff_classes=list(CLASSES), ignore_label=255)
    yield name, dicts
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def ours(dataset, pairs) -> dict[str, float]:
    name, dicts = dataset
    return measured(SemanticEvaluator(name), dicts, pairs)


def measured(evaluator, dicts: list[dict], pairs: list) -> dict[str, float]:
    evaluator.reset()
    for x, (prediction, _) in zip(dicts, pairs, strict=True):
        scores = torch.nn.functional.one_hot(torch.from_numpy(prediction), COUNT).permute(2, 0, 1).float()
        evaluator.process([x], [{"sem_seg": scores}])
    return evaluator.evaluate()["sem_seg"]


def test_torchmetrics(pairs, ours) -> None:
    classification = pytest.importorskip("torchmetrics.classification", reason="torchmetrics is not installed")
    arguments = {"num_classes": COUNT, "ignore_index": 255}
    metrics = {
        "IoU": classification.MulticlassJaccardIndex(average="none", **arguments),
        "ACC": classification.MulticlassAccuracy(average="none", **arguments),
        "pACC": classification.MulticlassAccuracy(average="micro", **arguments),
    }
    for prediction, truth in pairs:
        for metric in metrics.values():
            metric.update(torch.from_numpy(prediction)[None], torch.from_numpy(truth.astype(np.int64))[None])
    iou, accuracy, pixel = (100 * metric.compute().double() for metric in metrics.values())
    assert [ours[f"IoU-{name}"] for name in CLASSES] == pytest.approx(iou.tolist(), rel=1e-6)
    assert [ours[f"ACC-{name}"] for name in CLASSES] == pytest.approx(accuracy.tolist(), rel=1e-6)
    assert ours["pACC"] == pytest.approx(pixel.item(), rel=1e-6)
    assert ours["mIoU"] == pytest.approx(iou.mean().item(), rel=1e-6)


def test_cityscapes_scripts(pairs, ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # removed in NumPy 2.4, but used by the scripts
    script = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="cityscapesscripts is not installed"
    )
    label_ids = np.array(CITYSCAPES.submission_ids)
    arguments = script.CArgs()
    arguments.__dict__ |= script.args.__dict__ | {"quiet": True, "JSONOutput": False, "evalPixelAccuracy": True}
    arguments.evalInstLevelScore = False
    predictions, truths = [], []
    for i, (prediction, truth) in enumerate(pairs):
        predictions.append(str(tmp_path / f"frankfurt_00000{i}_000000_prediction.png"))
        truths.append(str(tmp_path / f"frankfurt_00000{i}_000000_gtFine_labelIds.png"))
        Image.fromarray(label_ids[prediction].astype(np.uint8)).save(predictions[-1])
        labels = np.where(truth == 255, 0, label_ids[np.where(truth == 255, 0, truth)])
        Image.fromarray(labels.astype(np.uint8)).save(truths[-1])
    results = script.evaluateImgLists(predictions, truths, arguments)
    assert ours["mIoU"] == pytest.approx(100 * results["averageScoreClasses"], abs=1e-6)
    for name in CLASSES:
        assert ours[f"IoU-{name}"] == pytest.approx(100 * results["classScores"][name], abs=1e-6)


@pytest.mark.skipif(d2.BACKEND != "detectron2", reason="Detectron2 is not in use")
def test_detectron2(dataset, pairs, ours, tmp_path: Path) -> None:
    from detectron2.evaluation import SemSegEvaluator

    name, dicts = dataset
    detectron2_metrics = measured(SemSegEvaluator(name, distributed=False, output_dir=str(tmp_path)), dicts, pairs)
    assert {key: detectron2_metrics[key] for key in ours} == pytest.approx(ours, abs=1e-6)
