"""Semantic segmentation metrics from one confusion matrix, summed over all processes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from semask_d2.d2 import DatasetEvaluator, MetadataCatalog, comm
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.image_io import check_labels, read_labels
from semask_d2.errors import UserError

logger = logging.getLogger(__name__)


def update_confusion(confusion: np.ndarray, prediction: np.ndarray, truth: np.ndarray, ignore_label: int) -> None:
    """Add the pixels of one image to `confusion` (K, K), rows being the truth; ignored ones are left out."""
    valid = truth != ignore_label
    k = len(confusion)
    pairs = k * truth[valid].astype(np.int64) + prediction[valid]
    confusion += np.bincount(pairs, minlength=k * k).reshape(k, k)


def metrics_of(confusion: np.ndarray, class_names: list[str]) -> dict[str, float]:
    """Percentages under Detectron2's names: mIoU, fwIoU, IoU-NAME, mACC, pACC, ACC-NAME.

    Classes that are absent from the ground truth are NaN, and left out of the means.
    """
    correct = confusion.diagonal().astype(float)
    truth, predicted = confusion.sum(1).astype(float), confusion.sum(0)
    present = truth > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = np.where(present, correct / truth, np.nan)
        iou = np.where(present, correct / (truth + predicted - correct), np.nan)
    total = max(truth.sum(), 1)
    results = {
        "mIoU": iou[present].mean() if present.any() else np.nan,
        "fwIoU": (iou[present] * truth[present]).sum() / total,
        **{f"IoU-{name}": value for name, value in zip(class_names, iou, strict=True)},
        "mACC": accuracy[present].mean() if present.any() else np.nan,
        "pACC": correct.sum() / total,
        **{f"ACC-{name}": value for name, value in zip(class_names, accuracy, strict=True)},
    }
    return {name: 100 * float(value) for name, value in results.items()}


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, frequency-weighted IoU, pixel and mean accuracy, and IoU and accuracy of each class, in percent.

    The matrix is summed over processes with torch.distributed, so no disk is shared, and every process has the
    result.
    """

    def __init__(self, dataset_name: str):
        metadata = MetadataCatalog.get(dataset_name)
        names = metadata.get("stuff_classes")
        if names is None:
            raise UserError(
                f'data set "{dataset_name}" has no class names, which its metrics need: add '
                f'MetadataCatalog.get("{dataset_name}").set(stuff_classes=[...], ignore_label=255)'
            )
        self.dataset_name = dataset_name
        self.class_names = list(names)
        self.ignore_label = metadata.get("ignore_label", 255)
        self.reset()

    @cached_property
    def label_files(self) -> dict[str, str]:
        """The label file of each image file, for loaders that do not hand it on."""
        return {x["file_name"]: x["sem_seg_file_name"] for x in get_dataset_dicts(self.dataset_name)}

    def reset(self) -> None:
        """Forget all images."""
        k = len(self.class_names)
        self.confusion = np.zeros((k, k), np.int64)
        self.images = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare `sem_seg` of `outputs`, scores (K, H, W) or labels (H, W), with the label file of each input."""
        for x, output in zip(inputs, outputs, strict=True):
            path = x.get("sem_seg_file_name") or self.label_files[x["file_name"]]
            truth = read_labels(path)
            check_labels(truth, num_classes=len(self.class_names), ignore_label=self.ignore_label, path=path)
            predicted = output["sem_seg"]
            prediction = (predicted if predicted.dim() == 2 else predicted.argmax(0)).cpu().numpy()
            if prediction.shape != truth.shape:
                raise UserError(
                    f"{path}: the labels are {truth.shape[1]} x {truth.shape[0]} pixels, the image "
                    f"{x['file_name']} {prediction.shape[1]} x {prediction.shape[0]}; they must agree"
                )
            update_confusion(self.confusion, prediction, truth, self.ignore_label)
            self.images += 1

    def evaluate(self) -> OrderedDict:
        """Sum over the processes, log a table of classes, and return {"sem_seg": metrics}."""
        confusion = self.confusion
        images = sum(comm.all_gather(self.images))
        if comm.get_world_size() > 1:
            on_device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            summed = torch.from_numpy(confusion).to(on_device)
            torch.distributed.all_reduce(summed)
            confusion = summed.cpu().numpy()
        if not confusion.any():
            raise UserError(
                f"{self.dataset_name}: no labelled pixel to measure; every image was unreadable or is ignored "
                f"as a whole (ignore label {self.ignore_label})"
            )
        results = metrics_of(confusion, self.class_names)
        rows = [(name, results[f"IoU-{name}"], results[f"ACC-{name}"]) for name in self.class_names]
        table = tabulate(rows, headers=["class", "IoU", "accuracy"], floatfmt=".2f", tablefmt="github")
        logger.info("%s, %d images, each class in percent:\n%s", self.dataset_name, images, table)
        return OrderedDict(sem_seg=results)
