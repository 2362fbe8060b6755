"""MaskFormer's costs and losses against explicit masks, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from semask_d2.modeling.losses.mask_losses import DenseMaskLoss, focal_terms


def plain_terms(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return focal loss (mean over pixels) and dice of one (H, W) pair."""
    p = logits.sigmoid()
    right = torch.where(mask, p, 1 - p)
    alpha = torch.where(mask, 0.25, 0.75)
    focal = (-alpha * (1 - right) ** 2 * right.log()).mean()
    return focal, 1 - (2 * p[mask].sum() + 1) / (p.sum() + mask.sum() + 1)


def make(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return embeddings (6, 5), features, labels in 4 x 4 blocks that nearest resizing preserves, and classes."""
    generator = torch.Generator().manual_seed(seed)
    embed = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    features = torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (16, 24), generator=generator)
    labels[labels == 3] = 255
    return embed, features, labels, torch.tensor([2, 0])


def test_costs_equal_the_formula() -> None:
    """Costs use the resolution of the masks, with labels from the upper left pixel of each 4 x 4 block."""
    embed, features, labels, classes = make()
    mask_cost, dice_cost = DenseMaskLoss().costs(embed, features, labels, classes)
    assert mask_cost.shape == dice_cost.shape == (6, 2)
    for q in range(6):
        logits = (embed[q, :, None, None] * features).sum(0)
        for t, c in enumerate(classes):
            focal, dice = plain_terms(logits, labels[::4, ::4] == c)
            torch.testing.assert_close(mask_cost[q, t], focal)
            torch.testing.assert_close(dice_cost[q, t], dice)


def test_losses_and_their_gradients_equal_the_formula() -> None:
    """Losses use the resolution of the labels, with upsampled masks; ignored pixels are outside every mask."""
    embed, features, labels, classes = make()
    embed = embed.view(3, 2, 5).requires_grad_()
    features.requires_grad_()
    losses = DenseMaskLoss().losses(embed, features, labels, classes)
    expected = torch.zeros(2, 3, 2, dtype=torch.float64)
    for layer in range(3):
        for t, c in enumerate(classes):
            logits = (embed[layer, t, :, None, None] * features).sum(0)
            logits = F.interpolate(logits[None, None], size=(16, 24), mode="bilinear")[0, 0]
            expected[:, layer, t] = torch.stack(plain_terms(logits, labels == c))
    weights = torch.rand(2, 3, 2, dtype=torch.float64)
    for actual, reference in zip(losses, expected, strict=True):
        torch.testing.assert_close(actual, reference)
    actual = torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, losses, strict=True)), (embed, features))
    reference = torch.autograd.grad((weights * expected).sum(), (embed, features))
    torch.testing.assert_close(actual, reference)


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_focal_terms_equal_torchvision_and_stay_finite(scale: float) -> None:
    logits = scale * torch.randn(50)
    positive, negative = focal_terms(logits)
    torch.testing.assert_close(positive, sigmoid_focal_loss(logits, torch.ones(50)), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(negative, sigmoid_focal_loss(logits, torch.zeros(50)), atol=1e-6, rtol=1e-4)
    assert positive.isfinite().all()
    assert negative.isfinite().all()


def test_no_classes() -> None:
    embed, features, labels, _ = make()
    no_classes = torch.empty(0, dtype=torch.int64)
    assert [x.shape for x in DenseMaskLoss().costs(embed, features, labels, no_classes)] == [(6, 0), (6, 0)]
