"""Comparison of predicted masks with ground-truth masks, as matching costs and as losses.

Mask2Former: binary cross-entropy and dice on points (arXiv 2112.01527, section 3.3). MaskFormer: focal loss and dice on
all pixels (arXiv 2107.06278, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.layers.points import sample_class_masks, sample_points
from semask_d2.utils.arguments import require

CPU_COST_POINTS = 448  # points per step of the costs on a CPU; 12,544 points take 28 steps
ALPHA, GAMMA = 0.25, 2  # parameters of the focal loss (arXiv 1708.02002)


class MaskLoss(Protocol):
    """Comparison of the masks of one image, with two terms, "mask" and "dice", as matching costs and as losses.

    `labels` are either one map (H, W) with the value `classes[m]` in ground-truth mask m, or M masks (M, H, W).
    """

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return two cost matrices (N, M) for `embed` (N, C), `features` (C, h, w), `labels` and `classes` (M,)."""
        ...

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two losses of each of the L x M matched pairs, (L, M), for `embed` (L, M, C)."""
        ...


def dice(probability: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - (2 sum pt + 1) / (sum p + sum t + 1) over the last dimension of two tensors (..., P)."""
    overlap = (probability * target).sum(-1)
    return 1 - (2 * overlap + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def pairwise_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Compute `dice` of every row of `probability` (N, P) with every row of `target` (M, P): (N, M)."""
    overlap = probability @ target.T
    return 1 - (2 * overlap + 1) / (probability.sum(1, keepdim=True) + target.sum(1) + 1)


def log_sum(values: Tensor) -> Tensor:
    """Compute `values.log().sum(-1)` for values (..., P) from 1/2 to 1 with few logarithms, which are slow on a CPU.

    Up to 64 values are multiplied first; no product is below 2 ** -64.
    """
    for _ in range(6):
        if values.shape[-1] % 2:
            break
        first, second = values.chunk(2, dim=-1)
        values = first * second
    return values.log().sum(-1)


def indices_of_least(values: Tensor, number: int) -> Tensor:
    """Return the indices of the `number` smallest of `values` (..., P), unordered: (..., number)."""
    if values.device.type != "cpu" or number in (0, values.shape[-1]):
        return values.topk(number, largest=False, sorted=False).indices
    # NumPy's partition is three times as fast as torch's topk
    return torch.from_numpy(np.argpartition(values.numpy(), number, axis=-1)[..., :number].copy())


class PointMaskLoss:
    """Costs on `num_points` uniform points per image, losses on points that favor uncertain regions.

    For the losses, `oversample_ratio` x `num_points` uniform candidates are drawn, each mask keeps the
    `importance_sample_ratio` x `num_points` with logits nearest to zero, and new uniform points make up the rest.
    All masks and decoder layers of an image share the points of the costs, and all masks of a layer share candidates:
    they are still uniform for each mask, and all samples become one matrix product. Sharing candidates between layers
    would double the variance of the losses summed over layers.
    """

    config_keys: ClassVar = {
        "num_points": "MODEL.MASK_FORMER.TRAIN_NUM_POINTS",
        "oversample_ratio": "MODEL.MASK_FORMER.OVERSAMPLE_RATIO",
        "importance_sample_ratio": "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO",
    }

    def __init__(self, num_points: int, oversample_ratio: float, importance_sample_ratio: float):
        require(num_points >= 1, self, "num_points", "at least 1", num_points)
        expected = f"between 0 and 1 and at most OVERSAMPLE_RATIO ({oversample_ratio})"
        share = importance_sample_ratio
        require(0 <= share <= min(1, oversample_ratio), self, "importance_sample_ratio", expected, share)
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_sample_ratio)

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return two cost matrices (N, M) for `embed` (N, C), `features` (C, h, w), `labels` and `classes` (M,)."""
        points = torch.rand(self.num_points, 2, device=embed.device)
        target = sample_class_masks(labels, points, classes)
        # sampling is linear: sample the fewer of channels, once for all queries, and of queries
        if len(embed) < embed.shape[1]:
            logit_maps = torch.einsum("nc,chw->nhw", embed, features)
            parts = self.split(sample_points(logit_maps[None], points[None])[0])
        else:
            parts = (embed @ part for part in self.split(sample_points(features[None], points[None])[0]))
        softplus, correlation, probability, overlap = self.cost_sums(parts, self.split(target))
        # softplus(-x) t + softplus(x) (1 - t) = softplus(x) - x t
        mask_cost = (softplus[:, None] - correlation) / self.num_points
        dice_cost = 1 - (2 * overlap + 1) / (probability[:, None] + target.sum(1) + 1)
        return mask_cost, dice_cost

    @staticmethod
    def split(samples: Tensor) -> tuple[Tensor, ...]:
        """Split samples (..., P) into parts that stay in the cache of a CPU."""
        return samples.split(CPU_COST_POINTS if samples.device.type == "cpu" else samples.shape[-1], dim=-1)

    @staticmethod
    def cost_sums(logits: Iterable[Tensor], target: Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sum softplus(x), x t, p and p t over points, for parts of the logits x (N, P) and of `target` (M, P).

        p = sigmoid(x). Shapes are (N,), (N, M), (N,) and (N, M). The logits are overwritten.
        """
        totals: list[Tensor] = []
        for x, t in zip(logits, target, strict=True):
            probability = x.sigmoid()
            correlation, overlap = x @ t.T, probability @ t.T
            # softplus(x) = relu(x) - log max(p, 1 - p)
            larger = torch.maximum(probability, 1 - probability)
            softplus = x.relu_().sum(1) - log_sum(larger)
            sums = [softplus, correlation, probability.sum(1), overlap]
            totals = [total.add_(part) for total, part in zip(totals, sums, strict=True)] if totals else sums
        softplus, correlation, probability, overlap = totals
        return softplus, correlation, probability, overlap

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return binary cross-entropy and dice of each pair, (L, M), for `embed` (L, M, C) of the matched queries."""
        layers = len(embed)
        logit_maps = torch.einsum("lmc,chw->lmhw", embed, features)
        points = self.choose_points(logit_maps.detach())
        logits = sample_points(logit_maps.flatten(0, 1)[:, None], points.flatten(0, 1)).squeeze(1)
        target = sample_class_masks(labels, points, classes).flatten(0, 1)
        mask_loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        return mask_loss.view(layers, -1), dice(logits.sigmoid(), target).view(layers, -1)

    @torch.no_grad()
    def choose_points(self, logit_maps: Tensor) -> Tensor:
        """Choose points (L, M, num_points, 2) for `logit_maps` (L, M, h, w)."""
        layers, masks = logit_maps.shape[:2]
        candidates = torch.rand(layers, self.num_candidates, 2, device=logit_maps.device)
        certainty = sample_points(logit_maps, candidates).abs()  # (L, M, candidates)
        uncertain = indices_of_least(certainty, self.num_uncertain)
        chosen = candidates.gather(1, uncertain.flatten(1)[..., None].expand(-1, -1, 2)).view(layers, masks, -1, 2)
        num_fresh = self.num_points - self.num_uncertain
        fresh = torch.rand(layers, masks, num_fresh, 2, device=logit_maps.device)
        return torch.cat([chosen, fresh], dim=2)


def focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the focal loss of each logit for target 1, and for target 0."""
    probability = logits.sigmoid()
    positive = ALPHA * (1 - probability) ** GAMMA * F.softplus(-logits)
    negative = (1 - ALPHA) * probability**GAMMA * F.softplus(logits)
    return positive, negative


class DenseMaskLoss:
    """Costs at the resolution of the masks, with resized labels; losses at the resolution of the labels."""

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return two cost matrices (N, M) for `embed` (N, C), `features` (C, h, w), `labels` and `classes` (M,)."""
        logits = embed @ features.flatten(1)
        maps = labels if labels.dim() == 3 else labels[None]
        small = F.interpolate(maps[None].float(), size=features.shape[-2:], mode="nearest")[0].flatten(1)
        target = (small if labels.dim() == 3 else small == classes[:, None]).to(logits.dtype)
        positive, negative = focal_terms(logits)
        mask_cost = (positive @ target.T + negative @ (1 - target).T) / logits.shape[1]
        return mask_cost, pairwise_dice(logits.sigmoid(), target)

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return focal loss and dice of each pair, (L, M), for `embed` (L, M, C) of the matched queries."""
        logit_maps = torch.einsum("lmc,chw->lmhw", embed, features)
        logits = F.interpolate(logit_maps, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        target = labels > 0 if labels.dim() == 3 else labels == classes[:, None, None]
        mask_loss = torch.where(target, *focal_terms(logits)).mean((2, 3))
        return mask_loss, dice(logits.sigmoid().flatten(2), target.flatten(1))
