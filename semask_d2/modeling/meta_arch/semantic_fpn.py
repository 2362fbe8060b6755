"""SeMask with Semantic FPN: per-pixel classification and semantic-prior supervision (arXiv 2112.12782)."""

from __future__ import annotations

from itertools import groupby
from typing import Any, ClassVar

from torch import Tensor

from semask_d2.d2 import META_ARCH_REGISTRY, ImageList, configurable
from semask_d2.modeling.losses.cross_entropy import pixel_loss
from semask_d2.modeling.losses.targets import Targets
from semask_d2.modeling.meta_arch.base import (
    Normalizer,
    PixelLogits,
    SemanticSegmenter,
    build_backbone_and_head,
    output_size,
)
from semask_d2.modeling.meta_arch.score_maps import ScoreMap, resized, row_elements, rows_of
from semask_d2.utils.arguments import arguments_from, require


@META_ARCH_REGISTRY.register()
class SeMaskFPN(SemanticSegmenter):
    """Semantic FPN with any backbone, and a prior loss if the backbone has semantic maps.

    Training images are padded to a multiple of `train_size_divisibility` (the crop size in the recipes) with zeros
    after normalization; evaluation images are not padded. `ohem_pixels` above 0 trains on that many of the hardest
    pixels per image.
    `shared` are the other arguments of `SemanticSegmenter`.
    """

    scores_are_probabilities = False
    prior_align_corners = False
    pads_training_images = True
    config_keys: ClassVar = {
        **SemanticSegmenter.config_keys,
        "loss_weight": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
        "ohem_pixels": "MODEL.SEM_SEG_HEAD.OHEM_PIXELS",
        "train_size_divisibility": "INPUT.SIZE_DIVISIBILITY",
    }

    @configurable
    def __init__(self, *, loss_weight: float, ohem_pixels: int, train_size_divisibility: int, **shared: Any):
        super().__init__(size_divisibility=0, **shared)
        require(ohem_pixels >= 0, self, "ohem_pixels", "at least 0", ohem_pixels)
        self.train_size_divisibility = max(train_size_divisibility, 0)
        self.loss_weight = loss_weight
        self.ohem_pixels = ohem_pixels

    @classmethod
    def from_config(cls, cfg):
        """Return the components and arguments of `__init__` from a config."""
        backbone, sem_seg_head = build_backbone_and_head(cfg)
        return {
            **arguments_from(cfg, cls.config_keys),
            "backbone": backbone,
            "sem_seg_head": sem_seg_head,
            "normalizer": Normalizer(**arguments_from(cfg, Normalizer.config_keys)),
        }

    def final_logits(self, predictions: Tensor) -> PixelLogits:
        """Return the logits of the head."""
        return PixelLogits(predictions)

    def head_losses(self, predictions: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the cross-entropy of the logits, over the hardest pixels only if configured."""
        loss = pixel_loss(
            predictions,
            targets.labels,
            self.ignore_label,
            align_corners=False,
            ohem_pixels=self.ohem_pixels,
            class_weights=self.class_weights,
        )
        return {"loss_ce": self.loss_weight * loss}

    def batches(self, batched_inputs: list[dict]) -> list[list[dict]]:
        """Group consecutive images of one size: without padding, images of different sizes cannot be batched."""
        return [list(group) for _, group in groupby(batched_inputs, key=lambda inputs: inputs["image"].shape)]

    def score_maps(self, batched_inputs: list[dict], images: ImageList, predictions: Tensor) -> list[ScoreMap]:
        """Resize the logits (B, K, h, w) of images of one size to the network input, then to each output size.

        The published models resize bilinearly twice, which differs from resizing once.
        """
        source = (predictions.shape[-2], predictions.shape[-1])
        input_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        maps = []
        for logits, size in zip(predictions.float(), map(output_size, batched_inputs, images.image_sizes), strict=True):
            rows = resized(resized(rows_of(logits), source, input_size), input_size, size)
            maps.append(ScoreMap(rows, size, row_elements(len(logits), size, input_size, source), logits.device))
        return maps
