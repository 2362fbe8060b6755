"""The loss on the semantic prior, `loss_cate` (arXiv 2112.12782, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mean_cross_entropy(logits: Tensor, labels: Tensor, ignore_label: int) -> Tensor:
    """Cross-entropy of (B, K, H, W) against (B, H, W), mean over valid pixels; zero where none is valid."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore_label, reduction="sum")
    return total / (labels != ignore_label).sum().clamp(min=1)


def prior_loss(prior: Tensor, labels: Tensor, ignore_label: int) -> Tensor:
    """The mask models' prior loss: `prior` (B, K, h, w) at stride 4, upsampled x4, against labels (B, H, W)."""
    logits = F.interpolate(prior.float(), size=labels.shape[-2:], mode="bilinear", align_corners=True)
    return mean_cross_entropy(logits, labels, ignore_label)
