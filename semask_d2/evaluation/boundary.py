"""How well outlines are met: boundary IoU (arXiv 2103.16562), and IoU within a band around them ("trimap IoU").

Distances are Chebyshev's, as of a repeated erosion by a 3 x 3 square. The minimum and the maximum of a label map within
a square say for all classes at once whether another class is that near.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from semask_d2.evaluation.confusion import ConfusionMatrix, mean_of_present, ratio, summed_over_processes

DISTANCE = 0.02  # of the image's diagonal, as in the paper
NOTHING, IGNORED = 65535, 65534


def boundary_distance(shape: tuple[int, ...]) -> int:
    """The width of the boundary of an image (H, W) in pixels."""
    return max(1, round(DISTANCE * math.hypot(*shape)))


def boundary_region(labels: np.ndarray, distance: int) -> np.ndarray:
    """The pixels of a uint16 label map within `distance` of one that is of another label, or outside of the image."""
    square = np.ones((2 * distance + 1,) * 2, np.uint8)
    highest = cv2.dilate(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=(NOTHING,))
    lowest = cv2.erode(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=(NOTHING,))
    return (highest != labels) | (lowest != labels)


def trimap(truth: np.ndarray, distance: int) -> np.ndarray:
    """The labeled pixels of a uint16 map within `distance` of one of another class; IGNORED ones are of no class."""
    square = np.ones((2 * distance + 1,) * 2, np.uint8)
    ignored = truth == IGNORED
    from_one = np.where(ignored, 0, truth + 1).astype(np.uint16)
    highest = cv2.dilate(from_one, square, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)) - 1
    others = np.where(ignored, NOTHING, truth).astype(np.uint16)
    lowest = cv2.erode(others, square, borderType=cv2.BORDER_CONSTANT, borderValue=(NOTHING,))
    return ~ignored & ((highest != truth) | (lowest != truth))


class BoundaryMetrics:
    """Boundary IoU and trimap IoU of each class over a dataset, each within 2% of an image's diagonal.

    Boundary IoU compares the pixels of a class near its outline in the prediction with those in the truth; the image's
    edge counts as outline, and so does that of ignored pixels, which are cut out of both. Trimap IoU is the IoU of the
    pixels near another class in the truth.
    """

    def __init__(self, num_classes: int, ignore_label: int):
        # pixels of both boundaries, of the truth's, of the prediction's
        self.counts = np.zeros((3, num_classes), np.int64)
        self.within = ConfusionMatrix(num_classes, IGNORED)
        self.ignore_label = ignore_label

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one image, two maps of class ids of one shape."""
        ignored = truth == self.ignore_label
        truth, prediction = (np.where(ignored, np.uint16(IGNORED), x.astype(np.uint16)) for x in (truth, prediction))
        distance = boundary_distance(truth.shape)
        of_truth, of_prediction = (boundary_region(x, distance) & ~ignored for x in (truth, prediction))
        both = of_truth & of_prediction & (truth == prediction)
        for counts, labels in zip(self.counts, (truth[both], truth[of_truth], prediction[of_prediction]), strict=True):
            counts += np.bincount(labels, minlength=self.counts.shape[1])
        self.within.update(prediction, np.where(trimap(truth, distance), truth, IGNORED))

    def summed_over_processes(self) -> BoundaryMetrics:
        """The sum of all processes' counts, as a new one; each process calls it and has the result."""
        total = BoundaryMetrics(self.counts.shape[1], self.ignore_label)
        total.counts = summed_over_processes(self.counts)
        total.within = self.within.summed_over_processes()
        return total

    def by_class(self) -> dict[str, np.ndarray]:
        """The metrics of each class in percent; NaN where the truth lacks it."""
        both, truth, predicted = self.counts
        boundary = ratio(both, np.where(truth > 0, truth + predicted - both, 0))
        return {"boundary IoU": 100 * boundary, "trimap IoU": 100 * self.within.iou}

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """mBoundaryIoU, BoundaryIoU-NAME, mTrimapIoU and TrimapIoU-NAME, in percent."""
        results: dict[str, float] = {}
        for name, values in zip(("BoundaryIoU", "TrimapIoU"), self.by_class().values(), strict=True):
            results[f"m{name}"] = mean_of_present(values)
            results |= {f"{name}-{x}": float(value) for x, value in zip(names, values, strict=True)}
        return results
