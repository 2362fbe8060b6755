"""Per-pixel cross-entropy, of Semantic FPN's logits and of the semantic prior (arXiv 2112.12782, section 3.3).

Logits at the size of the labels, their softmax and its gradient would be the largest tensors of a training step, but
only a sum and the gradient of the coarse logits are needed. Both are computed in bands of label rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BAND_ELEMENTS = 2**20  # logits (B, K, rows, W) in memory at a time on a CPU
GPU_BAND_ELEMENTS = 2**26
LEAST_WEIGHT = 1e-6  # lower bound of the total weight, for batches without a valid pixel


def pixel_loss(
    logits: Tensor,
    labels: Tensor,
    ignore_label: int,
    *,
    align_corners: bool,
    ohem_pixels: int = 0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of coarse logits (B, K, h, w), resized bilinearly to the labels (B, H, W).

    The mean is over valid pixels, weighted by `class_weights` (K,) if given; without valid pixels it is zero. With
    `ohem_pixels` above 0 only the B x `ohem_pixels` pixels with the largest loss in the batch count (online hard
    example mining).
    """
    with torch.autocast(logits.device.type, enabled=False):  # keep matrix products in fp32
        return BandedCrossEntropy.apply(logits.float(), labels, ignore_label, align_corners, ohem_pixels, class_weights)


class BandedCrossEntropy(torch.autograd.Function):
    """`pixel_loss` in bands of rows. The forward pass also computes the gradient, while the softmax is in memory."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        ignore_label: int,
        align_corners: bool,
        ohem_pixels: int,
        class_weights: Tensor | None,
    ) -> Tensor:
        valid = labels != ignore_label
        weight = valid.to(logits.dtype)
        if class_weights is not None:
            weight *= class_weights.to(logits.dtype)[torch.where(valid, labels, 0).long()]
        height, width = labels.shape[-2:]
        rows = resizing_matrix(logits.shape[-2], height, align_corners, logits)
        columns = resizing_matrix(logits.shape[-1], width, align_corners, logits)
        wide = logits @ columns.T  # (B, K, h, W)
        if ohem_pixels:
            weight *= hardest(wide, rows, labels, valid, weight, ohem_pixels, align_corners)
        weight /= weight.sum().clamp(min=LEAST_WEIGHT)
        total = logits.new_zeros(())
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(wide) if needs_gradient else None
        for band, source in bands(wide, height, align_corners):
            band_rows = rows[band, source]
            log_probability, targets = band_log_softmax(wide[:, :, source], band_rows, labels[:, band], valid[:, band])
            part = weight[:, None, band]
            total -= (log_probability.gather(1, targets) * part).sum()
            if gradient is not None:
                share = log_probability.exp_().mul_(part)
                share.scatter_add_(1, targets, -part)
                gradient[:, :, source] += band_rows.T @ share
        if gradient is not None:
            ctx.save_for_backward(gradient @ columns)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None, None


def hardest(
    wide: Tensor, rows: Tensor, labels: Tensor, valid: Tensor, weight: Tensor, ohem_pixels: int, align_corners: bool
) -> Tensor:
    """Return 1 for the pixels with the largest weighted losses, 0 elsewhere: (B, H, W)."""
    losses = torch.empty(labels.shape, dtype=wide.dtype, device=wide.device)
    for band, source in bands(wide, labels.shape[1], align_corners):
        log_probability, targets = band_log_softmax(
            wide[:, :, source], rows[band, source], labels[:, band], valid[:, band]
        )
        losses[:, band] = -log_probability.gather(1, targets)[:, 0]
    losses = torch.where(valid, losses * weight, -1)  # ignored pixels rank last
    kept = min(ohem_pixels * len(labels), losses.numel())
    chosen = torch.zeros_like(losses).flatten()
    chosen[losses.flatten().topk(kept, sorted=False).indices] = 1
    return chosen.view_as(losses)


def band_log_softmax(wide: Tensor, rows: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities (B, K, R, W) and class ids (B, 1, R, W), 0 where not valid, for R rows of the labels.

    `wide` are the logits (B, K, h, W), resized in width only; `rows` (R, h) are rows of the matrix that resizes height.
    """
    targets = torch.where(valid, labels, 0).long()[:, None]
    return F.log_softmax(rows @ wide, dim=1), targets


def bands(wide: Tensor, height: int, align_corners: bool) -> Iterator[tuple[slice, slice]]:
    """Yield bands of rows of a map of `height`, each with the rows of `wide` (B, K, h, W) that it depends on."""
    elements = BAND_ELEMENTS if wide.device.type == "cpu" else GPU_BAND_ELEMENTS
    step = max(1, elements // (wide.shape[0] * wide.shape[1] * wide.shape[3]))
    rows = wide.shape[2]
    ratio, shift = ((rows - 1) / max(1, height - 1), 0.0) if align_corners else (rows / height, 0.5)
    for start in range(0, height, step):
        stop = min(start + step, height)
        first, last = ((row + shift) * ratio - shift for row in (start, stop - 1))
        # one more row on each side, in case of rounding
        yield slice(start, stop), slice(max(0, int(first) - 1), min(rows, int(last) + 3))


def resizing_matrix(source: int, target: int, align_corners: bool, like: Tensor) -> Tensor:
    """Return the matrix (target, source) that resizes `source` values to `target` bilinearly."""
    identity = torch.eye(source, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=target, mode="linear", align_corners=align_corners)[0].T.contiguous()
