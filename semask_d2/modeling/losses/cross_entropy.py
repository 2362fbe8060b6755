"""Per-pixel cross-entropy, of Semantic FPN's logits and of the semantic prior (arXiv 2112.12782, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mean_cross_entropy(logits: Tensor, labels: Tensor, ignore_label: int, *, ohem_pixels: int = 0) -> Tensor:
    """Cross-entropy of (B, K, H, W) against (B, H, W), mean over valid pixels; zero where none is valid.

    With `ohem_pixels` above 0 only the B x `ohem_pixels` pixels of largest loss in the batch count (online hard example
    mining).
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=ignore_label, reduction="none")
    count = (labels != ignore_label).sum().clamp(min=1)
    if ohem_pixels:
        kept = min(ohem_pixels * len(labels), losses.numel())
        losses, count = losses.flatten().topk(kept, sorted=False).values, count.clamp(max=kept)
    return losses.sum() / count


def pixel_loss(
    logits: Tensor, labels: Tensor, ignore_label: int, *, align_corners: bool, ohem_pixels: int = 0
) -> Tensor:
    """`mean_cross_entropy` of coarse logits (B, K, h, w), resized bilinearly to the labels (B, H, W)."""
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    return mean_cross_entropy(logits, labels, ignore_label, ohem_pixels=ohem_pixels)
