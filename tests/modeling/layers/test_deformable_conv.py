"""Deformable convolution from grid samples against torchvision's operator; feature alignment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from semask_d2.modeling.kernels.cpu_deformable_conv import LeanConvolution
from semask_d2.modeling.kernels.plain_deformable_conv import sampled_deform_conv2d
from semask_d2.modeling.layers.conv import ConvNorm
from semask_d2.modeling.layers.deformable_conv import DeformableConv
from semask_d2.modeling.layers.feature_alignment import FeatureAlignment


def inputs(*, batch: int, channels: int, out: int, groups: int, size: tuple[int, int], spread: float) -> list[Tensor]:
    """Return x, offsets, weight, bias and mask."""
    shapes = [
        (batch, channels, *size),
        (batch, groups * 18, *size),
        (out, channels, 3, 3),
        (out,),
        (batch, groups * 9, *size),
    ]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    tensors[1] *= spread
    tensors[4].sigmoid_()
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 6)])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("spread", [0.3, 4.0])
def test_equals_torchvision(size: tuple[int, int], groups: int, spread: float) -> None:
    arguments = inputs(batch=2, channels=8, out=6, groups=groups, size=size, spread=spread)
    x, offsets, weight, bias, mask = arguments
    actual = sampled_deform_conv2d(x, offsets, weight, bias, mask)
    reference = deform_conv2d(x, offsets, weight, bias, padding=1, mask=mask)
    torch.testing.assert_close(actual, reference)
    upstream = torch.randn_like(actual)
    actual_gradients = torch.autograd.grad(actual, arguments, upstream)
    reference_gradients = torch.autograd.grad(reference, arguments, upstream)
    for name, a, b in zip(
        ("x", "offsets", "weight", "bias", "mask"), actual_gradients, reference_gradients, strict=True
    ):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_without_offsets_it_is_a_convolution() -> None:
    x, offsets, weight, bias, mask = inputs(batch=1, channels=4, out=4, groups=2, size=(4, 5), spread=0)
    actual = sampled_deform_conv2d(x, offsets, weight, bias, torch.ones_like(mask))
    torch.testing.assert_close(actual, F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("implementation", [sampled_deform_conv2d, LeanConvolution.apply])
def test_gradients(implementation: Callable[..., Tensor]) -> None:
    arguments = inputs(batch=2, channels=4, out=2, groups=2, size=(2, 3), spread=0.5)
    assert torch.autograd.gradcheck(implementation, arguments)


def test_module_reads_offsets_then_mask_from_the_guide() -> None:
    layer = DeformableConv(16)
    assert not layer.conv_offset_mask.weight.any()
    assert not layer.conv_offset_mask.bias.any()
    assert not layer.bias.any()
    bound = (16 * 9) ** -0.5
    assert 0.9 * bound < layer.weight.abs().max() <= bound
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.1)
    torch.nn.init.normal_(layer.conv_offset_mask.bias, std=0.5)
    torch.nn.init.normal_(layer.bias)
    x, guide = torch.randn(2, 16, 4, 5), torch.randn(2, 16, 4, 5)
    with torch.no_grad():
        z = F.conv2d(guide, layer.conv_offset_mask.weight, layer.conv_offset_mask.bias, padding=1)
        assert z.shape[1] == 8 * 27
        expected = deform_conv2d(x, z[:, :144], layer.weight, layer.bias, padding=1, mask=1 / (1 + (-z[:, 144:]).exp()))
        torch.testing.assert_close(layer(x, guide), expected, atol=1e-4, rtol=1e-4)


def test_feature_alignment_equals_the_formula() -> None:
    norm = torch.nn.GroupNorm(8, 16)
    layer = FeatureAlignment(16, norm)
    assert layer.offset.norm is norm
    assert layer.offset.bias is None
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    lateral, coarse = torch.randn(2, 16, 4, 5), torch.randn(2, 16, 4, 5)
    with torch.no_grad():
        guide = norm(F.conv2d(torch.cat([lateral, 2 * coarse], 1), layer.offset.weight))
        expected = torch.relu(layer.dcpack_L2(coarse, guide)) + lateral
        torch.testing.assert_close(layer(lateral, coarse), expected)


def test_feature_alignment_stays_in_fp32_under_autocast() -> None:
    layer = FeatureAlignment(16, torch.nn.GroupNorm(8, 16))
    seen = []
    layer.dcpack_L2.register_forward_hook(lambda module, args, out: seen.extend([*args, out]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bf16 = ConvNorm(16, 16, 1)(torch.randn(1, 16, 4, 4))
        assert bf16.dtype == torch.bfloat16
        layer(bf16, bf16)
    assert [x.dtype for x in seen] == [torch.float32] * 3


def test_alignment_with_weights_in_bf16_samples_in_fp32() -> None:
    layer = FeatureAlignment(16, torch.nn.GroupNorm(8, 16))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    lateral, coarse = (torch.randn(1, 16, 4, 6).bfloat16() for _ in range(2))
    with torch.no_grad():
        expected = layer(lateral.float(), coarse.float())
        with torch.autocast("cpu", torch.bfloat16):
            aligned = layer.bfloat16()(lateral, coarse)
    assert aligned.dtype == torch.bfloat16
    torch.testing.assert_close(aligned.float(), expected, rtol=0.05, atol=0.05)
