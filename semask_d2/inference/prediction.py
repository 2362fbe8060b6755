"""What a model predicts for one image, and its drawing."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from semask_d2.d2 import Instances
from semask_d2.data.image_io import save_picture
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.segment_drawing import draw_segments, drawn_segments, map_of_masks
from semask_d2.utils.visualization import draw_segmentation

LEAST_SCORE = 0.5  # of an instance that is drawn
OPACITY = 0.6


class PanopticSegments(NamedTuple):
    """`ids` (H, W) int32 of an image's segments, 0 for void, and of each segment its `id`, `category_id` (its class),
    `isthing` and `score`.
    """

    ids: np.ndarray
    info: list[dict[str, Any]]


class PredictedInstances(NamedTuple):
    """N objects, the highest score first: `masks` (N, H, W) bool, `boxes` (N, 4) of x0, y0, x1, y1, `classes` (N,) and
    `scores` (N,).
    """

    masks: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    @classmethod
    def from_detectron2(cls, instances: Instances) -> PredictedInstances:
        """Return the instances of a model's output, in the order of their scores."""
        ordered = instances[instances.scores.argsort(descending=True, stable=True)].to("cpu")
        fields = (ordered.pred_masks, ordered.pred_boxes.tensor, ordered.pred_classes, ordered.scores)
        return cls(*(field.numpy() for field in fields))


class Prediction(NamedTuple):
    """What a model predicts for one image, on the CPU.

    `labels` (H, W) are class ids. Where asked for, `scores` is (K, H, W), whose highest is the label: no calibrated
    probabilities, but sums over queries of class times mask probability, or Semantic FPN's logits (`Segmentation`);
    and `priors` maps "sem2".."sem5" to the class ids (ceil(h / stride), ceil(w / stride)) of the backbone's semantic
    maps at strides 4, 8, 16 and 32 of the resized image (h, w). `segments` is there where
    MODEL.MASK_FORMER.TEST.PANOPTIC_ON is True and `instances` where INSTANCE_ON is. A `Predictor` also gives the
    `image` (H, W, 3) and the `classes`, with which a prediction draws itself.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None
    priors: dict[str, np.ndarray] | None = None
    segments: PanopticSegments | None = None
    instances: PredictedInstances | None = None
    image: np.ndarray | None = None
    classes: Classes | None = None

    @property
    def task(self) -> str:
        """What it is drawn as: "panoptic" or "instance" where there are such segments, else "semantic"."""
        return "panoptic" if self.segments is not None else "instance" if self.instances is not None else "semantic"

    @property
    def shares(self) -> dict[str, float]:
        """The share of the image's pixels, in percent, of each class in `labels` by its name, the largest first."""
        classes = self._drawable()[1]
        counts = np.bincount(self.labels.ravel(), minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        return {classes.names[i]: 100 * float(counts[i]) / self.labels.size for i in order if counts[i]}

    def draw(self, *, opacity: float = OPACITY) -> np.ndarray:
        """Return the image under its classes or segments, with names and for classes a legend: RGB uint8.

        Small images are enlarged. Raises `UserError` for an opacity outside 0..1.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity: expected a number from 0 to 1, got {opacity}")
        image, classes = self._drawable()
        if self.task == "semantic":
            return draw_segmentation(image, self.labels, classes, opacity=opacity)
        ids, segments = shown_segments(self, self.task)
        return draw_segments(image, drawn_segments(ids, segments, classes), opacity=opacity)

    def save(self, path: str | os.PathLike, *, opacity: float = OPACITY) -> None:
        """Write the drawing as .png or .jpg, whole or not at all; `UserError` for another ending."""
        save_picture(Path(path), self.draw(opacity=opacity))

    def _repr_png_(self) -> bytes | None:
        """Return the drawing for notebooks."""
        if self.image is None or self.classes is None:
            return None
        buffer = io.BytesIO()
        Image.fromarray(self.draw()).save(buffer, format="PNG")
        return buffer.getvalue()

    def _drawable(self) -> tuple[np.ndarray, Classes]:
        if self.image is None or self.classes is None:
            raise UserError("the prediction has no image and classes to be drawn with; take one that a Predictor gives")
        return self.image, self.classes


def shown_segments(prediction: Prediction, task: str) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """Return a map (H, W) of ids, 0 for none, and the id, the class and `isthing` of each segment to be shown.

    For "panoptic" its segments, for "instance" its instances of a score of `LEAST_SCORE` or more, the highest on top.
    Raises `UserError` where the model did not look for them.
    """
    panoptic, instances = prediction.segments, prediction.instances
    if task == "panoptic" and panoptic is not None:
        return panoptic.ids, [(x["id"], x["category_id"], x["isthing"]) for x in panoptic.info]
    if task == "instance" and instances is not None:
        ids = map_of_masks(instances.masks, instances.scores, LEAST_SCORE)
        seen = set(np.unique(ids).tolist())
        return ids, [(i + 1, int(category), True) for i, category in enumerate(instances.classes) if i + 1 in seen]
    raise UserError(f"the model finds no segments: set MODEL.MASK_FORMER.TEST.{task.upper()}_ON True")
