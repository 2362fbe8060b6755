"""COCO's average precision of instances over the predictions of all processes, by faster-coco-eval or pycocotools."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Any, ClassVar, NamedTuple

import numpy as np

from semask_d2.d2 import Instances, MetadataCatalog, comm
from semask_d2.data.annotations import run_lengths
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.parallel import on_main_process
from semask_d2.data.segments import image_size, true_instances
from semask_d2.evaluation.coco import coco_precision
from semask_d2.evaluation.evaluator import Evaluator
from semask_d2.evaluation.image_precision import image_precision
from semask_d2.evaluation.results import ImageResult
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import is_positive

logger = logging.getLogger(__name__)


class MeasuredImage(NamedTuple):
    """An image by its index in the dataset: its annotations and predictions in COCO's format, and its AP."""

    number: int
    truth: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    result: ImageResult


class InstanceEvaluator(Evaluator):
    """AP of masks in percent by COCO's rules: over IoU 0.5 to 0.95, at 0.5 and 0.75, by size, and `AP-NAME` by class.

    Predictions are gathered from all processes as run lengths with torch.distributed; no shared disk is needed. The AP
    of an image is that of a dataset with only this image.
    """

    task: ClassVar = "instance"

    def __init__(self, dataset_name: str, *, max_instances: int = 100, output_dir: str | os.PathLike | None = None):
        classes = Classes.from_metadata(MetadataCatalog.get(dataset_name), "thing")
        if classes is None:
            raise UserError(
                f'dataset "{dataset_name}" has no class names, which its metrics need: add '
                f'MetadataCatalog.get("{dataset_name}").set(thing_classes=[...])'
            )
        super().__init__(dataset_name, classes=classes, output_dir=output_dir)
        self.max_instances = max_instances
        self.samples = get_dataset_dicts(dataset_name)
        self.number_of = {x["file_name"]: i for i, x in enumerate(self.samples)}
        self.reset()

    def reset(self) -> None:
        """Discard all images."""
        self.measured: list[MeasuredImage] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Store `instances` of `outputs` for the evaluation, and compute the AP of each image."""
        for x, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise UserError(
                    f'dataset "{self.dataset_name}" needs instances, but the model does not predict them: set '
                    "MODEL.MASK_FORMER.TEST.INSTANCE_ON True"
                )
            self.check_predicted(output["instances"].pred_classes.cpu().numpy(), x["file_name"])
            number = self.number_of[x["file_name"]]
            truth, predictions = self.true_annotations(number), coco_results(output["instances"], number)
            result = self.image_result(number, truth, predictions)
            self.measured.append(MeasuredImage(number, truth, predictions, result))

    def image_result(self, number: int, truth: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> ImageResult:
        """Return the AP of one image, over the classes in its ground truth."""
        precision = image_precision(truth, predictions, len(self.classes), self.max_instances)
        by_class = zip(self.classes.names, precision.by_class()["AP"], strict=True)
        classes = {name: float(x) for name, x in by_class if not np.isnan(x)}
        return ImageResult(self.samples[number]["file_name"], {}, precision.metrics(), classes)

    def evaluate(self) -> OrderedDict:
        """Gather from the processes, log a table of classes, write the files, and return {"segm": metrics}.

        Only the main process evaluates; every process gets the metrics.
        """
        shares = comm.gather(self.measured)
        return on_main_process(lambda: self.summary(sorted((x for share in shares for x in share), key=lambda x: x[0])))

    def summary(self, measured: list[MeasuredImage]) -> OrderedDict:
        """Return the metrics of all images, and write the files; `measured` is in the order of the dataset."""
        if not measured:
            raise UserError(f"{self.dataset_name}: no image to evaluate, because none could be read")
        annotations = [x for image in measured for x in image.truth]
        truth = {
            "info": {},
            "images": [{"id": image.number, **self.size(image.number)} for image in measured],
            "annotations": [{**x, "id": number} for number, x in enumerate(annotations, start=1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.classes.names)],
        }
        predictions = [x for image in measured for x in image.predictions]
        precision = coco_precision(truth, predictions, self.max_instances)
        by_class = precision.by_class()
        metrics = precision.metrics()
        metrics |= {f"AP-{name}": float(x) for name, x in zip(self.classes.names, by_class["AP"], strict=True)}
        true_classes = [x["category_id"] for x in annotations if not x["iscrowd"]]
        counts = np.bincount(true_classes, minlength=len(self.classes))
        remark = f", {len(predictions)} predicted instances"
        return self.results(metrics, by_class, counts, [image.result for image in measured], remark=remark)

    def size(self, number: int) -> dict[str, int]:
        """Return the height and width of an image."""
        width, height = image_size(self.samples[number])
        return {"height": height, "width": width}

    def true_annotations(self, number: int) -> list[dict[str, Any]]:
        """Return an image's annotations in COCO's format without ids, with class ids and masks as run lengths."""
        annotations = []
        for x in true_instances(self.samples[number]):
            area: Any = x.annotation.get("area")
            annotations.append(
                {
                    "image_id": number,
                    "category_id": x.category_id,
                    "iscrowd": int(x.is_crowd),
                    "area": float(area if is_positive(area) else x.mask.sum()),
                    "bbox": [0, 0, *x.mask.shape[::-1]],  # required, but not used for masks
                    "segmentation": run_lengths(x.mask),
                }
            )
        return annotations


def coco_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Return instances in the format of COCO's result files, with class ids as category ids."""
    masks = instances.pred_masks.bool().cpu().numpy()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": image_id, "category_id": category, "score": score, "segmentation": run_lengths(mask)}
        for mask, score, category in zip(masks, scores, classes, strict=True)
    ]
