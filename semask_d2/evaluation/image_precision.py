"""Average precision of a single image by COCO's rules, without running COCO's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from semask_d2.evaluation.coco import AveragePrecision

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU thresholds, computed as in COCO's evaluation
RECALLS = np.linspace(0, 1, 101)
LARGEST_THRESHOLD = 1 - 1e-10  # COCO's, so that equal masks match at any threshold
NO_TRUTH = -1.0


def image_precision(
    truth: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]], num_classes: int, max_instances: int
) -> AveragePrecision:
    """Compare an image's results in COCO's format with its annotations, both with run lengths as segmentation.

    At most `max_instances` results per class are used; there is no AP by size.
    """
    precision = np.full((len(THRESHOLDS), len(RECALLS), num_classes, 1), NO_TRUTH)
    for category in {x["category_id"] for x in truth if not x["iscrowd"]}:
        true = sorted((x for x in truth if x["category_id"] == category), key=lambda x: bool(x["iscrowd"]))
        results = [x for x in predictions if x["category_id"] == category]
        ranked = sorted(results, key=lambda x: -x["score"])[:max_instances]
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
    """Return two masks (thresholds, D): the results that match a true object, and those that lie in a crowd.

    `ious` (D, G) has results in the order of their scores; `crowd` (G,) marks crowds. Each result is matched to the
    best object that is still unmatched, on ties the last; a crowd matches any number of results.
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
    """Return the precision (101,) at each recall, the best at that recall or above; `hits` are ordered by score."""
    right = hits.cumsum().astype(float)
    wrong = (~hits).cumsum()
    precision = right / (wrong + right)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / true_objects, RECALLS, side="left")
    return np.append(precision, 0.0)[places]
