"""The files that an evaluation writes to a run folder, created here from a predictor image by image."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from semask_d2 import Predictor
from semask_d2.data.image_io import read_image, read_labels
from semask_d2.evaluation import result_files
from semask_d2.evaluation.semantic import ConfusionMatrix


def write_evaluation(run: Path, dataset: str, examples: Iterable[dict], predictor: Predictor) -> Path:
    """Write `metrics.json` and `images.json` of `examples` to `run/inference/dataset`; return the folder."""
    names, ignore_label = predictor.class_names, predictor.ignore_label
    total, images = ConfusionMatrix(len(names), ignore_label), []
    for x in examples:
        image_matrix = ConfusionMatrix(len(names), ignore_label)
        image_matrix.update(predictor(read_image(x["file_name"])).labels, read_labels(x["sem_seg_file_name"]))
        total.counts += image_matrix.counts
        metrics = image_matrix.metrics(names)
        ious = {name: metrics[f"IoU-{name}"] for name in names}
        images.append(
            {
                "file_name": x["file_name"],
                "sem_seg_file_name": x["sem_seg_file_name"],
                "mIoU": metrics["mIoU"],
                "pixel_accuracy": metrics["pACC"],
                "classes": {name: iou for name, iou in ious.items() if not math.isnan(iou)},
            }
        )
    metrics = total.metrics(names)
    classes = [
        {
            "name": name,
            "color": predictor.class_colors[i].tolist(),
            "IoU": metrics[f"IoU-{name}"],
            "accuracy": metrics[f"ACC-{name}"],
            "pixels": int(total.counts[i].sum()),
        }
        for i, name in enumerate(names)
    ]
    return write_files(run, dataset, metrics, classes, total.counts, images)


def assert_written_alike(folder: Path, other: Path) -> None:
    """The results read from `folder`, and written to `other`, give the same files byte by byte."""
    other.mkdir()
    result_files.write_evaluation(result_files.read_evaluation(folder), other)
    for name in (result_files.METRICS_FILE, result_files.IMAGES_FILE, result_files.CLASSES_FILE):
        assert (other / name).read_bytes() == (folder / name).read_bytes(), name


def write_files(
    run: Path, dataset: str, metrics: dict, classes: list[dict], confusion: np.ndarray, images: list[dict]
) -> Path:
    """Write results unchanged, with NaN as null."""
    folder = run / "inference" / dataset
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "dataset": dataset,
        "checkpoint": None,
        "iteration": 99,
        "images": len(images),
        "metrics": metrics,
        "classes": classes,
        "ignore_label": 255,
        "confusion": confusion.tolist(),
    }
    (folder / "metrics.json").write_text(json.dumps(_plain(content)))
    (folder / "images.json").write_text(json.dumps(_plain(images)))
    return folder


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
