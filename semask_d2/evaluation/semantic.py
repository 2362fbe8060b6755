"""Semantic segmentation metrics of a dataset, summed over all processes."""

from __future__ import annotations

import logging
import math
import os
from collections import OrderedDict
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from semask_d2.d2 import MetadataCatalog, comm
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.label_checks import check_labels, require_one_size
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.quick_check import warn_of_one_class
from semask_d2.evaluation.boundary import BoundaryMetrics
from semask_d2.evaluation.confusion import ConfusionMatrix, mean_of_present
from semask_d2.evaluation.evaluator import Evaluator
from semask_d2.evaluation.result_files import PREDICTIONS
from semask_d2.evaluation.results import LABEL_FILE, ImageResult
from semask_d2.evaluation.submission import SubmissionWriter
from semask_d2.modeling.meta_arch import as_segmenter
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UnreadableFile, UserError

logger = logging.getLogger(__name__)


class LabelsOnly(nn.Module):
    """Wraps a model to return labels without scores: per image `sem_seg`, class ids (height, width).

    The scores (K, height, width) of a large image would take much more time and memory.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = as_segmenter(model)
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        return [{"sem_seg": labels} for labels in self.model.predict_labels(batched_inputs)]


class SemanticEvaluator(Evaluator):
    """mIoU, frequency-weighted IoU, pixel and mean accuracy, and IoU and accuracy of each class, in percent.

    With `boundary`, also boundary and trimap IoU. Counts are summed over processes with torch.distributed; no shared
    disk is needed, and every process gets the result. An image whose label file cannot be read is left out, with a
    warning and a count at the end. With `save_predictions`, all processes write their predictions to `predictions/` in
    the folder of results.
    """

    task: ClassVar = "semantic"

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | os.PathLike | None = None,
        boundary: bool = False,
        save_predictions: bool = False,
    ):
        classes = Classes.from_metadata(MetadataCatalog.get(dataset_name), "stuff")
        if classes is None:
            raise UserError(
                f'dataset "{dataset_name}" has no class names, which its metrics need: add '
                f'MetadataCatalog.get("{dataset_name}").set(stuff_classes=[...], ignore_label=255)'
            )
        super().__init__(dataset_name, classes=classes, output_dir=output_dir)
        self.measures_boundary = boundary
        self.save_predictions = save_predictions
        self.reset()

    @cached_property
    def samples(self) -> dict[str, dict[str, Any]]:
        """The dataset's dicts by image file, for loaders that do not pass on the label file."""
        return {x["file_name"]: x for x in get_dataset_dicts(self.dataset_name)}

    def reset(self) -> None:
        """Discard all images."""
        count, ignore_label = len(self.classes), self.classes.ignore_label
        self.confusion = ConfusionMatrix(count, ignore_label)
        self.boundary = BoundaryMetrics(count, ignore_label) if self.measures_boundary else None
        self.images: list[ImageResult] = []
        self.unreadable = 0
        self.predictions = None
        if self.folder is not None and self.save_predictions:
            self.predictions = SubmissionWriter(self.folder / PREDICTIONS, self.dataset_name)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare `sem_seg` of `outputs`, scores (K, H, W) or labels (H, W), with the label file of each input."""
        for x, output in zip(inputs, outputs, strict=True):
            predicted = output["sem_seg"]
            prediction = (predicted if predicted.dim() == 2 else predicted.argmax(0)).cpu().numpy()
            self.check_predicted(prediction, x["file_name"])
            if self.predictions is not None:
                self.predictions.write(x["file_name"], prediction)
            sample = x if x.get("sem_seg_file_name") else self.samples[x["file_name"]]
            path = sample["sem_seg_file_name"]
            try:
                truth = read_sample_labels(sample)
            except UnreadableFile as error:
                logger.warning("%s left out of the metrics: %s", x["file_name"], error)
                self.unreadable += 1
                continue
            check_labels(truth, num_classes=len(self.classes), ignore_label=self.classes.ignore_label, path=path)
            require_one_size(x["file_name"], prediction.shape, "label file", path, truth.shape)
            image_confusion = self.confusion.update(prediction, truth)
            self.images.append(image_result(str(x["file_name"]), str(path), image_confusion, self.classes))
            if self.boundary is not None:
                self.boundary.update(prediction, truth)

    def evaluate(self) -> OrderedDict:
        """Sum over the processes, log a table of classes, write the files, and return {"sem_seg": metrics}."""
        shares = comm.all_gather((self.images, self.unreadable))
        images = [image for share, _ in shares for image in share]
        unreadable = sum(count for _, count in shares)
        confusion = self.confusion.summed_over_processes()
        boundary = None if self.boundary is None else self.boundary.summed_over_processes()
        if not confusion.counts.any():
            raise UserError(
                f"{self.dataset_name}: no labeled pixel to evaluate; every image or its label file is unreadable or "
                f"completely ignored (ignore label {self.classes.ignore_label})"
            )
        if comm.is_main_process():
            warn_of_one_class(self.dataset_name, confusion.counts.sum(1), f"{len(images)} images")
        results = confusion.metrics(self.classes.names)
        class_metrics = {"IoU": 100 * confusion.iou, "accuracy": 100 * confusion.accuracy}
        if boundary is not None:
            results |= boundary.metrics(self.classes.names)
            class_metrics |= boundary.by_class()
        return self.results(
            results,
            class_metrics,
            confusion.counts.sum(1),
            images,
            remark=f", {unreadable} more left out because their label file is unreadable" if unreadable else "",
            confusion=confusion,
        )


def image_result(image: str, labels: str, confusion: ConfusionMatrix, classes: Classes) -> ImageResult:
    """Return metrics in percent from an image's confusion matrix, and the IoU of the classes in its ground truth."""
    iou, total = 100 * confusion.iou, confusion.counts.sum()
    accuracy = 100 * confusion.counts.diagonal().sum() / total if total else math.nan
    present = {classes.names[i]: float(iou[i]) for i in np.flatnonzero(~np.isnan(iou))}
    metrics = {"mIoU": mean_of_present(iou), "pixel_accuracy": float(accuracy)}
    return ImageResult(image, {LABEL_FILE: labels}, metrics, present)
