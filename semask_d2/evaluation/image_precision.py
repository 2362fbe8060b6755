"""Average precision of a single image by COCO's rules, without a run of COCO's evaluation for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from semask_d2.evaluation.coco import AveragePrecision

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU, as COCO's evaluation computes them
RECALLS = np.linspace(0, 1, 101)
LARGEST_THRESHOLD = 1 - 1e-10  # COCO's, so that equal masks match at any threshold
NO_TRUTH = -1.0


def image_precision(
    truth: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], num_classes: int, max_instances: int
) -> AveragePrecision:
    """Compare an image's results in COCO's form with its annotations, both with run lengths as segmentation.

    At most `max_instances` of a class count; sizes are not told apart.
    """
    precision = np.full((len(THRESHOLDS), len(RECALLS), num_classes, 1), NO_TRUTH)
    for category in {x["category_id"] for x in truth if not x["iscrowd"]}:
        true = sorted((x for x in truth if x["category_id"] == category), key=lambda x: bool(x["iscrowd"]))
        ranked = sorted((x for x in found if x["category_id"] == category), key=lambda x: -x["score"])[:max_instances]
        crowd = np.array([bool(x["iscrowd"]) for x in true])
        ious: Any = coco_mask.iou(
            [x["segmentation"] for x in ranked], [x["segmentation"] for x in true], crowd.astype(np.uint8).tolist()
        )
        hits, excused = matched(np.reshape(ious, (len(ranked), len(true))), crowd)
        precision[:, :, category, 0] = [
            precision_at_recalls(hit[~ignored], int((~crowd).sum())) for hit, ignored in zip(hits, excused, strict=True)
        ]
    return AveragePrecision(precision)


def matched(ious: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which results hit a true object and which lie in a crowd, two masks (thresholds, D).

    `ious` (D, G) are of results in the order of their scores, `crowd` (G,) says what stands for many objects. Each
    result takes the best object that is left, of equals the last; a crowd takes any number.
    """
    levels = np.minimum(THRESHOLDS, LARGEST_THRESHOLD)
    shape = (len(levels), len(ious))
    hits, excused = np.zeros(shape, bool), np.zeros(shape, bool)
    left = np.tile(~crowd, (len(levels), 1))
    for number, row in enumerate(ious):
        candidates = np.where(left & (row >= levels[:, None]), row, -1)
        best = candidates.shape[1] - 1 - candidates[:, ::-1].argmax(1)
        hit = candidates.max(1) >= 0
        left[np.flatnonzero(hit), best[hit]] = False
        hits[:, number] = hit
        excused[:, number] = ~hit & (row[crowd].max(initial=-1) >= levels)
    return hits, excused


def precision_at_recalls(hits: np.ndarray, true_objects: int) -> np.ndarray:
    """Precision (101,) at each recall of results in the order of their scores: the best at that recall or above."""
    right = hits.cumsum().astype(float)
    wrong = (~hits).cumsum()
    precision = right / (wrong + right)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / true_objects, RECALLS, side="left")
    return np.append(precision, 0.0)[places]
