"""What every model for semantic segmentation does: images in, and scores, labels or losses out."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod

import torch
from torch import Tensor, nn

from semask_d2.criteria.pixel_loss import pixel_loss
from semask_d2.criteria.targets import SemanticTargets, build_targets
from semask_d2.d2 import Backbone, ImageList
from semask_d2.heads.semantic_prior import semantic_prior
from semask_d2.meta_arch.images import Normalizer, image_names
from semask_d2.meta_arch.score_maps import ScoreMap


class SemanticSegmenter(nn.Module, metaclass=ABCMeta):
    """A backbone and a head, with a loss on the backbone's semantic maps where it has them.

    A subclass turns the head's predictions into score maps and losses. Batches are padded to `size_divisibility`, 0
    for none.
    """

    prior_align_corners: bool  # how the semantic maps are resized

    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        normalizer: Normalizer,
        num_classes: int,
        ignore_label: int,
        prior_weight: float,
        size_divisibility: int,
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.normalizer = normalizer
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.prior_weight = prior_weight
        self.size_divisibility = size_divisibility

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.normalizer.mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Detectron2's lists of dicts: `image` (3, H, W) in 0..255, RGB, and in training `sem_seg` (H, W) labels.

        In training: weighted losses by name. Else, per image, `sem_seg`: scores (K, height, width), where `height`
        and `width` are the dict's, or the image's own size.
        """
        if not self.training:
            return [{"sem_seg": score_map.scores()} for score_map in self.segment(batched_inputs)]
        images, features = self.extract(batched_inputs)
        targets = build_targets(
            [x["sem_seg"] for x in batched_inputs],
            images.tensor.shape[-2:],
            num_classes=self.num_classes,
            ignore_label=self.ignore_label,
            device=self.device,
            names=image_names(batched_inputs),
        )
        losses = self.head_losses(self.sem_seg_head(features), targets)
        align_corners = self.prior_align_corners
        prior = semantic_prior(features, align_corners=align_corners)
        if prior is not None:
            loss = pixel_loss(prior, targets.labels, self.ignore_label, align_corners=align_corners)
            losses["loss_cate"] = self.prior_weight * loss
        return losses

    def predict_labels(self, batched_inputs: list[dict]) -> list[Tensor]:
        """The class of each pixel, (height, width) int64 per image: the argmax of `forward`'s scores, without them."""
        return [score_map.labels() for score_map in self.segment(batched_inputs)]

    def segment(self, batched_inputs: list[dict]) -> list[ScoreMap]:
        """The scores of each image."""
        images, features = self.extract(batched_inputs)
        return self.score_maps(batched_inputs, images, self.sem_seg_head(features))

    def extract(self, batched_inputs: list[dict]) -> tuple[ImageList, dict[str, Tensor]]:
        """The padded batch, and the backbone's features of it: `res2`..`res5`, `sem2`..`sem5` where it has them."""
        images = self.normalizer([x["image"] for x in batched_inputs], self.size_divisibility)
        return images, self.backbone(images.tensor)

    @abstractmethod
    def head_losses(self, predictions, targets: SemanticTargets) -> dict[str, Tensor]:
        """The weighted losses of the head's predictions."""

    @abstractmethod
    def score_maps(self, batched_inputs: list[dict], images: ImageList, predictions) -> list[ScoreMap]:
        """The head's predictions as scores, image by image."""
