"""Gather-and-sum on a CPU against formulas in standard operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.modeling.kernels import bilinear_gather, cpu_deformable_attention, cpu_deformable_conv
from semask_d2.modeling.kernels.cpu_deformable_attention import LeanAttention, gathered_attention
from semask_d2.modeling.kernels.cpu_deformable_conv import LeanConvolution, gathered_deform_conv2d
from semask_d2.modeling.kernels.plain_deformable_attention import sampled_attention
from semask_d2.modeling.kernels.plain_deformable_conv import sampled_deform_conv2d
from semask_d2.modeling.layers import deformable_attention, deformable_conv

sides = st.tuples(st.integers(1, 7), st.integers(1, 7))
attention_shapes = given(
    sizes=st.lists(sides, min_size=1, max_size=3),
    batch=st.integers(1, 2),
    queries=st.integers(1, 6),
    heads=st.integers(1, 3),
    points=st.integers(1, 4),
    spread=st.sampled_from([0.3, 1.0, 50.0]),
)


@settings(deadline=None, derandomize=True, max_examples=60)
@attention_shapes
def test_attention_equals_the_standard_operators(sizes, batch, queries, heads, points, spread) -> None:
    torch.manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in sizes), heads, 5)
    reference = torch.rand(queries, 2)
    offsets = 8 * spread * (torch.rand(batch, queries, heads, len(sizes), points, 2) - 0.5)
    reference[torch.rand(reference.shape) < 0.1] = 1.0  # exactly on borders
    offsets[torch.rand(offsets.shape) < 0.3] = 0.0
    logits = torch.randn(batch, queries, heads, len(sizes), points)
    arguments = (value, sizes, reference, offsets, logits)
    torch.testing.assert_close(
        gathered_attention(*arguments), sampled_attention(*arguments), atol=2e-5 * max(1, spread), rtol=1e-4
    )


def assert_same_gradients(
    fast: Callable[..., Tensor], plain: Callable[..., Tensor], arguments: Sequence[Tensor]
) -> None:
    """Assert that the gradients of all arguments are equal, for a random upstream gradient."""
    learned = [x.requires_grad_() for x in arguments]
    out, expected = fast(*arguments), plain(*arguments)
    upstream = torch.randn_like(out)
    fast_gradients = torch.autograd.grad(out, learned, upstream)
    gradients = torch.autograd.grad(expected, learned, upstream)
    for actual, exact in zip(fast_gradients, gradients, strict=True):
        torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)


@settings(deadline=None, derandomize=True, max_examples=40)
@attention_shapes
def test_gradients_of_attention_equal_the_standard_operators(sizes, batch, queries, heads, points, spread) -> None:
    torch.manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in sizes), heads, 5, dtype=torch.float64)
    reference = torch.rand(queries, 2, dtype=torch.float64)
    offsets = 8 * spread * (torch.rand(batch, queries, heads, len(sizes), points, 2, dtype=torch.float64) - 0.5)
    logits = torch.randn(batch, queries, heads, len(sizes), points, dtype=torch.float64)

    def way(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda value, offsets, logits: function(value, sizes, reference, offsets, logits)

    assert_same_gradients(way(LeanAttention.apply), way(sampled_attention), (value, offsets, logits))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(size=sides, batch=st.integers(1, 2), groups=st.sampled_from([1, 2, 4]), spread=st.sampled_from([0.5, 9.0]))
def test_gradients_of_a_convolution_equal_the_standard_operators(size, batch, groups, spread) -> None:
    torch.manual_seed(0)
    shapes = ((batch, 8, *size), (batch, groups * 18, *size), (6, 8, 3, 3), (6,), (batch, groups * 9, *size))
    x, offsets, weight, bias, mask = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    assert_same_gradients(LeanConvolution.apply, sampled_deform_conv2d, (x, spread * offsets, weight, bias, mask))


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(3, 4), (2, 2)]
    arguments = (
        torch.randn(2, 16, 2, 4),
        sizes,
        torch.rand(9, 2),
        torch.randn(2, 9, 2, 2, 3, 2),
        torch.randn(2, 9, 2, 2, 3),
    )
    at_once = gathered_attention(*arguments)
    learned = [arguments[i].requires_grad_() for i in (0, 3, 4)]
    gradients = torch.autograd.grad(LeanAttention.apply(*arguments).square().sum(), learned)
    monkeypatch.setattr(bilinear_gather, "PART", 40)  # three queries
    assert torch.equal(LeanAttention.apply(*arguments), at_once)
    torch.testing.assert_close(torch.autograd.grad(LeanAttention.apply(*arguments).square().sum(), learned), gradients)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(size=sides, batch=st.integers(1, 2), groups=st.sampled_from([1, 2, 4]), spread=st.sampled_from([0.0, 0.5, 9.0]))
def test_convolution_equals_the_standard_operators(size, batch, groups, spread) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(batch, 8, *size), torch.randn(6, 8, 3, 3), torch.randn(6)
    offsets, mask = spread * torch.randn(batch, groups * 18, *size), torch.rand(batch, groups * 9, *size)
    arguments = (x, offsets, weight, bias, mask)
    actual = gathered_deform_conv2d(*arguments)
    assert actual.permute(0, 2, 3, 1).is_contiguous()
    torch.testing.assert_close(actual, sampled_deform_conv2d(*arguments), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_nan_and_infinite_positions_are_outside(value: float) -> None:
    offsets = torch.full((1, 1, 1, 1, 1, 2), value)
    maps, logits = torch.ones(1, 6, 1, 2).requires_grad_(), torch.ones(1, 1, 1, 1, 1).requires_grad_()
    out = LeanAttention.apply(maps, [(2, 3)], torch.rand(1, 2), offsets.requires_grad_(), logits)
    assert not out.any()
    assert not any(x.any() for x in torch.autograd.grad(out.sum(), (maps, offsets, logits)))


def test_it_supports_fp32_on_a_cpu_outside_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2)
    assert bilinear_gather.is_supported(x)
    assert not bilinear_gather.is_supported(x.double())
    assert not bilinear_gather.is_supported(x, x.to("meta"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not bilinear_gather.is_supported(x)


def test_the_modules_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real_attention, real_convolution = gathered_attention, gathered_deform_conv2d
    for module in (deformable_attention, cpu_deformable_attention):  # inference and training
        monkeypatch.setattr(module, "gathered_attention", lambda *a: taken.append("attention") or real_attention(*a))
    for module in (deformable_conv, cpu_deformable_conv):
        monkeypatch.setattr(
            module, "gathered_deform_conv2d", lambda *a: taken.append("convolution") or real_convolution(*a)
        )
    attention = deformable_attention.MSDeformAttn(8, 1, 2, 2)
    convolution = deformable_conv.DeformableConv(8)
    tokens, maps = torch.randn(1, 4, 8), torch.randn(1, 8, 2, 2)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            attended = attention(tokens, torch.rand(4, 2), tokens, [(2, 2)])
            convolved = convolution(maps, maps)
        assert attended.requires_grad == convolved.requires_grad == grad
    assert taken == ["attention", "convolution"] * 2
