"""MaskFormer's mask terms: sigmoid focal loss and dice on all pixels (arXiv 2107.06278, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.criteria.point_terms import dice, pairwise_dice

ALPHA, GAMMA = 0.25, 2  # of the focal loss (arXiv 1708.02002)


def focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The focal loss of each logit where its target is 1, and where it is 0."""
    probability = logits.sigmoid()
    positive = ALPHA * (1 - probability) ** GAMMA * F.softplus(-logits)
    negative = (1 - ALPHA) * probability**GAMMA * F.softplus(logits)
    return positive, negative


class DenseTerms:
    """Costs at the masks' own resolution, with the labels resized to it; losses at the labels' resolution."""

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (N, C), `features` (C, h, w), `labels` (H, W), `classes` (M,) -> two (N, M) cost matrices."""
        logits = embed @ features.flatten(1)
        small = F.interpolate(labels[None, None].float(), size=features.shape[-2:], mode="nearest")
        target = (small.flatten() == classes[:, None]).to(logits.dtype)
        positive, negative = focal_terms(logits)
        mask_cost = (positive @ target.T + negative @ (1 - target).T) / logits.shape[1]
        return mask_cost, pairwise_dice(logits.sigmoid(), target)

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (L, M, C) of the matched queries -> focal loss and dice of each pair, (L, M)."""
        logit_maps = torch.einsum("lmc,chw->lmhw", embed, features)
        logits = F.interpolate(logit_maps, size=labels.shape, mode="bilinear", align_corners=False)
        target = labels == classes[:, None, None]
        mask_loss = torch.where(target, *focal_terms(logits)).mean((2, 3))
        return mask_loss, dice(logits.sigmoid().flatten(2), target.flatten(1))
