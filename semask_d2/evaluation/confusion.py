"""The confusion matrix of a dataset, and the metrics that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from semask_d2.d2 import comm


def summed_over_processes(counts: np.ndarray) -> np.ndarray:
    """The sum of all processes' int64 counts; each process calls it and has the result. No disk is shared."""
    if comm.get_world_size() == 1:
        return counts.copy()
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    summed = torch.tensor(counts, device=device)  # a copy, which is summed in place
    torch.distributed.all_reduce(summed)
    return summed.cpu().numpy()


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Shares, NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def mean_of_present(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column), and the metrics that follow from them."""

    def __init__(self, num_classes: int, ignore_label: int):
        self.counts = np.zeros((num_classes, num_classes), np.int64)
        self.ignore_label = ignore_label

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> ConfusionMatrix:
        """Add the pixels of one image, two maps of class ids of one shape; ignored pixels are left out.

        Returns the image's own matrix.
        """
        valid = truth != self.ignore_label
        k = len(self.counts)
        pairs = k * truth[valid].astype(np.int64) + prediction[valid]
        own = ConfusionMatrix(k, self.ignore_label)
        own.counts = np.bincount(pairs, minlength=k * k).reshape(k, k)
        self.counts += own.counts
        return own

    def summed_over_processes(self) -> ConfusionMatrix:
        """The sum of all processes' matrices, as a new one; each process calls it and has the result."""
        total = ConfusionMatrix(len(self.counts), self.ignore_label)
        total.counts = summed_over_processes(self.counts)
        return total

    @property
    def iou(self) -> np.ndarray:
        """Each class's intersection over union, a share; NaN where the truth lacks it."""
        correct, truth, predicted = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        return ratio(correct, np.where(truth > 0, truth + predicted - correct, 0))

    @property
    def accuracy(self) -> np.ndarray:
        """The share of each class's pixels that are right; NaN where the truth lacks it."""
        return ratio(self.counts.diagonal(), self.counts.sum(1))

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Percentages under Detectron2's names: mIoU, fwIoU, IoU-NAME, mACC, pACC, ACC-NAME.

        Classes that are absent from the ground truth are NaN, and left out of the means.
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
