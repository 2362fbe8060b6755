"""A trained model as a function of images, for notebooks, services and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from semask_d2.d2 import CfgNode, MetadataCatalog, build_model
from semask_d2.data.augmentation import View, resize_image, resized_shape
from semask_d2.errors import UserError
from semask_d2.weights import load_weights


class Prediction(NamedTuple):
    """`labels` (H, W), the class id of each pixel, and where asked for `scores` (K, H, W), both on the CPU."""

    labels: np.ndarray
    scores: np.ndarray | None = None


class Predictor:
    """A config's model with its MODEL.WEIGHTS; call it with one RGB image or a list of them.

    `class_names` and `class_colors` are those of the config's first test set, where it has them.
    """

    def __init__(self, cfg: CfgNode):
        if not cfg.MODEL.WEIGHTS:
            raise UserError("MODEL.WEIGHTS is empty: predictions need trained weights; add MODEL.WEIGHTS FILE")
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        load_weights(self.model, cfg.MODEL.WEIGHTS)
        datasets = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
        metadata = MetadataCatalog.get(datasets[0]) if datasets else None
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        names = metadata.get("stuff_classes") if metadata else None
        colors = metadata.get("stuff_colors") if metadata else None
        self.class_names: list[str] = names or [f"class {i}" for i in range(num_classes)]
        self.class_colors: np.ndarray = np.array(colors or distinct_colors(num_classes), np.uint8)

    def __call__(
        self, images: np.ndarray | Sequence[np.ndarray], *, scores: bool = False
    ) -> Prediction | list[Prediction]:
        """Segment one uint8 RGB image (H, W, 3), or each of a list, at its own size."""
        if isinstance(images, np.ndarray):
            return self([images], scores=scores)[0]
        with torch.inference_mode():
            outputs = self.model([self.prepare(image) for image in images])
        return [
            Prediction(output["sem_seg"].argmax(0).cpu().numpy(), output["sem_seg"].cpu().numpy() if scores else None)
            for output in outputs
        ]

    def prepare(self, image: np.ndarray) -> dict:
        """The model's input for one image: resized as in evaluation, in the config's channel order."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UserError(f"expected a uint8 RGB image (H, W, 3), got {image.dtype} of shape {image.shape}")
        height, width = image.shape[:2]
        shape = resized_shape(height, width, self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        pixels = resize_image(Image.fromarray(image), View.whole(*shape))
        if self.cfg.INPUT.FORMAT == "BGR":
            pixels = pixels[:, :, ::-1]
        tensor = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
        return {"image": tensor, "height": height, "width": width}


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """RGB colours for classes that have none: golden-angle hues, in turn bright and dark."""
    hues = (np.arange(count) * 137.508) % 360
    hsv = np.stack([hues / 360 * 255, np.full(count, 200), np.where(np.arange(count) % 2, 150, 235)], -1)
    rgb = Image.fromarray(hsv.astype(np.uint8)[None], mode="HSV").convert("RGB")
    return [tuple(int(v) for v in color) for color in np.asarray(rgb)[0]]
