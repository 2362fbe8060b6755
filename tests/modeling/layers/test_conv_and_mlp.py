"""Convolution with norm and activation, and the small perceptron."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semask_d2.modeling.layers.conv import ConvNorm, get_norm
from semask_d2.modeling.layers.mlp import MLP


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("norm", ["", "GN", "BN"])
@pytest.mark.parametrize("activation", [None, F.relu])
def test_conv_norm_equals_its_parts(kernel: int, norm: str, activation) -> None:
    layer = ConvNorm(5, 64, kernel, norm=norm, activation=activation)
    x = torch.randn(2, 5, 6, 7)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=kernel // 2)
    if norm == "GN":
        expected = F.group_norm(expected, 32, layer.norm.weight, layer.norm.bias, 1e-5)
    elif norm == "BN":
        mean, variance = expected.mean((0, 2, 3), keepdim=True), expected.var((0, 2, 3), correction=0, keepdim=True)
        expected = (expected - mean) / (variance + 1e-5).sqrt()
    if activation:
        expected = expected.clamp(min=0)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    names = {"weight", "bias"} if not norm else {"weight", "norm.weight", "norm.bias"}
    assert {name for name, _ in layer.named_parameters()} == names


def test_conv_norm_accepts_an_existing_norm() -> None:
    norm = get_norm("GN", 32)
    layer = ConvNorm(4, 32, 1, norm=norm)
    assert layer.norm is norm
    assert layer.bias is None
    assert get_norm("", 32) is None


def test_conv_norm_starts_kaiming_uniform_with_zero_bias() -> None:
    layer = ConvNorm(32, 64, 3)
    assert not layer.bias.any()
    bound = (3 / (32 * 9)) ** 0.5  # a = 1: gain 1
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert 0.98 < layer.weight.std() / (bound / 3**0.5) < 1.02


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_mlp_equals_its_parts(layers: int) -> None:
    mlp = MLP(4, 8, 3, layers)
    linears = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == layers
    x = expected = torch.randn(2, 5, 4)
    for i, linear in enumerate(linears):
        expected = expected @ linear.weight.T + linear.bias
        if i + 1 < layers:
            expected = expected.clamp(min=0)
    torch.testing.assert_close(mlp(x), expected)
