"""Average precision by COCO's evaluation, from faster-coco-eval if that is installed, else from pycocotools."""

from __future__ import annotations

import contextlib
import io
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FASTER = "faster_coco_eval"
THRESHOLDS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # slices of the IoUs 0.5, 0.55 .. 0.95
SIZES = ("APs", "APm", "APl")  # small, medium and large; in COCO's order these follow "all"


class AveragePrecision(NamedTuple):
    """COCO's `precision` (10 IoUs, 101 recalls, K classes, sizes); -1 where there is no ground truth."""

    precision: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Return AP, AP50 and AP75 in percent, and AP by size if available; NaN where there is no ground truth."""
        values = {name: mean_precision(self.precision[part, :, :, 0]) for name, part in THRESHOLDS.items()}
        sizes = range(1, self.precision.shape[3])
        return values | {SIZES[i - 1]: mean_precision(self.precision[:, :, :, i]) for i in sizes}

    def by_class(self) -> dict[str, np.ndarray]:
        """Return AP, AP50 and AP75 of each class (K,) in percent."""
        classes = range(self.precision.shape[2])
        return {
            name: np.array([mean_precision(self.precision[part, :, k, 0]) for k in classes])
            for name, part in THRESHOLDS.items()
        }


def coco_precision(truth: dict[str, Any], predictions: list[dict[str, Any]], max_instances: int) -> AveragePrecision:
    """Compare results in COCO's format with the content of a COCO file, at most `max_instances` per image and class."""
    coco, coco_eval = coco_classes()
    with contextlib.redirect_stdout(io.StringIO()):  # hides its progress messages
        expected = coco()
        expected.dataset = truth
        expected.createIndex()
        if predictions:
            results = expected.loadRes([dict(x) for x in predictions])  # copies, since `loadRes` changes them
        else:  # `loadRes` does not accept an empty list
            results = coco()
            results.dataset = {**truth, "annotations": []}
            results.createIndex()
        evaluation = coco_eval(expected, results, "segm")
        evaluation.params.maxDets = [max_instances]
        evaluation.evaluate()
        evaluation.accumulate()
    return AveragePrecision(np.asarray(evaluation.eval["precision"])[..., -1])


def coco_classes() -> tuple[Any, Any]:
    """Return the classes COCO and COCOeval, of faster-coco-eval (an extra of that name) or of pycocotools."""
    if find_spec(FASTER) is None:
        return COCO, COCOeval
    faster = import_module(FASTER)
    return faster.COCO, faster.COCOeval_faster


def mean_precision(precision: np.ndarray) -> float:
    """Return the mean of the valid entries (above -1) in percent; NaN if there are none."""
    counted = precision[precision > -1]
    return float(100 * counted.mean()) if counted.size else float("nan")
