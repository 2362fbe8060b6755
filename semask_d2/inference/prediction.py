"""Prediction of a model for one image, and its drawing."""

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

LEAST_SCORE = 0.5  # instances with a lower score are not drawn
OPACITY = 0.6
SUFFIXES = (".png", ".jpg", ".jpeg")  # of drawings


class PanopticSegments(NamedTuple):
    """Panoptic segments of an image.

    `ids` (H, W) int32 holds segment ids, 0 for void. `info` holds the `id`, `category_id` (class), `isthing` and
    `score` of each segment.
    """

    ids: np.ndarray
    info: list[dict[str, Any]]


class PredictedInstances(NamedTuple):
    """Instances of an image, highest score first.

    `masks` (N, H, W) bool, `boxes` (N, 4) as x0, y0, x1, y1, `classes` (N,) and `scores` (N,).
    """

    masks: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    @classmethod
    def from_detectron2(cls, instances: Instances) -> PredictedInstances:
        """Return the instances of a model's output, sorted by score."""
        ordered = instances[instances.scores.argsort(descending=True, stable=True)].to("cpu")
        fields = (ordered.pred_masks, ordered.pred_boxes.tensor, ordered.pred_classes, ordered.scores)
        return cls(*(field.numpy() for field in fields))


class Prediction(NamedTuple):
    """Prediction of a model for one image, on the CPU.

    `labels` (H, W) holds class ids. On request, `scores` (K, H, W) holds the class scores, whose argmax is `labels`.
    They are not calibrated probabilities, but sums over queries of class times mask probability, or the logits of
    Semantic FPN (`Segmentation`). On request, `priors` maps "sem2".."sem5" to class ids of the backbone's semantic
    maps, (ceil(h / stride), ceil(w / stride)) at strides 4, 8, 16 and 32 of the resized image (h, w). `segments` is
    set if MODEL.MASK_FORMER.TEST.PANOPTIC_ON is True, and `instances` if INSTANCE_ON is. A `Predictor` also sets the
    `image` (H, W, 3) and the `classes`, which are needed for drawing.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None
    priors: dict[str, np.ndarray] | None = None
    segments: PanopticSegments | None = None
    instances: PredictedInstances | None = None
    image: np.ndarray | None = None
    classes: Classes | None = None

    def __repr__(self) -> str:
        """Return the sizes and kinds of the results, not their numbers."""
        height, width = self.labels.shape
        parts = [f"labels {height} x {width}, {len(np.unique(self.labels))} classes in it"]
        parts += [] if self.scores is None else [f"scores of {len(self.scores)} classes"]
        parts += [f"priors {', '.join(self.priors)}"] if self.priors else []
        parts += [] if self.segments is None else [f"{len(self.segments.info)} segments"]
        parts += [] if self.instances is None else [f"{len(self.instances.scores)} instances"]
        return f"Prediction({'; '.join(parts)})"

    @property
    def task(self) -> str:
        """Task that is drawn: "panoptic" or "instance" if there are such segments, else "semantic"."""
        return "panoptic" if self.segments is not None else "instance" if self.instances is not None else "semantic"

    @property
    def shares(self) -> dict[str, float]:
        """Percentage of the image's pixels by class name, for the classes in `labels`, largest first."""
        classes = self._drawable()[1]
        counts = np.bincount(self.labels.ravel(), minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        return {classes.names[i]: 100 * float(counts[i]) / self.labels.size for i in order if counts[i]}

    def draw(self, *, opacity: float = OPACITY) -> np.ndarray:
        """Return the image overlaid with its classes or segments and their names, as RGB uint8.

        Classes also get a legend. Small images are enlarged. Raises `UserError` for an opacity outside 0..1.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity: expected a number from 0 to 1, got {opacity}")
        image, classes = self._drawable()
        if self.task == "semantic":
            return draw_segmentation(image, self.labels, classes, opacity=opacity)
        ids, segments = shown_segments(self, self.task)
        return draw_segments(image, drawn_segments(ids, segments, classes), opacity=opacity)

    def save(self, path: str | os.PathLike, *, opacity: float = OPACITY) -> None:
        """Write the drawing atomically as .png or .jpg; raise `UserError` for another suffix."""
        if Path(path).suffix.lower() not in SUFFIXES:
            raise UserError(f"{os.fspath(path)}: expected a name that ends in {', '.join(SUFFIXES)}")
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
            raise UserError("the prediction has no image and classes to draw; use a prediction returned by a Predictor")
        return self.image, self.classes


def shown_segments(prediction: Prediction, task: str) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """Return a map (H, W) of segment ids, 0 for none, and the (id, class, `isthing`) of each segment to draw.

    For "instance", only instances with a score of at least `LEAST_SCORE` are drawn, the highest on top. Raises
    `UserError` if the model did not predict segments of this task.
    """
    panoptic, instances = prediction.segments, prediction.instances
    if task == "panoptic" and panoptic is not None:
        return panoptic.ids, [(x["id"], x["category_id"], x["isthing"]) for x in panoptic.info]
    if task == "instance" and instances is not None:
        ids = map_of_masks(instances.masks, instances.scores, LEAST_SCORE)
        visible = set(np.unique(ids).tolist())
        return ids, [(i + 1, int(category), True) for i, category in enumerate(instances.classes) if i + 1 in visible]
    raise UserError(f"the model predicts no segments: set MODEL.MASK_FORMER.TEST.{task.upper()}_ON True")
