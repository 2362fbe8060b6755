"""Per-pixel loss in bands against its formula on full maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.modeling.losses import cross_entropy
from semask_d2.modeling.losses.cross_entropy import BandedCrossEntropy, pixel_loss, resizing_matrix


@pytest.fixture(autouse=True)
def _narrow_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use bands of a few rows, so that the small maps of these tests have many."""
    monkeypatch.setattr(cross_entropy, "BAND_ELEMENTS", 300)


def plain_loss(
    logits: Tensor,
    labels: Tensor,
    ignore_label: int,
    *,
    align_corners: bool,
    ohem_pixels: int = 0,
    class_weights: Tensor | None = None,
):
    """Compute the loss on full maps with torch."""
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    losses = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_label, reduction="none")
    valid = labels != ignore_label
    weights = valid.float()
    if class_weights is not None:
        weights[valid] = class_weights[labels[valid]]
    if ohem_pixels:
        chosen = losses.where(valid, -1).flatten().topk(min(ohem_pixels * len(labels), losses.numel())).indices
        losses, weights = losses.flatten()[chosen], weights.flatten()[chosen]
    return losses.sum() / weights.sum().clamp(min=1e-6)


sides = st.integers(1, 9)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    coarse=st.tuples(sides, sides),
    fine=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    align_corners=st.booleans(),
    ohem_pixels=st.sampled_from([0, 0, 1, 7, 500]),
    ignore_label=st.sampled_from([255, 0, -1]),
    class_weights=st.sampled_from([None, (1.0, 0.5, 0.0, 3.0)]),
)
def test_loss_and_gradient_equal_the_whole_maps(
    coarse, fine, align_corners, ohem_pixels, ignore_label, class_weights
) -> None:
    torch.manual_seed(0)
    logits = (2 * torch.randn(2, 4, *coarse)).requires_grad_()
    labels = torch.randint(0, 4, (2, *fine))
    labels[torch.rand(labels.shape) < 0.3] = ignore_label
    options = {"align_corners": align_corners, "ohem_pixels": ohem_pixels}
    options["class_weights"] = None if class_weights is None else torch.tensor(class_weights)
    actual = pixel_loss(logits, labels, ignore_label, **options)
    reference = plain_loss(logits, labels, ignore_label, **options)
    torch.testing.assert_close(actual, reference, atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in (actual, reference)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradcheck(align_corners: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 9, 11))
    labels[0, :3] = 255
    assert torch.autograd.gradcheck(
        lambda x: BandedCrossEntropy.apply(x, labels, 255, align_corners, 0, None), (logits,)
    )


def test_the_formula_itself() -> None:
    logits, labels = torch.randn(1, 3, 2, 3), torch.tensor([[[0, 2, 255], [1, 1, 255]]])
    probability = logits.softmax(1)
    picked = [probability[0, labels[0, i, j], i, j].log() for i in range(2) for j in range(3) if labels[0, i, j] != 255]
    expected = -torch.stack(picked).mean()
    torch.testing.assert_close(pixel_loss(logits, labels, 255, align_corners=False), expected)


def test_without_valid_pixels_loss_and_gradients_are_zero() -> None:
    prior = torch.randn(2, 4, 3, 5, requires_grad=True)
    for ohem_pixels in (0, 10):
        loss = pixel_loss(prior, torch.full((2, 12, 20), 255), 255, align_corners=True, ohem_pixels=ohem_pixels)
        (gradient,) = torch.autograd.grad(loss, prior)
        assert loss.item() == 0
        assert not gradient.any()


def test_half_precision_logits_are_summed_in_fp32() -> None:
    prior = (20 * torch.randn(1, 4, 16, 16)).bfloat16()
    labels = torch.randint(0, 4, (1, 64, 64))
    loss = pixel_loss(prior, labels, 255, align_corners=True)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    torch.testing.assert_close(loss, pixel_loss(prior.float(), labels, 255, align_corners=True))


def test_autocast_changes_nothing() -> None:
    prior, labels = torch.randn(1, 4, 8, 8), torch.randint(0, 4, (1, 32, 32))
    expected = pixel_loss(prior, labels, 255, align_corners=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pixel_loss(prior, labels, 255, align_corners=True), expected)


def test_uint8_labels_are_supported() -> None:
    prior, labels = torch.randn(1, 4, 4, 4), torch.randint(0, 4, (1, 16, 16))
    labels[:, :3] = 255
    small = pixel_loss(prior, labels.to(torch.uint8), 255, align_corners=False)
    torch.testing.assert_close(small, pixel_loss(prior, labels, 255, align_corners=False))


def test_only_the_hardest_valid_pixels_count() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    labels[0, :2] = 255
    losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none").flatten()
    hardest = losses.sort(descending=True).values[:10].mean()
    torch.testing.assert_close(pixel_loss(logits, labels, 255, align_corners=False, ohem_pixels=5), hardest)
    labels[:, :, 1:] = 255  # fewer valid pixels than `ohem_pixels`
    few = pixel_loss(logits, labels, 255, align_corners=False)
    torch.testing.assert_close(pixel_loss(logits, labels, 255, align_corners=False, ohem_pixels=12), few)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_resizing_matrix_is_interpolation(align_corners: bool) -> None:
    values = torch.randn(2, 3, 5)
    matrix = resizing_matrix(5, 13, align_corners, values)
    expected = F.interpolate(values, size=13, mode="linear", align_corners=align_corners)
    torch.testing.assert_close(values @ matrix.T, expected)
