"""Average precision by COCO's evaluation: faster-coco-eval's where that is installed, else pycocotools' own."""

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
THRESHOLDS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # of the IoU 0.5, 0.55 .. 0.95
SIZES = ("APs", "APm", "APl")  # small, medium and large, COCO's order after all


class AveragePrecision(NamedTuple):
    """`precision` (10 IoU, 101 recalls, K classes, sizes) as COCO's evaluation gives it, -1 where there is no truth."""

    precision: np.ndarray

    def metrics(self) -> dict[str, float]:
        """AP, AP50 and AP75 in percent, and where sizes were told apart those of each; NaN where there is no truth."""
        values = {name: mean_precision(self.precision[part, :, :, 0]) for name, part in THRESHOLDS.items()}
        sizes = range(1, self.precision.shape[3])
        return values | {SIZES[i - 1]: mean_precision(self.precision[:, :, :, i]) for i in sizes}

    def by_class(self) -> dict[str, np.ndarray]:
        """AP, AP50 and AP75 of each class (K,) in percent."""
        classes = range(self.precision.shape[2])
        return {
            name: np.array([mean_precision(self.precision[part, :, k, 0]) for k in classes])
            for name, part in THRESHOLDS.items()
        }


def coco_precision(truth: dict[str, Any], found: list[dict[str, Any]], max_instances: int) -> AveragePrecision:
    """Compare results in COCO's form with the content of a COCO file; `max_instances` of an image and class count."""
    coco, coco_eval = coco_classes()
    with contextlib.redirect_stdout(io.StringIO()):  # what it prints of its steps
        expected = coco()
        expected.dataset = truth
        expected.createIndex()
        if found:
            results = expected.loadRes([dict(x) for x in found])  # which writes into them
        else:  # which `loadRes` does not take
            results = coco()
            results.dataset = {**truth, "annotations": []}
            results.createIndex()
        evaluation = coco_eval(expected, results, "segm")
        evaluation.params.maxDets = [max_instances]
        evaluation.evaluate()
        evaluation.accumulate()
    return AveragePrecision(np.asarray(evaluation.eval["precision"])[..., -1])


def coco_classes() -> tuple[Any, Any]:
    """The classes of annotations and of their evaluation; faster-coco-eval (an extra of that name) has the same two."""
    if find_spec(FASTER) is None:
        return COCO, COCOeval
    faster = import_module(FASTER)
    return faster.COCO, faster.COCOeval_faster


def mean_precision(precision: np.ndarray) -> float:
    """The mean of those entries that stand for something, in percent; NaN where none does."""
    counted = precision[precision > -1]
    return float(100 * counted.mean()) if counted.size else float("nan")
