"""SeMask with Semantic FPN: per-pixel classification and semantic-prior supervision (arXiv 2112.12782)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semask_d2.config_values import check_values
from semask_d2.criteria.pixel_loss import pixel_loss
from semask_d2.criteria.targets import build_targets
from semask_d2.d2 import META_ARCH_REGISTRY, Backbone, ImageList, build_backbone, build_sem_seg_head, configurable
from semask_d2.heads.semantic_prior import semantic_prior
from semask_d2.meta_arch.images import Normalizer, image_names, output_size
from semask_d2.meta_arch.score_maps import ScoreMap, resized, rows_of


@META_ARCH_REGISTRY.register()
class SeMaskFPN(nn.Module):
    """Semantic FPN on any backbone; the prior loss where it has semantic maps. Images are not padded to a multiple."""

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
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.normalizer = normalizer
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.loss_weight = loss_weight
        self.prior_weight = prior_weight
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

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.normalizer.mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """As `SeMaskMaskFormer`: losses by name in training, else `sem_seg` logits (K, height, width) per image."""
        if not self.training:  # one by one: images are not padded, so those of different sizes make no batch
            return [{"sem_seg": self.segment(inputs).scores()} for inputs in batched_inputs]
        images, features = self.extract(batched_inputs)
        targets = build_targets(
            [x["sem_seg"] for x in batched_inputs],
            images.tensor.shape[-2:],
            num_classes=self.num_classes,
            ignore_label=self.ignore_label,
            device=self.device,
            names=image_names(batched_inputs),
        )

        def loss(logits: Tensor, hardest: int = 0) -> Tensor:
            return pixel_loss(logits, targets.labels, self.ignore_label, align_corners=False, hardest=hardest)

        losses = {"loss_ce": self.loss_weight * loss(self.sem_seg_head(features), self.hardest_pixels)}
        prior = semantic_prior(features, align_corners=False)
        if prior is not None:
            losses["loss_cate"] = self.prior_weight * loss(prior)
        return losses

    def predict_labels(self, batched_inputs: list[dict]) -> list[Tensor]:
        """As `SeMaskMaskFormer`: the class of each pixel, (height, width) int64 per image."""
        return [self.segment(inputs).labels() for inputs in batched_inputs]

    def segment(self, inputs: dict) -> ScoreMap:
        """The scores of one image."""
        images, features = self.extract([inputs])
        return self.score_maps([inputs], images, self.sem_seg_head(features))[0]

    def extract(self, batched_inputs: list[dict]) -> tuple[ImageList, dict[str, Tensor]]:
        """The batch, and the backbone's features of it: `res2`..`res5`, `sem2`..`sem5` where it has them."""
        images = self.normalizer([x["image"] for x in batched_inputs], 0)
        return images, self.backbone(images.tensor)

    def score_maps(self, batched_inputs: list[dict], images: ImageList, logits: Tensor) -> list[ScoreMap]:
        """The logits (B, K, h, w) of images of one size, straight from stride 4 to each one's output size."""
        source = tuple(logits.shape[-2:])
        sizes = map(output_size, batched_inputs, images.image_sizes)
        return [
            ScoreMap(resized(rows_of(x), source, size), size, len(x), x.device)
            for x, size in zip(logits.float(), sizes, strict=True)
        ]
