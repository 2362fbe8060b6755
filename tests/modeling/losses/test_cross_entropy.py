"""The per-pixel loss against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semask_d2.modeling.losses.cross_entropy import mean_cross_entropy, pixel_loss


def upsample(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with aligned corners, rows then columns, of (..., h, w)."""
    h, w = maps.shape[-2:]
    at = np.linspace(0, h - 1, height)
    maps = np.apply_along_axis(lambda column: np.interp(at, np.arange(h), column), -2, maps)
    at = np.linspace(0, w - 1, width)
    return np.apply_along_axis(lambda row: np.interp(at, np.arange(w), row), -1, maps)


def plain_loss(logits: np.ndarray, labels: Tensor, ignore_label: int) -> float:
    total, valid = 0.0, 0
    for b, i, j in np.ndindex(*labels.shape):
        label = int(labels[b, i, j])
        if label != ignore_label:
            probability = np.exp(logits[b, :, i, j]) / np.exp(logits[b, :, i, j]).sum()
            total -= np.log(probability[label])
            valid += 1
    return total / valid


@pytest.mark.parametrize("ignore_label", [255, 0, -1])
def test_equals_the_formula(ignore_label: int) -> None:
    prior = torch.randn(2, 4, 3, 5)
    labels = torch.randint(0, 4, (2, 12, 20))
    labels[:, 9:] = ignore_label
    expected = plain_loss(upsample(prior.double().numpy(), 12, 20), labels, ignore_label)
    assert pixel_loss(prior, labels, ignore_label, align_corners=True).item() == pytest.approx(expected, rel=1e-5)


def test_gradients() -> None:
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 2, 255], [1, 1, 255]]])
    loss = mean_cross_entropy(logits, labels, 255)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = logits.detach().softmax(1)
    for i, j in np.ndindex(2, 3):
        if labels[0, i, j] == 255:
            expected[0, :, i, j] = 0
        else:
            expected[0, labels[0, i, j], i, j] -= 1
    torch.testing.assert_close(gradient, expected / 4, atol=1e-6, rtol=1e-5)


def test_nothing_valid_is_zero_and_has_zero_gradients() -> None:
    prior = torch.randn(2, 4, 3, 5, requires_grad=True)
    loss = pixel_loss(prior, torch.full((2, 12, 20), 255), 255, align_corners=True)
    loss.backward()
    assert loss.item() == 0
    assert prior.grad is not None
    assert not prior.grad.any()


def test_half_precision_logits_are_summed_in_fp32() -> None:
    prior = (20 * torch.randn(1, 4, 64, 64)).bfloat16()
    labels = torch.randint(0, 4, (1, 256, 256))
    loss = pixel_loss(prior, labels, 255, align_corners=True)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    torch.testing.assert_close(loss, pixel_loss(prior.float(), labels, 255, align_corners=True))


def test_only_the_hardest_valid_pixels_count() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    labels[0, :2] = 255
    losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255, reduction="none").flatten()
    ohem_pixels = losses.sort(descending=True).values[:10].mean()
    torch.testing.assert_close(mean_cross_entropy(logits, labels, 255, ohem_pixels=5), ohem_pixels)
    labels[:, :, 1:] = 255  # fewer valid pixels than asked for
    few = mean_cross_entropy(logits, labels, 255)
    torch.testing.assert_close(mean_cross_entropy(logits, labels, 255, ohem_pixels=12), few)
