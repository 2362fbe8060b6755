"""Panoptic quality (arXiv 1801.00868) of a dataset, summed over all processes, by the rules of COCO's own tool."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from semask_d2.d2 import MetadataCatalog, comm
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.label_checks import require_one_size
from semask_d2.data.segments import panoptic_segments
from semask_d2.evaluation.confusion import mean_of_present
from semask_d2.evaluation.evaluator import Evaluator
from semask_d2.evaluation.results import ImageResult
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UnreadableFile, UserError

logger = logging.getLogger(__name__)
MATCHED = 0.5  # IoU above which two segments of one class are one; no segment can then have two
VOID = 0


class Match(NamedTuple):
    """A predicted and a true segment, by their ids, that are one."""

    category: int
    predicted: int
    true: int
    iou: float


class Comparison(NamedTuple):
    """The segments of a prediction beside the true ones: those that match, and the classes of the other ones."""

    matches: list[Match]
    wrong: list[int]
    missed: list[int]


def compare_segments(
    predicted: np.ndarray,
    predicted_segments: Sequence[Mapping[str, Any]],
    true: np.ndarray,
    true_segments: Sequence[Mapping[str, Any]],
) -> Comparison:
    """Compare two maps (H, W) of segment ids, 0 for void, with `id` and `category_id` of each segment.

    True segments may be `iscrowd`: they are no misses, and what lies more than half in the one of its class, or in
    void, is not wrong.
    One pass over the pixels counts all pairs of ids.
    """
    (own, own_areas), (ids, areas) = (np.unique(x, return_counts=True) for x in (predicted, true))
    pairs = np.searchsorted(own, predicted.ravel()) * len(ids) + np.searchsorted(ids, true.ravel())
    overlaps = np.bincount(pairs, minlength=len(own) * len(ids)).reshape(len(own), len(ids))
    in_void = overlaps[:, ids == VOID].sum(1)
    row_of, column_of = ({int(x): i for i, x in enumerate(found)} for found in (own, ids))
    # of several crowds of a class the last one alone, as panopticapi has it, by which papers' figures are measured
    crowd_of = {x["category_id"]: x["id"] for x in true_segments if x.get("iscrowd")}
    truth = [x for x in true_segments if not x.get("iscrowd") and x["id"] in column_of]
    wanted = [x for x in predicted_segments if x["id"] in row_of]
    comparison = Comparison([], [], [])
    for segment in truth:
        column, category = column_of[segment["id"]], segment["category_id"]
        for other in wanted:
            row = row_of[other["id"]]
            overlap = overlaps[row, column]
            if other["category_id"] != category or not overlap:
                continue
            iou = overlap / (own_areas[row] - in_void[row] + areas[column] - overlap)
            if iou > MATCHED:
                comparison.matches.append(Match(category, other["id"], segment["id"], float(iou)))
                break
        else:
            comparison.missed.append(category)
    matched = {match.predicted for match in comparison.matches}
    for other in wanted:
        row, category = row_of[other["id"]], other["category_id"]
        if other["id"] in matched:
            continue
        column = column_of.get(crowd_of.get(category, -1))
        in_crowd = 0 if column is None else overlaps[row, column]
        if in_void[row] + in_crowd <= own_areas[row] * 0.5:
            comparison.wrong.append(category)
    return comparison


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
    ) -> PanopticCounts:
        """Add one image, as `compare_segments` takes it; returns the image's own counts."""
        comparison = compare_segments(predicted, predicted_segments, true, true_segments)
        own = PanopticCounts(len(self.counts))
        for match in comparison.matches:
            own.counts[match.category] += (match.iou, 1, 0, 0)
        np.add.at(own.counts[:, 2], comparison.wrong, 1)
        np.add.at(own.counts[:, 3], comparison.missed, 1)
        self.counts += own.counts
        return own

    def by_class(self) -> dict[str, np.ndarray]:
        """PQ, SQ and RQ of each class (K,) in percent, NaN of a class that neither truth nor prediction holds."""
        iou, hits, wrong, missed = self.counts.T
        weight = hits + wrong / 2 + missed / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            quality = np.where(hits > 0, iou / np.maximum(hits, 1), 0.0)
            found = {"PQ": iou / weight, "SQ": np.where(weight > 0, quality, np.nan), "RQ": hits / weight}
        return {name: 100 * values for name, values in found.items()}


class PanopticEvaluator(Evaluator):
    """PQ, SQ and RQ in percent: of all classes, of things (`PQ_th`), of stuff (`PQ_st`), and `PQ-NAME` of each class.

    Counts are summed over processes with torch.distributed, so no disk is shared. An image whose panoptic file cannot
    be read is left out, with a warning and a count at the end.
    """

    task: ClassVar = "panoptic"

    def __init__(self, dataset_name: str, *, output_dir: str | os.PathLike | None = None):
        classes = Classes.from_metadata(MetadataCatalog.get(dataset_name), "stuff")
        if classes is None or classes.things is None:
            raise UserError(
                f'dataset "{dataset_name}" does not say what its classes are, or which are things: add '
                f'MetadataCatalog.get("{dataset_name}").set(stuff_classes=[...], '
                "thing_dataset_id_to_contiguous_id={...})"
            )
        super().__init__(dataset_name, classes=classes, output_dir=output_dir)
        self.is_thing = np.isin(np.arange(len(classes)), list(classes.things))
        self.samples = {x["file_name"]: x for x in get_dataset_dicts(dataset_name)}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.quality = PanopticCounts(len(self.classes))
        self.images: list[ImageResult] = []
        self.unreadable = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare `panoptic_seg` of `outputs`, a map (H, W) and its segments, with the panoptic file of each input."""
        for x, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                raise UserError(
                    f'dataset "{self.dataset_name}" is panoptic, and the model finds no segments: set '
                    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON True"
                )
            panoptic, segments = output["panoptic_seg"]
            self.check_predicted(np.array([segment["category_id"] for segment in segments], int), x["file_name"])
            sample = self.samples[x["file_name"]]
            path = sample["pan_seg_file_name"]
            try:
                true, true_segments = panoptic_segments(sample)
            except UnreadableFile as error:
                logger.warning("%s left out of the metrics: %s", x["file_name"], error)
                self.unreadable += 1
                continue
            require_one_size(x["file_name"], tuple(panoptic.shape), "panoptic file", path, true.shape)
            own = self.quality.update(panoptic.cpu().numpy(), segments, true, true_segments)
            self.images.append(image_result(str(x["file_name"]), str(path), own, self.classes))

    def evaluate(self) -> OrderedDict:
        """Sum over the processes, log a table of classes, write the files, and return {"panoptic_seg": metrics}."""
        shares = comm.all_gather((self.quality.counts, self.images, self.unreadable))
        total = PanopticCounts(len(self.classes))
        total.counts = np.sum([counts for counts, _, _ in shares], axis=0)
        images = [image for _, share, _ in shares for image in share]
        unreadable = sum(count for _, _, count in shares)
        if not images:
            raise UserError(f"{self.dataset_name}: no image to measure, as no panoptic file could be read")
        by_class = total.by_class()
        metrics: dict[str, float] = {}
        for ending, chosen in (("", np.ones_like(self.is_thing)), ("_th", self.is_thing), ("_st", ~self.is_thing)):
            metrics |= {f"{name}{ending}": mean_of_present(values[chosen]) for name, values in by_class.items()}
        metrics |= {f"PQ-{name}": float(x) for name, x in zip(self.classes.names, by_class["PQ"], strict=True)}
        _, matched, _, missed = total.counts.T
        remark = f", {unreadable} more left out for want of a readable panoptic file" if unreadable else ""
        return self.results(metrics, by_class, matched + missed, images, remark=remark)


def image_result(image: str, panoptic: str, own: PanopticCounts, classes: Classes) -> ImageResult:
    """The means over the classes of an image's own counts in percent, how many segments are right, and PQ of these."""
    by_class = own.by_class()
    counts = zip(("matched", "wrong", "missed"), own.counts[:, 1:].sum(0), strict=True)
    metrics = {name: mean_of_present(values) for name, values in by_class.items()}
    present = {classes.names[i]: float(by_class["PQ"][i]) for i in np.flatnonzero(~np.isnan(by_class["PQ"]))}
    return ImageResult(image, {"pan_seg_file_name": panoptic}, metrics | {k: int(x) for k, x in counts}, present)
