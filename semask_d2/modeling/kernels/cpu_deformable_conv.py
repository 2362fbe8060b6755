"""Modulated deformable convolution on a CPU, as gather-and-sum; training stores no samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semask_d2.modeling.kernels.bilinear_gather import Columns, PaddedMaps, parts
from semask_d2.modeling.kernels.linear import linear
from semask_d2.modeling.kernels.plain_deformable_conv import TAPS


def gathered_deform_conv2d(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Compute `sampled_deform_conv2d` by gather-and-sum and matrix products, on a CPU without gradients.

    The product has the dtype of `weight` and `bias`, the result channels innermost. The samples, nine times as large as
    `x`, are never all in memory.
    """
    b, _, h, w = x.shape
    samples = Samples(x, offsets, mask)
    rows = weight_rows(weight, samples.groups)
    out = weight.new_empty(b, h * w, len(weight))
    for image in range(b):
        for part in samples.parts():
            sums = samples.maps.sums(image, *samples.arguments(image, part))
            out[image, part] = linear(sums.flatten(1).to(weight.dtype), rows, bias)
    return out.view(b, h, w, -1).permute(0, 3, 1, 2)


class LeanConvolution(torch.autograd.Function):
    """`sampled_deform_conv2d` with gradients on a CPU; the backward pass recomputes the samples, a part at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(x, offsets, weight, mask)
        return gathered_deform_conv2d(x, offsets, weight, bias, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides names
        x, offsets, weight, mask = ctx.saved_tensors
        samples = Samples(x, offsets, mask)
        rows = weight_rows(weight, samples.groups)
        upstream = grad_outputs[0].flatten(2).transpose(1, 2)  # (B, H W, C')
        offsets_grad, mask_grad = torch.empty_like(samples.offsets), torch.empty_like(samples.mask)
        rows_grad, tables_grad = torch.zeros_like(rows), torch.zeros_like(samples.maps.tables)
        for image in range(len(x)):
            for part in samples.parts():
                arguments, grad = samples.arguments(image, part), upstream[image, part]
                rows_grad.addmm_(grad.T, samples.maps.sums(image, *arguments).flatten(1))
                sums_grad = (grad @ rows).unflatten(1, (samples.groups * TAPS, -1))
                x_grad, y_grad, mask_grad[image, part] = samples.maps.gradients(
                    image, *arguments, sums_grad, tables_grad
                )
                offsets_grad[image, part] = torch.stack([y_grad, x_grad], -1)
        (map_grad,) = samples.maps.maps(tables_grad)
        return (
            map_grad.flatten(3).permute(0, 3, 1, 2),
            offsets_grad.flatten(2).transpose(1, 2).view_as(offsets),
            rows_grad.unflatten(1, (samples.groups, TAPS, -1)).transpose(2, 3).reshape_as(weight),
            upstream.sum((0, 1)),
            mask_grad.transpose(1, 2).view_as(mask),
        )


def weight_rows(weight: Tensor, groups: int) -> Tensor:
    """Return the weight (C', C, 3, 3) in the order of the samples of a position: (C', groups x taps x D)."""
    return weight.unflatten(1, (groups, -1)).flatten(3).transpose(2, 3).flatten(1)


class Samples:
    """Samples of a convolution's input: at each position one for each group of channels and each tap."""

    def __init__(self, x: Tensor, offsets: Tensor, mask: Tensor):
        _, _, self.height, self.width = x.shape
        self.groups = groups = mask.shape[1] // TAPS
        self.maps = PaddedMaps([x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))])
        self.columns = self.maps.columns(
            levels=[0] * (groups * TAPS), groups=[group for group in range(groups) for _ in range(TAPS)], bag=1
        )
        self.offsets = offsets.permute(0, 2, 3, 1).unflatten(3, (-1, 2)).flatten(1, 2)  # (B, H W, groups x taps, 2)
        self.mask = mask.permute(0, 2, 3, 1).flatten(1, 2)

    def parts(self) -> Iterator[slice]:
        """Yield slices of the positions whose samples fit in cache."""
        return parts(self.height * self.width, self.groups * TAPS)

    def arguments(self, image: int, part: slice) -> tuple[Tensor, Tensor, Tensor, Columns]:
        """Return x, y and weights of the samples of some positions of an image, and their constants."""
        tap, position = torch.arange(TAPS).repeat(self.groups), torch.arange(part.start, part.stop)[:, None]
        x = position % self.width + (tap % 3 - 1) + self.offsets[image, part, :, 1]
        y = position // self.width + (tap // 3 - 1) + self.offsets[image, part, :, 0]
        return x, y, self.mask[image, part], self.columns
