"""Mask2Former's mask terms: binary cross-entropy and dice on sampled points (arXiv 2112.01527, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.layers.points import sample_class_masks, sample_points


def dice(probability: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum pt + 1) / (sum p + sum t + 1) over the last dimension of two tensors (..., P)."""
    overlap = (probability * target).sum(-1)
    return 1 - (2 * overlap + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def pairwise_dice(probability: Tensor, target: Tensor) -> Tensor:
    """`dice` of every row of `probability` (N, P) with every row of `target` (M, P): (N, M)."""
    overlap = probability @ target.T
    return 1 - (2 * overlap + 1) / (probability.sum(1, keepdim=True) + target.sum(1) + 1)


class PointTerms:
    """Costs on `num_points` uniform points an image; losses on points that are partly the most uncertain ones.

    For the losses, `oversample_ratio` x `num_points` uniform candidates are drawn, each mask keeps the
    `importance_sample_ratio` x `num_points` where its logit is nearest to zero, and fresh uniform points fill up.
    The points of the costs and the candidates are shared by the masks and decoder layers of an image: for each of
    them they are uniform, and the samples of all become one product.
    """

    def __init__(self, num_points: int, oversample_ratio: float, importance_sample_ratio: float):
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_sample_ratio)

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (N, C), `features` (C, h, w), `labels` (H, W), `classes` (M,) -> two (N, M) cost matrices."""
        points = torch.rand(self.num_points, 2, device=embed.device)
        # sampling is linear, so the features are sampled once for all queries
        logits = embed @ sample_points(features[None], points[None])[0]
        target = sample_class_masks(labels, points, classes)
        # softplus(-x) t + softplus(x) (1 - t) = softplus(x) - x t, and softplus(x) = relu(x) - log sigmoid(|x|)
        confidence = logits.abs().sigmoid_()
        softplus_sum = logits.relu().sum(1, keepdim=True) - confidence.log().sum(1, keepdim=True)
        mask_cost = (softplus_sum - logits @ target.T) / self.num_points
        probability = torch.where(logits >= 0, confidence, 1 - confidence)
        return mask_cost, pairwise_dice(probability, target)

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (L, M, C) of the matched queries -> binary cross-entropy and dice of each pair, (L, M)."""
        layers = len(embed)
        logit_maps = torch.einsum("nc,chw->nhw", embed.flatten(0, 1), features)
        points = self.choose_points(logit_maps.detach())
        logits = sample_points(logit_maps[:, None], points).squeeze(1)
        target = sample_class_masks(labels, points, classes.repeat(layers))
        mask_loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        return mask_loss.view(layers, -1), dice(logits.sigmoid(), target).view(layers, -1)

    @torch.no_grad()
    def choose_points(self, logit_maps: Tensor) -> Tensor:
        """Points (N, num_points, 2) for `logit_maps` (N, h, w)."""
        candidates = torch.rand(self.num_candidates, 2, device=logit_maps.device)
        certainty = sample_points(logit_maps[None], candidates[None])[0].abs()
        uncertain = certainty.topk(self.num_uncertain, dim=1, largest=False, sorted=False).indices
        num_fresh = self.num_points - self.num_uncertain
        fresh = torch.rand(len(logit_maps), num_fresh, 2, device=logit_maps.device)
        return torch.cat([candidates[uncertain], fresh], dim=1)
