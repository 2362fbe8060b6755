"""Panoptic quality (arXiv 1801.00868) of a dataset, summed over all processes, by the rules of COCO's panopticapi."""

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
MATCHED = 0.5  # IoU above which two segments of one class match; so no segment can have two matches
VOID = 0


class Match(NamedTuple):
    """A predicted and a true segment that match, by their ids."""

    category: int
    predicted: int
    true: int
    iou: float


class Comparison(NamedTuple):
    """The matches of predicted and true segments, and the classes of the others: wrong (predicted) and missed."""

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

    True segments may be `iscrowd`: these never count as missed, and a predicted segment that lies more than half in
    void or in the crowd of its class is not wrong. One pass over the pixels counts all pairs of ids.
    """
    (predicted_ids, predicted_areas), (true_ids, true_areas) = (
        np.unique(x, return_counts=True) for x in (predicted, true)
    )
    shape = len(predicted_ids), len(true_ids)
    pairs = np.searchsorted(predicted_ids, predicted.ravel()) * shape[1] + np.searchsorted(true_ids, true.ravel())
    overlaps = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    in_void = overlaps[:, true_ids == VOID].sum(1)
    rows, columns = ({int(x): i for i, x in enumerate(ids)} for ids in (predicted_ids, true_ids))
    # if a class has several crowds, only the last counts, as in panopticapi, which papers use
    crowds = {x["category_id"]: x["id"] for x in true_segments if x.get("iscrowd")}
    truth = [x for x in true_segments if not x.get("iscrowd") and x["id"] in columns]
    predictions = [x for x in predicted_segments if x["id"] in rows]
    comparison = Comparison([], [], [])
    for segment in truth:
        column, category = columns[segment["id"]], segment["category_id"]
        for other in predictions:
            row = rows[other["id"]]
            overlap = overlaps[row, column]
            if other["category_id"] != category or not overlap:
                continue
            iou = overlap / (predicted_areas[row] - in_void[row] + true_areas[column] - overlap)
            if iou > MATCHED:
                comparison.matches.append(Match(category, other["id"], segment["id"], float(iou)))
                break
        else:
            comparison.missed.append(category)
    matched = {match.predicted for match in comparison.matches}
    for other in predictions:
        row, category = rows[other["id"]], other["category_id"]
        if other["id"] in matched:
            continue
        column = columns.get(crowds.get(category, -1))
        in_crowd = 0 if column is None else overlaps[row, column]
        if in_void[row] + in_crowd <= predicted_areas[row] * 0.5:
            comparison.wrong.append(category)
    return comparison


class PanopticCounts:
    """Counts (K, 4) float64 by class: the sum of the IoU of matched segments, and numbers matched, wrong and missed."""

    def __init__(self, num_classes: int):
        self.counts = np.zeros((num_classes, 4))

    def update(
        self,
        predicted: np.ndarray,
        predicted_segments: Sequence[Mapping[str, Any]],
        true: np.ndarray,
        true_segments: Sequence[Mapping[str, Any]],
    ) -> PanopticCounts:
        """Add one image, given as to `compare_segments`; return the counts of this image."""
        comparison = compare_segments(predicted, predicted_segments, true, true_segments)
        image_counts = PanopticCounts(len(self.counts))
        for match in comparison.matches:
            image_counts.counts[match.category] += (match.iou, 1, 0, 0)
        np.add.at(image_counts.counts[:, 2], comparison.wrong, 1)
        np.add.at(image_counts.counts[:, 3], comparison.missed, 1)
        self.counts += image_counts.counts
        return image_counts

    def by_class(self) -> dict[str, np.ndarray]:
        """Return PQ, SQ and RQ of each class (K,) in percent; NaN if neither ground truth nor prediction has it."""
        iou, hits, wrong, missed = self.counts.T
        weight = hits + wrong / 2 + missed / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            quality = np.where(hits > 0, iou / np.maximum(hits, 1), 0.0)
            shares = {"PQ": iou / weight, "SQ": np.where(weight > 0, quality, np.nan), "RQ": hits / weight}
        return {name: 100 * values for name, values in shares.items()}


class PanopticEvaluator(Evaluator):
    """PQ, SQ and RQ in percent: over all classes, things (`PQ_th`) and stuff (`PQ_st`), and `PQ-NAME` of each class.

    Counts are summed over processes with torch.distributed; no shared disk is needed. An image whose panoptic file
    cannot be read is left out, with a warning and a count at the end.
    """

    task: ClassVar = "panoptic"

    def __init__(self, dataset_name: str, *, output_dir: str | os.PathLike | None = None):
        classes = Classes.from_metadata(MetadataCatalog.get(dataset_name), "stuff")
        if classes is None or classes.things is None:
            raise UserError(
                f'dataset "{dataset_name}" does not define its classes, or which of them are things: add '
                f'MetadataCatalog.get("{dataset_name}").set(stuff_classes=[...], '
                "thing_dataset_id_to_contiguous_id={...})"
            )
        super().__init__(dataset_name, classes=classes, output_dir=output_dir)
        self.is_thing = np.isin(np.arange(len(classes)), list(classes.things))
        self.samples = {x["file_name"]: x for x in get_dataset_dicts(dataset_name)}
        self.reset()

    def reset(self) -> None:
        """Discard all images."""
        self.quality = PanopticCounts(len(self.classes))
        self.images: list[ImageResult] = []
        self.unreadable = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare `panoptic_seg` of `outputs`, a map (H, W) and its segments, with the panoptic file of each input."""
        for x, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                raise UserError(
                    f'dataset "{self.dataset_name}" is panoptic, but the model does not predict segments: set '
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
            image_counts = self.quality.update(panoptic.cpu().numpy(), segments, true, true_segments)
            self.images.append(image_result(str(x["file_name"]), str(path), image_counts, self.classes))

    def evaluate(self) -> OrderedDict:
        """Sum over the processes, log a table of classes, write the files, and return {"panoptic_seg": metrics}."""
        shares = comm.all_gather((self.quality.counts, self.images, self.unreadable))
        total = PanopticCounts(len(self.classes))
        total.counts = np.sum([counts for counts, _, _ in shares], axis=0)
        images = [image for _, share, _ in shares for image in share]
        unreadable = sum(count for _, _, count in shares)
        if not images:
            raise UserError(f"{self.dataset_name}: no image to evaluate, because no panoptic file could be read")
        by_class = total.by_class()
        metrics: dict[str, float] = {}
        for ending, chosen in (("", np.ones_like(self.is_thing)), ("_th", self.is_thing), ("_st", ~self.is_thing)):
            metrics |= {f"{name}{ending}": mean_of_present(values[chosen]) for name, values in by_class.items()}
        metrics |= {f"PQ-{name}": float(x) for name, x in zip(self.classes.names, by_class["PQ"], strict=True)}
        _, matched, _, missed = total.counts.T
        remark = f", {unreadable} more left out because their panoptic file is unreadable" if unreadable else ""
        return self.results(metrics, by_class, matched + missed, images, remark=remark)


def image_result(image: str, panoptic: str, image_counts: PanopticCounts, classes: Classes) -> ImageResult:
    """Return an image's mean metrics over classes in percent, its segment counts, and PQ of the classes in it."""
    by_class = image_counts.by_class()
    counts = zip(("matched", "wrong", "missed"), image_counts.counts[:, 1:].sum(0), strict=True)
    metrics = {name: mean_of_present(values) for name, values in by_class.items()}
    present = {classes.names[i]: float(by_class["PQ"][i]) for i in np.flatnonzero(~np.isnan(by_class["PQ"]))}
    return ImageResult(image, {"pan_seg_file_name": panoptic}, metrics | {k: int(x) for k, x in counts}, present)
