"""Class balancing: sampling of images with rare classes, and class weights, both from the same pixel counts."""

from __future__ import annotations

import logging

import numpy as np

from semask_d2.d2 import CfgNode
from semask_d2.data.class_counts import class_pixels_of_run
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.modeling.losses.class_weights import AUTO
from semask_d2.utils.errors import UserError

logger = logging.getLogger(__name__)

WEIGHTS_KEY = "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS"
MIN_SHARE = 0.001  # of an image's labeled pixels, above which a class counts as present
LARGEST_RATIO = 10.0  # between two automatic class weights


class RareClasses:
    """Draws a class, rare ones more often, then one of the images that show it (DAFormer, arXiv 2111.14887, 3.3).

    `pixels` (images, K) are the counts of `class_pixels`. A class of share f of all pixels has a probability
    proportional to exp((1 - f) / `temperature`): the lower the temperature, the more the rarest classes count.
    """

    def __init__(self, pixels: np.ndarray, temperature: float):
        total = pixels.sum()
        if not total:
            raise UserError("DATALOADER.RARE_CLASS_TEMPERATURE: no image has a labeled pixel; check the label files")
        self.classes = np.flatnonzero(pixels.any(0))
        exponent = (1 - pixels.sum(0)[self.classes] / total) / temperature
        weights = np.exp(exponent - exponent.max())
        self.probabilities = weights / weights.sum()
        self.images = {int(c): images_of(pixels, int(c)) for c in self.classes}

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the index of an image, and the class that it is drawn for."""
        target_class = int(rng.choice(self.classes, p=self.probabilities))
        return int(rng.choice(self.images[target_class])), target_class


def images_of(pixels: np.ndarray, class_id: int) -> np.ndarray:
    """Return the indices of images that show a class; images with only a speck of it count if there are no others."""
    present = pixels[:, class_id] > MIN_SHARE * pixels.sum(1)
    return np.flatnonzero(present if present.any() else pixels[:, class_id] > 0)


def balanced_weights(pixels: np.ndarray) -> list[float]:
    """Return class weights from pixel counts (K,): inverse square roots of the shares, scaled to a mean of 1.

    The largest weight is at most ten times the smallest; a class without pixels has weight 1.
    """
    present = pixels > 0
    weights = np.ones(len(pixels))
    roots = np.sqrt(pixels[present].max(initial=1) / pixels[present])
    roots = np.minimum(roots, LARGEST_RATIO)
    weights[present] = roots / roots.mean() if len(roots) else 1.0
    return [round(float(weight), 4) for weight in weights]


def with_class_weights(cfg: CfgNode) -> CfgNode:
    """Return `cfg`, or, if its class weights are ["auto"], a copy with weights from the training sets' pixels."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if list(head.CLASS_WEIGHTS) != [AUTO]:
        return cfg
    dicts = [sample for name in cfg.DATASETS.TRAIN for sample in get_dataset_dicts(name)]
    weights = balanced_weights(class_pixels_of_run(cfg, dicts).sum(0))
    logger.info("%s from the training set: %s", WEIGHTS_KEY, ", ".join(f"{weight:g}" for weight in weights))
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = weights
    if frozen:
        cfg.freeze()
    return cfg
