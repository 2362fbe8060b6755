"""Semantic segmentation metrics from one confusion matrix, summed over all processes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from semask_d2.d2 import DatasetEvaluator, MetadataCatalog, comm
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.image_io import check_labels
from semask_d2.data.labels import read_sample_labels
from semask_d2.modeling.meta_arch import as_segmenter
from semask_d2.utils.errors import UnreadableFile, UserError

logger = logging.getLogger(__name__)


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column), and the metrics that follow from them."""

    def __init__(self, num_classes: int, ignore_label: int):
        self.counts = np.zeros((num_classes, num_classes), np.int64)
        self.ignore_label = ignore_label

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add the pixels of one image, two maps of class ids of one shape; ignored pixels are left out."""
        valid = truth != self.ignore_label
        k = len(self.counts)
        pairs = k * truth[valid].astype(np.int64) + prediction[valid]
        self.counts += np.bincount(pairs, minlength=k * k).reshape(k, k)

    def summed_over_processes(self) -> ConfusionMatrix:
        """The sum of all processes' matrices, as a new one; each process calls it and has the result."""
        total = ConfusionMatrix(len(self.counts), self.ignore_label)
        total.counts += self.counts
        if comm.get_world_size() > 1:
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            summed = torch.tensor(self.counts, device=device)  # a copy, which is summed in place
            torch.distributed.all_reduce(summed)
            total.counts = summed.cpu().numpy()
        return total

    def metrics(self, class_names: list[str]) -> dict[str, float]:
        """Percentages under Detectron2's names: mIoU, fwIoU, IoU-NAME, mACC, pACC, ACC-NAME.

        Classes that are absent from the ground truth are NaN, and left out of the means.
        """
        correct = self.counts.diagonal().astype(float)
        truth, predicted = self.counts.sum(1).astype(float), self.counts.sum(0)
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


class LabelsOnly(nn.Module):
    """A model's labels for evaluators that need no more: per image `sem_seg`, (height, width) class ids.

    The scores (K, height, width) of a large image take far longer and far more memory.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = as_segmenter(model)
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        return [{"sem_seg": labels} for labels in self.model.predict_labels(batched_inputs)]


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, frequency-weighted IoU, pixel and mean accuracy, and IoU and accuracy of each class, in percent.

    The matrix is summed over processes with torch.distributed, so no disk is shared, and every process has the
    result. An image whose label file cannot be read is left out, with a warning and a count at the end.
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
    def samples(self) -> dict[str, dict[str, Any]]:
        """The data set's dict of each image file, for loaders that do not hand its label file on."""
        return {x["file_name"]: x for x in get_dataset_dicts(self.dataset_name)}

    def reset(self) -> None:
        """Forget all images."""
        self.confusion = ConfusionMatrix(len(self.class_names), self.ignore_label)
        self.images = 0
        self.unreadable = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare `sem_seg` of `outputs`, scores (K, H, W) or labels (H, W), with the label file of each input."""
        for x, output in zip(inputs, outputs, strict=True):
            sample = x if x.get("sem_seg_file_name") else self.samples[x["file_name"]]
            path = sample["sem_seg_file_name"]
            try:
                truth = read_sample_labels(sample)
            except UnreadableFile as error:
                logger.warning("%s left out of the metrics: %s", x["file_name"], error)
                self.unreadable += 1
                continue
            check_labels(truth, num_classes=len(self.class_names), ignore_label=self.ignore_label, path=path)
            predicted = output["sem_seg"]
            prediction = (predicted if predicted.dim() == 2 else predicted.argmax(0)).cpu().numpy()
            if prediction.shape != truth.shape:
                raise UserError(
                    f"{path}: the labels are {truth.shape[1]} x {truth.shape[0]} pixels, the image "
                    f"{x['file_name']} {prediction.shape[1]} x {prediction.shape[0]}; they must agree"
                )
            self.confusion.update(prediction, truth)
            self.images += 1

    def evaluate(self) -> OrderedDict:
        """Sum over the processes, log a table of classes, and return {"sem_seg": metrics}."""
        images, unreadable = (
            sum(counts) for counts in zip(*comm.all_gather((self.images, self.unreadable)), strict=True)
        )
        confusion = self.confusion.summed_over_processes()
        if not confusion.counts.any():
            raise UserError(
                f"{self.dataset_name}: no labeled pixel to measure; every image or its label file was unreadable or is "
                f"ignored as a whole (ignore label {self.ignore_label})"
            )
        results = confusion.metrics(self.class_names)
        rows = [(name, results[f"IoU-{name}"], results[f"ACC-{name}"]) for name in self.class_names]
        table = tabulate(rows, headers=["class", "IoU", "accuracy"], floatfmt=".2f", tablefmt="github")
        left_out = f", {unreadable} more left out for want of a readable label file" if unreadable else ""
        logger.info("%s, %d images%s, each class in percent:\n%s", self.dataset_name, images, left_out, table)
        return OrderedDict(sem_seg=results)
