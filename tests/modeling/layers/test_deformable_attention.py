"""Deformable attention against explicit bilinear interpolation, one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from semask_d2.modeling.kernels.cpu_deformable_attention import LeanAttention, gathered_attention
from semask_d2.modeling.kernels.plain_deformable_attention import sampled_attention
from semask_d2.modeling.layers.deformable_attention import MSDeformAttn, deformable_attention, reference_points

SIZES = [(2, 3), (4, 5), (1, 1)]


def bilinear(level_map: Tensor, x: float, y: float) -> Tensor:
    """Sample (H, W, D) at (x, y) in [0, 1]; the center of pixel (i, j) is ((j + .5) / W, (i + .5) / H)."""
    height, width, dim = level_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    value = level_map.new_zeros(dim)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                value = value + (1 - abs(row - i)) * (1 - abs(column - j)) * level_map[i, j]
    return value


def plain_deformable_attention(value: Tensor, sizes: list, locations: Tensor, weights: Tensor) -> Tensor:
    b, queries, heads, levels, points, _ = locations.shape
    out = value.new_zeros(b, queries, heads, value.shape[-1])
    for i in range(b):
        for q in range(queries):
            for h in range(heads):
                start = 0
                for level, (height, width) in enumerate(sizes):
                    level_map = value[i, start : start + height * width, h].view(height, width, -1)
                    start += height * width
                    for p in range(points):
                        x, y = locations[i, q, h, level, p].tolist()
                        out[i, q, h] += weights[i, q, h, level, p] * bilinear(level_map, x, y)
    assert levels == len(sizes)
    return out.flatten(2)


def inputs(sizes: list = SIZES, queries: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return value, reference, offsets and logits; some samples lie outside of the maps."""
    tokens = sum(h * w for h, w in sizes)
    return [
        torch.randn(2, tokens, 2, 3, dtype=dtype),
        torch.rand(queries, 2, dtype=dtype),
        2 * torch.randn(2, queries, 2, len(sizes), 2, 2, dtype=dtype),
        torch.randn(2, queries, 2, len(sizes), 2, dtype=dtype),
    ]


WAYS = (deformable_attention, sampled_attention, gathered_attention, LeanAttention.apply)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("implementation", WAYS)
def test_equals_the_plain_loop(implementation: Callable[..., Tensor], dtype: torch.dtype) -> None:
    value, reference, offsets, logits = inputs(queries=7, dtype=dtype)
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    extent = torch.tensor([(w, h) for h, w in SIZES])[:, None]
    locations = reference[:, None, None, None] + offsets / extent
    expected = plain_deformable_attention(value, SIZES, locations, weights)
    torch.testing.assert_close(implementation(value, SIZES, reference, offsets, logits), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", [sampled_attention, LeanAttention.apply])
def test_gradients(implementation: Callable[..., Tensor]) -> None:
    sizes = [(2, 3), (3, 2)]
    value, reference, offsets, logits = inputs(sizes, queries=2)
    learned = [x.requires_grad_() for x in (value, offsets, logits)]
    assert torch.autograd.gradcheck(lambda v, o, w: implementation(v, sizes, reference, o, w), learned)


def test_module_equals_the_formula() -> None:
    """Offsets are (x, y) pixels of the sampled level; one softmax over all levels and points of a head."""
    heads, points = 2, 3
    layer = MSDeformAttn(8, len(SIZES), heads, points)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    query = torch.randn(2, 5, 8)
    tokens = torch.randn(2, sum(h * w for h, w in SIZES), 8)
    reference = torch.rand(5, 2)
    with torch.no_grad():
        offsets = layer.sampling_offsets(query).view(2, 5, heads, len(SIZES), points, 2)
        logits = layer.attention_weights(query).view(2, 5, heads, len(SIZES) * points)
        weights = (logits.exp() / logits.exp().sum(-1, keepdim=True)).view(2, 5, heads, len(SIZES), points)
        locations = torch.empty_like(offsets)
        for level, (h, w) in enumerate(SIZES):
            locations[:, :, :, level, :, 0] = reference[:, None, None, 0] + offsets[:, :, :, level, :, 0] / w
            locations[:, :, :, level, :, 1] = reference[:, None, None, 1] + offsets[:, :, :, level, :, 1] / h
        value = layer.value_proj(tokens).view(2, -1, heads, 4)
        expected = layer.output_proj(plain_deformable_attention(value, SIZES, locations, weights))
        torch.testing.assert_close(layer(query, reference, tokens, SIZES), expected)


def test_every_parameter_has_a_gradient() -> None:
    layer = MSDeformAttn(8, 2, 2, 3)
    torch.nn.init.normal_(layer.attention_weights.weight)
    query = torch.randn(1, 6, 8)
    layer(query, torch.rand(6, 2), torch.randn(1, 8, 8), [(2, 2), (2, 2)]).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.norm() > 1e-6, name


@pytest.mark.parametrize("heads", [4, 8])
def test_each_head_initially_looks_in_one_direction(heads: int) -> None:
    layer = MSDeformAttn(32, 3, heads, 4)
    assert not layer.sampling_offsets.weight.any()
    assert not layer.attention_weights.weight.any()
    assert not layer.attention_weights.bias.any()
    offsets = layer.sampling_offsets.bias.view(heads, 3, 4, 2)
    for h in range(heads):
        x, y = math.cos(2 * math.pi * h / heads), math.sin(2 * math.pi * h / heads)
        scale = max(abs(x), abs(y))
        for p in range(4):
            expected = torch.tensor([x / scale * (p + 1), y / scale * (p + 1)])
            torch.testing.assert_close(offsets[h, :, p], expected.expand(3, 2), atol=1e-5, rtol=0)


def test_reference_points_are_the_pixels_centers() -> None:
    expected = [((j + 0.5) / w, (i + 0.5) / h) for h, w in SIZES for i in range(h) for j in range(w)]
    torch.testing.assert_close(reference_points(SIZES, torch.device("cpu")), torch.tensor(expected))
