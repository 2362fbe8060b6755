"""Quality of outlines: boundary IoU (arXiv 2103.16562), and IoU within a band around outlines ("trimap IoU").

Distances are Chebyshev distances, as from repeated erosion by a 3 x 3 square. The minimum and the maximum of a label
map within a square show for all classes at once whether another class is that near.
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
    """Return the width of the boundary of an image (H, W) in pixels."""
    return max(1, round(DISTANCE * math.hypot(*shape)))


def boundary_region(labels: np.ndarray, distance: int) -> np.ndarray:
    """Return a mask of the pixels of a uint16 label map within `distance` of another label or the image's edge."""
    square = np.ones((2 * distance + 1,) * 2, np.uint8)
    highest = cv2.dilate(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=(NOTHING,))
    lowest = cv2.erode(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=(NOTHING,))
    return (highest != labels) | (lowest != labels)


def trimap(truth: np.ndarray, distance: int) -> np.ndarray:
    """Return a mask of the labeled pixels of a uint16 map within `distance` of another class; IGNORED is no class."""
    square = np.ones((2 * distance + 1,) * 2, np.uint8)
    ignored = truth == IGNORED
    from_one = np.where(ignored, 0, truth + 1).astype(np.uint16)
    highest = cv2.dilate(from_one, square, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)) - 1
    others = np.where(ignored, NOTHING, truth).astype(np.uint16)
    lowest = cv2.erode(others, square, borderType=cv2.BORDER_CONSTANT, borderValue=(NOTHING,))
    return ~ignored & ((highest != truth) | (lowest != truth))


class BoundaryMetrics:
    """Boundary IoU and trimap IoU of each class over a dataset, each within 2% of an image's diagonal.

    Boundary IoU compares the pixels of a class near its outline in the prediction with those in the ground truth. The
    edges of the image and of ignored pixels count as outlines; ignored pixels are removed from both. Trimap IoU is the
    IoU of the pixels near another class in the ground truth.
    """

    def __init__(self, num_classes: int, ignore_label: int):
        # pixels by class: in both boundaries, in the ground truth's, in the prediction's
        self.counts = np.zeros((3, num_classes), np.int64)
        self.within = ConfusionMatrix(num_classes, IGNORED)
        self.ignore_label = ignore_label

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one image; both maps of class ids have the same shape."""
        ignored = truth == self.ignore_label
        truth, prediction = (np.where(ignored, np.uint16(IGNORED), x.astype(np.uint16)) for x in (truth, prediction))
        distance = boundary_distance(truth.shape)
        truth_boundary, predicted_boundary = (boundary_region(x, distance) & ~ignored for x in (truth, prediction))
        both = truth_boundary & predicted_boundary & (truth == prediction)
        labels_by_row = truth[both], truth[truth_boundary], prediction[predicted_boundary]
        for counts, labels in zip(self.counts, labels_by_row, strict=True):
            counts += np.bincount(labels, minlength=self.counts.shape[1])
        self.within.update(prediction, np.where(trimap(truth, distance), truth, IGNORED))

    def summed_over_processes(self) -> BoundaryMetrics:
        """Return the sum over all processes as a new object; every process must call this, and gets the result."""
        total = BoundaryMetrics(self.counts.shape[1], self.ignore_label)
        total.counts = summed_over_processes(self.counts)
        total.within = self.within.summed_over_processes()
        return total

    def by_class(self) -> dict[str, np.ndarray]:
        """Return the metrics of each class in percent; NaN for classes that are not in the ground truth."""
        both, truth, predicted = self.counts
        boundary = ratio(both, np.where(truth > 0, truth + predicted - both, 0))
        return {"boundary IoU": 100 * boundary, "trimap IoU": 100 * self.within.iou}

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Return mBoundaryIoU, BoundaryIoU-NAME, mTrimapIoU and TrimapIoU-NAME, in percent."""
        results: dict[str, float] = {}
        for name, values in zip(("BoundaryIoU", "TrimapIoU"), self.by_class().values(), strict=True):
            results[f"m{name}"] = mean_of_present(values)
            results |= {f"{name}-{x}": float(value) for x, value in zip(names, values, strict=True)}
        return results
