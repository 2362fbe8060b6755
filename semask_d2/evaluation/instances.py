"""COCO's average precision of instances, by pycocotools, of the predictions of all processes."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import OrderedDict
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from semask_d2.d2 import DatasetEvaluator, Instances, MetadataCatalog, comm
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.labels import decoded_mask, run_lengths
from semask_d2.evaluation.results import EvaluatedModel
from semask_d2.utils.errors import UserError

logger = logging.getLogger(__name__)
METRICS: tuple[str, ...] = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first of `COCOeval.stats`


class InstanceEvaluator(DatasetEvaluator):
    """AP of masks in percent by COCO's rules: over IoU 0.5 to 0.95, at 0.5 and 0.75, by size, and `AP-NAME` of a class.

    Predictions are gathered from all processes as run lengths with torch.distributed, so no disk is shared.
    """

    def __init__(self, dataset_name: str, *, max_instances: int = 100):
        metadata = MetadataCatalog.get(dataset_name)
        names = metadata.get("thing_classes")
        if names is None:
            raise UserError(
                f'data set "{dataset_name}" has no class names, which its metrics need: add '
                f'MetadataCatalog.get("{dataset_name}").set(thing_classes=[...])'
            )
        self.dataset_name = dataset_name
        self.class_names = list(names)
        self.max_instances = max_instances
        self.evaluated = EvaluatedModel()
        self.samples = get_dataset_dicts(dataset_name)
        self.number_of = {x["file_name"]: i for i, x in enumerate(self.samples)}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.found: list[dict[str, Any]] = []
        self.seen: list[int] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep `instances` of `outputs` for the comparison with the annotations."""
        for x, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise UserError(
                    f'data set "{self.dataset_name}" is of instances, and the model finds none: set '
                    "MODEL.MASK_FORMER.TEST.INSTANCE_ON True"
                )
            number = self.number_of[x["file_name"]]
            self.seen.append(number)
            self.found += coco_results(output["instances"], number)

    def evaluate(self) -> OrderedDict:
        """Gather from the processes, log a table, and return {"segm": metrics}; every process has them."""
        shares = comm.all_gather((self.found, self.seen))
        seen = sorted({number for _, numbers in shares for number in numbers})
        if not seen:
            raise UserError(f"{self.dataset_name}: no image to measure, as none could be read")
        found: Any = [x for own, _ in shares for x in own]
        with contextlib.redirect_stdout(io.StringIO()):  # what pycocotools prints of its steps
            truth = self.truth(seen)
            evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "segm")
            evaluation.params.imgIds = seen
            evaluation.params.maxDets = [1, 10, self.max_instances]
            if found:
                evaluation.evaluate()
                evaluation.accumulate()
                metrics = summarized(evaluation)
            else:
                logger.warning("%s: the model finds no instance", self.dataset_name)
                metrics = dict.fromkeys(METRICS, 0.0)
        results = OrderedDict(metrics)
        precision = evaluation.eval["precision"][:, :, :, 0, -1] if found else np.zeros((1, 1, len(self.class_names)))
        for number, name in enumerate(self.class_names):
            results[f"AP-{name}"] = mean_precision(precision[:, :, number])
        table = tabulate([[*metrics.values()]], headers=[*metrics], floatfmt=".2f", tablefmt="github")
        logger.info("%s, %d images, %d instances found:\n%s", self.dataset_name, len(seen), len(found), table)
        return OrderedDict(segm=results)

    def truth(self, numbers: list[int]) -> COCO:
        """The annotations of these images in pycocotools' form."""
        images, annotations = [], []
        for number in numbers:
            sample = self.samples[number]
            height, width = sample["height"], sample["width"]
            images.append({"id": number, "height": height, "width": width})
            for x in sample["annotations"]:
                mask = decoded_mask(x["segmentation"], height, width, sample["file_name"])
                kept = {key: x[key] for key in ("category_id", "iscrowd")}
                area = float(x.get("area", mask.sum()))
                box = x.get("bbox", [0, 0, width, height])
                encoded = run_lengths(mask)
                annotations.append(
                    {
                        **kept,
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "area": area,
                        "bbox": box,
                        "segmentation": encoded,
                    }
                )
        coco: Any = COCO()
        categories = [{"id": i, "name": name} for i, name in enumerate(self.class_names)]
        coco.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        coco.createIndex()
        return coco


def coco_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Instances in the form of COCO's result files, with classes for category ids."""
    masks = instances.pred_masks.bool().cpu().numpy()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    return [
        {"image_id": image_id, "category_id": category, "score": score, "segmentation": run_lengths(mask)}
        for mask, score, category in zip(masks, scores, classes, strict=True)
    ]


def summarized(evaluation: COCOeval) -> dict[str, float]:
    """`METRICS` in percent, NaN where there is no truth of that size; pycocotools' own summary takes 100 instances."""
    precision, params = evaluation.eval["precision"], evaluation.params
    at = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
    values = {name: mean_precision(precision[part, :, :, 0, -1]) for name, part in at.items()}
    for name, area in zip(("APs", "APm", "APl"), ("small", "medium", "large"), strict=True):
        values[name] = mean_precision(precision[:, :, :, params.areaRngLbl.index(area), -1])
    return values


def mean_precision(precision: np.ndarray) -> float:
    """The mean of those entries that stand for something, in percent; NaN where none does."""
    counted = precision[precision > -1]
    return float(100 * counted.mean()) if counted.size else float("nan")
