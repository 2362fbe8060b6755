"""Panoptic quality (arXiv 1801.00868) of a data set, summed over all processes, by the rules of COCO's own tool."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from semask_d2.d2 import DatasetEvaluator, MetadataCatalog, comm
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.segment_mapper import read_segment_ids
from semask_d2.evaluation.results import EvaluatedModel
from semask_d2.utils.errors import UnreadableFile, UserError

logger = logging.getLogger(__name__)
MATCHED = 0.5  # IoU above which two segments of one class are one; no segment can then have two
VOID = 0


class PanopticCounts:
    """Per class: the sum of IoU of the matched segments, and how many are matched, wrong and missed, (K, 4) float64."""

    def __init__(self, num_classes: int):
        self.counts = np.zeros((num_classes, 4))

    def update(
        self,
        predicted: np.ndarray,
        predicted_segments: Sequence[Mapping[str, Any]],
        true: np.ndarray,
        true_segments: Sequence[Mapping[str, Any]],
    ) -> None:
        """Add one image: maps (H, W) of segment ids, 0 for void, and `id` and `category_id` of each segment.

        True segments may be `iscrowd`: they are no misses, and what lies more than half in them, or in void, is not
        wrong. One pass over the pixels counts all pairs of ids.
        """
        (own, own_areas), (ids, areas) = (np.unique(x, return_counts=True) for x in (predicted, true))
        pairs = np.searchsorted(own, predicted.ravel()) * len(ids) + np.searchsorted(ids, true.ravel())
        overlaps = np.bincount(pairs, minlength=len(own) * len(ids)).reshape(len(own), len(ids))
        in_void = overlaps[:, ids == VOID].sum(1)
        row_of, column_of = ({int(x): i for i, x in enumerate(found)} for found in (own, ids))
        matched = set()
        crowds = [x for x in true_segments if x.get("iscrowd")]
        truth = [x for x in true_segments if not x.get("iscrowd") and x["id"] in column_of]
        wanted = [x for x in predicted_segments if x["id"] in row_of]
        for segment in truth:
            column, category = column_of[segment["id"]], segment["category_id"]
            for other in wanted:
                row = row_of[other["id"]]
                overlap = overlaps[row, column]
                if other["category_id"] != category or not overlap:
                    continue
                iou = overlap / (own_areas[row] - in_void[row] + areas[column] - overlap)
                if iou > MATCHED:
                    self.counts[category] += (iou, 1, 0, 0)
                    matched.add(row)
                    break
            else:
                self.counts[category, 3] += 1
        for other in wanted:
            row, category = row_of[other["id"]], other["category_id"]
            if row in matched:
                continue
            same = [column_of[x["id"]] for x in crowds if x["category_id"] == category and x["id"] in column_of]
            if in_void[row] + overlaps[row, same].sum() <= own_areas[row] * 0.5:
                self.counts[category, 2] += 1

    def by_class(self) -> dict[str, np.ndarray]:
        """PQ, SQ and RQ of each class (K,) in percent, NaN of a class that neither truth nor prediction holds."""
        iou, hits, wrong, missed = self.counts.T
        weight = hits + wrong / 2 + missed / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            quality = np.where(hits > 0, iou / np.maximum(hits, 1), 0.0)
            found = {"PQ": iou / weight, "SQ": np.where(weight > 0, quality, np.nan), "RQ": hits / weight}
        return {name: 100 * values for name, values in found.items()}


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ in percent: of all classes, of things (`PQ_th`), of stuff (`PQ_st`), and `PQ-NAME` of each class.

    Counts are summed over processes with torch.distributed, so no disk is shared. An image whose panoptic file cannot
    be read is left out, with a warning.
    """

    def __init__(self, dataset_name: str):
        metadata = MetadataCatalog.get(dataset_name)
        names, things = metadata.get("stuff_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
        if names is None or things is None:
            raise UserError(
                f'data set "{dataset_name}" does not say what its classes are, or which are things: add '
                f'MetadataCatalog.get("{dataset_name}").set(stuff_classes=[...], '
                "thing_dataset_id_to_contiguous_id={...})"
            )
        self.dataset_name = dataset_name
        self.class_names = list(names)
        self.is_thing = np.isin(np.arange(len(names)), list(things.values()))
        self.samples = {x["file_name"]: x for x in get_dataset_dicts(dataset_name)}
        self.evaluated = EvaluatedModel()
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.quality = PanopticCounts(len(self.class_names))
        self.images = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare `panoptic_seg` of `outputs`, a map (H, W) and its segments, with the panoptic file of each input."""
        for x, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                raise UserError(
                    f'data set "{self.dataset_name}" is panoptic, and the model finds no segments: set '
                    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON True"
                )
            panoptic, segments = output["panoptic_seg"]
            sample = self.samples[x["file_name"]]
            path = sample["pan_seg_file_name"]
            try:
                true = read_segment_ids(path)
            except UnreadableFile as error:
                logger.warning("%s left out of the metrics: %s", x["file_name"], error)
                continue
            if true.shape != tuple(panoptic.shape):
                raise UserError(
                    f"{path} is {true.shape[1]} x {true.shape[0]} pixels, the image {x['file_name']} "
                    f"{panoptic.shape[1]} x {panoptic.shape[0]}; they must agree"
                )
            self.quality.update(panoptic.cpu().numpy(), segments, true, sample["segments_info"])
            self.images += 1

    def evaluate(self) -> OrderedDict:
        """Sum over the processes, log a table of classes, and return {"panoptic_seg": metrics}."""
        shares = comm.all_gather((self.quality.counts, self.images))
        total = PanopticCounts(len(self.class_names))
        total.counts = np.sum([counts for counts, _ in shares], axis=0)
        images = sum(count for _, count in shares)
        if not images:
            raise UserError(f"{self.dataset_name}: no image to measure, as no panoptic file could be read")
        by_class = total.by_class()
        results = OrderedDict()
        for ending, chosen in (("", np.ones_like(self.is_thing)), ("_th", self.is_thing), ("_st", ~self.is_thing)):
            for name, values in by_class.items():
                present = values[chosen][~np.isnan(values[chosen])]
                results[f"{name}{ending}"] = float(present.mean()) if len(present) else float("nan")
        results |= {f"PQ-{name}": float(x) for name, x in zip(self.class_names, by_class["PQ"], strict=True)}
        rows = zip(self.class_names, *by_class.values(), strict=True)
        table = tabulate(rows, headers=["class", *by_class], floatfmt=".2f", tablefmt="github")
        logger.info("%s, %d images, each class in percent:\n%s", self.dataset_name, images, table)
        return OrderedDict(panoptic_seg=results)
