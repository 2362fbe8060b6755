"""SeMask with Semantic FPN: per-pixel classification and semantic-prior supervision (arXiv 2112.12782)."""

from __future__ import annotations

from torch import Tensor, nn

from semask_d2.config_values import check_values
from semask_d2.criteria.pixel_loss import pixel_loss
from semask_d2.criteria.targets import SemanticTargets
from semask_d2.d2 import META_ARCH_REGISTRY, Backbone, ImageList, build_backbone, build_sem_seg_head, configurable
from semask_d2.meta_arch.base import SemanticSegmenter
from semask_d2.meta_arch.images import Normalizer, output_size
from semask_d2.meta_arch.score_maps import ScoreMap, resized, rows_of


@META_ARCH_REGISTRY.register()
class SeMaskFPN(SemanticSegmenter):
    """Semantic FPN on any backbone; the prior loss where it has semantic maps. Images are not padded to a multiple."""

    prior_align_corners = False

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        normalizer: Normalizer,
        num_classes: int,
        ignore_label: int,
        loss_weight: float,
        prior_weight: float,
        hardest_pixels: int,
    ):
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head,
            normalizer=normalizer,
            num_classes=num_classes,
            ignore_label=ignore_label,
            prior_weight=prior_weight,
            size_divisibility=0,
        )
        self.loss_weight = loss_weight
        self.hardest_pixels = hardest_pixels

    @classmethod
    def from_config(cls, cfg):
        """The parts and arguments of `__init__` from a whole config."""
        check_values(cfg)
        backbone = build_backbone(cfg)
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "normalizer": Normalizer(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            "num_classes": head.NUM_CLASSES,
            "ignore_label": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
            "prior_weight": cfg.MODEL.MASK_FORMER.CATE_WEIGHT,
            "hardest_pixels": head.OHEM_PIXELS,
        }

    def head_losses(self, predictions: Tensor, targets: SemanticTargets) -> dict[str, Tensor]:
        """The cross-entropy of the logits, over the hardest pixels alone where so configured."""
        loss = pixel_loss(
            predictions, targets.labels, self.ignore_label, align_corners=False, hardest=self.hardest_pixels
        )
        return {"loss_ce": self.loss_weight * loss}

    def segment(self, batched_inputs: list[dict]) -> list[ScoreMap]:
        """The scores of each image, one by one: not padded, those of different sizes make no batch."""
        return [score_map for inputs in batched_inputs for score_map in super(SeMaskFPN, self).segment([inputs])]

    def score_maps(self, batched_inputs: list[dict], images: ImageList, predictions: Tensor) -> list[ScoreMap]:
        """The logits (B, K, h, w) of images of one size, straight from stride 4 to each one's output size."""
        source = tuple(predictions.shape[-2:])
        sizes = map(output_size, batched_inputs, images.image_sizes)
        return [
            ScoreMap(resized(rows_of(x), source, size), size, len(x), x.device)
            for x, size in zip(predictions.float(), sizes, strict=True)
        ]
