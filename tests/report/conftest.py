"""Fixtures of the report tests: a run folder with an evaluation, and made-up results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from semask_d2 import Predictor
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.evaluation.result_files import read_evaluation
from semask_d2.evaluation.results import Evaluation
from tests.helpers.evaluation_files import write_evaluation, write_files

DATASET = "toy_scenes_val"


@pytest.fixture(scope="session")
def evaluated_run(tiny_run: Path, toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny run with an evaluation of five images; tests must not change it."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(toy_root))
        write_evaluation(run, DATASET, get_dataset_dicts(DATASET), Predictor.from_run(run))
    (run / "metrics.json").write_text('{"iteration": 9, "total_loss": 2.0, "lr": 0.1}\n')
    return run


def make_evaluation(folder: Path, confusion: np.ndarray, names: list[str], images: list[dict] = ()) -> Evaluation:
    """Write the results of a confusion matrix, and return them read back."""
    truth, predicted, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    ious = [100 * r / (t + p - r) if t else float("nan") for t, p, r in zip(truth, predicted, right, strict=True)]
    classes = [
        {"name": name, "color": [20 * i % 256, 0, 0], "IoU": iou, "accuracy": iou, "pixels": int(count)}
        for i, (name, iou, count) in enumerate(zip(names, ious, truth, strict=True))
    ]
    metrics = {"mIoU": float(np.nanmean(ious)), "IoU-" + names[0]: ious[0]}
    return read_evaluation(write_files(folder, "made_up", metrics, classes, confusion, list(images)))


def make_panoptic_evaluation(folder: Path, images: list[dict]) -> Evaluation:
    """Write panoptic results with a thing class and an absent stuff class, and return them read back."""
    classes = [
        {"name": "ball", "color": [200, 0, 0], "PQ": 40.0, "SQ": 80.0, "RQ": 50.0, "segments": 7},
        {"name": "sky", "color": [0, 0, 200], "PQ": None, "SQ": None, "RQ": None, "segments": 0},
    ]
    content = {"dataset": "made_up", "task": "panoptic", "images": len(images), "classes": classes}
    metrics = {"PQ": 40.0, "PQ_th": 40.0, "PQ-ball": 40.0, "PQ-sky": None}
    run = folder / "inference/made_up"
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text(json.dumps({**content, "metrics": metrics}))
    (run / "images.json").write_text(json.dumps(images))
    return read_evaluation(run)


def make_image(name: str, miou: float, **classes: float) -> dict:
    """Return an entry of `images.json`."""
    return {
        "file_name": name,
        "sem_seg_file_name": None,
        "mIoU": miou,
        "pixel_accuracy": miou,
        "classes": classes,
    }
