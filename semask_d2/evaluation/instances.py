"""COCO's average precision of instances, by faster-coco-eval or pycocotools, of the predictions of all processes."""

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
    """An image by its number in the dataset: its annotations and what was found, in COCO's form, and its own AP."""

    number: int
    truth: list[dict[str, Any]]
    found: list[dict[str, Any]]
    result: ImageResult


class InstanceEvaluator(Evaluator):
    """AP of masks in percent by COCO's rules: over IoU 0.5 to 0.95, at 0.5 and 0.75, by size, and `AP-NAME` of a class.

    Predictions are gathered from all processes as run lengths with torch.distributed, so no disk is shared. An image's
    own AP is that of a dataset of it alone.
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
        """Forget all images."""
        self.measured: list[MeasuredImage] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep `instances` of `outputs` for the comparison with the annotations, and compare those of each image."""
        for x, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise UserError(
                    f'dataset "{self.dataset_name}" is of instances, and the model finds none: set '
                    "MODEL.MASK_FORMER.TEST.INSTANCE_ON True"
                )
            self.check_predicted(output["instances"].pred_classes.cpu().numpy(), x["file_name"])
            number = self.number_of[x["file_name"]]
            truth, found = self.true_annotations(number), coco_results(output["instances"], number)
            self.measured.append(MeasuredImage(number, truth, found, self.image_result(number, truth, found)))

    def image_result(self, number: int, truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> ImageResult:
        """The AP of one image, over the classes that its truth holds."""
        precision = image_precision(truth, found, len(self.classes), self.max_instances)
        by_class = zip(self.classes.names, precision.by_class()["AP"], strict=True)
        classes = {name: float(x) for name, x in by_class if not np.isnan(x)}
        return ImageResult(self.samples[number]["file_name"], {}, precision.metrics(), classes)

    def evaluate(self) -> OrderedDict:
        """Gather from the processes, log a table of classes, write the files, and return {"segm": metrics}.

        The main process alone compares; every process has the metrics.
        """
        shares = comm.gather(self.measured)
        return on_main_process(lambda: self.summary(sorted((x for share in shares for x in share), key=lambda x: x[0])))

    def summary(self, measured: list[MeasuredImage]) -> OrderedDict:
        """The results of all images, in their order."""
        if not measured:
            raise UserError(f"{self.dataset_name}: no image to measure, as none could be read")
        annotations = [x for image in measured for x in image.truth]
        truth = {
            "info": {},
            "images": [{"id": image.number, **self.size(image.number)} for image in measured],
            "annotations": [{**x, "id": number} for number, x in enumerate(annotations, start=1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.classes.names)],
        }
        found = [x for image in measured for x in image.found]
        precision = coco_precision(truth, found, self.max_instances)
        by_class = precision.by_class()
        metrics = precision.metrics()
        metrics |= {f"AP-{name}": float(x) for name, x in zip(self.classes.names, by_class["AP"], strict=True)}
        true_classes = [x["category_id"] for x in annotations if not x["iscrowd"]]
        counts = np.bincount(true_classes, minlength=len(self.classes))
        remark = f", {len(found)} instances found"
        return self.results(metrics, by_class, counts, [image.result for image in measured], remark=remark)

    def size(self, number: int) -> dict[str, int]:
        """Height and width of an image."""
        width, height = image_size(self.samples[number])
        return {"height": height, "width": width}

    def true_annotations(self, number: int) -> list[dict[str, Any]]:
        """What COCO's file would hold of an image but ids, with classes for category ids and run lengths of masks."""
        annotations = []
        for x in true_instances(self.samples[number]):
            area: Any = x.annotation.get("area")
            annotations.append(
                {
                    "image_id": number,
                    "category_id": x.category_id,
                    "iscrowd": int(x.is_crowd),
                    "area": float(area if is_positive(area) else x.mask.sum()),
                    "bbox": [0, 0, *x.mask.shape[::-1]],  # which average precision of masks does not read
                    "segmentation": run_lengths(x.mask),
                }
            )
        return annotations


def coco_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Instances in the form of COCO's result files, with classes for category ids."""
    masks = instances.pred_masks.bool().cpu().numpy()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": image_id, "category_id": category, "score": score, "segmentation": run_lengths(mask)}
        for mask, score, category in zip(masks, scores, classes, strict=True)
    ]
