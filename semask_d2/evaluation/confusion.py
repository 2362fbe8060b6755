"""The confusion matrix of a dataset, and its metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from semask_d2.d2 import comm


def summed_over_processes(counts: np.ndarray) -> np.ndarray:
    """Return the sum of int64 counts over all processes; every process must call this. Needs no shared disk."""
    if comm.get_world_size() == 1:
        return counts.copy()
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    summed = torch.tensor(counts, device=device)  # a copy, which is summed in place
    torch.distributed.all_reduce(summed)
    return summed.cpu().numpy()


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part` / `whole`, NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def mean_of_present(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


class ConfusionMatrix:
    """Pixel counts by true class (row) and predicted class (column), and their metrics."""

    def __init__(self, num_classes: int, ignore_label: int):
        self.counts = np.zeros((num_classes, num_classes), np.int64)
        self.ignore_label = ignore_label

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> ConfusionMatrix:
        """Add the pixels of one image, except ignored ones; both maps of class ids have the same shape.

        Returns the matrix of this image.
        """
        valid = truth != self.ignore_label
        k = len(self.counts)
        pairs = k * truth[valid].astype(np.int64) + prediction[valid]
        image_matrix = ConfusionMatrix(k, self.ignore_label)
        image_matrix.counts = np.bincount(pairs, minlength=k * k).reshape(k, k)
        self.counts += image_matrix.counts
        return image_matrix

    def summed_over_processes(self) -> ConfusionMatrix:
        """Return the sum over all processes as a new matrix; every process must call this, and gets the result."""
        total = ConfusionMatrix(len(self.counts), self.ignore_label)
        total.counts = summed_over_processes(self.counts)
        return total

    @property
    def iou(self) -> np.ndarray:
        """The intersection over union of each class, 0 to 1; NaN for classes that are not in the ground truth."""
        correct, truth, predicted = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        return ratio(correct, np.where(truth > 0, truth + predicted - correct, 0))

    @property
    def accuracy(self) -> np.ndarray:
        """The share of correct pixels of each class, 0 to 1; NaN for classes that are not in the ground truth."""
        return ratio(self.counts.diagonal(), self.counts.sum(1))

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Return percentages under Detectron2's names: mIoU, fwIoU, IoU-NAME, mACC, pACC, ACC-NAME.

        Classes that are not in the ground truth are NaN, and are excluded from the means.
        """
        truth, iou, accuracy = self.counts.sum(1), self.iou, self.accuracy
        present, total = truth > 0, max(truth.sum(), 1)
        results = {
            "mIoU": mean_of_present(iou),
            "fwIoU": (iou[present] * truth[present]).sum() / total,
            **{f"IoU-{name}": value for name, value in zip(names, iou, strict=True)},
            "mACC": mean_of_present(accuracy),
            "pACC": self.counts.diagonal().sum() / total,
            **{f"ACC-{name}": value for name, value in zip(names, accuracy, strict=True)},
        }
        return {name: 100 * float(value) for name, value in results.items()}
