"""Fused deformable convolution against torchvision's; `test_triton_deformable_conv.py` runs this file.

It uses a separate process, because Triton decides at import whether its kernels are interpreted. Manually,
with a GPU, or without one and with TRITON_INTERPRET=1 in the environment: `python -m pytest` and the path of this file.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import deform_conv2d

from semask_d2.modeling.kernels.triton_deformable_conv import (
    VARIABLE,
    deformable_convolution_backward_op,
    deformable_convolution_op,
    fused_deform_conv2d,
    triton_serves,
)
from semask_d2.modeling.layers.feature_alignment import FeatureAlignment
from semask_d2.utils.errors import UserError
from tests.helpers.triton_state import BROKEN, break_kernel, fresh_triton_state

pytest.importorskip("triton")

from semask_d2.modeling.kernels import deformable_conv_kernels as kernels

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# interpreted, each image and each group takes seconds
EXAMPLES, SIDE, PARTS = (12, 6, 2) if DEVICE == "cuda" else (3, 3, 1)
LOW = torch.bfloat16 if DEVICE == "cpu" else torch.float16  # dtype of autocast


def inputs(
    size: tuple[int, int] = (2, 3),
    *,
    batch: int = 1,
    groups: int = 1,
    dim: int = 3,
    out: int = 4,
    spread: float = 1.5,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[Tensor]:
    """Return x, offsets, weight, bias and mask, with many samples on the border of the map or outside."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    channels = groups * dim
    x = normal(batch, channels, *size).to(dtype)
    offsets = (spread * normal(batch, groups * 18, *size)).to(dtype)
    weight, bias = normal(out, channels, 3, 3).to(dtype), normal(out).to(dtype)
    mask = normal(batch, groups * 9, *size).sigmoid().to(dtype)
    return [tensor.to(DEVICE) for tensor in (x, offsets, weight, bias, mask)]


def reference(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    return deform_conv2d(x, offsets, weight, bias, padding=1, mask=mask)


def results(function: Callable[..., Tensor], arguments: list[Tensor]) -> list[Tensor]:
    """Return the result and the gradient of each argument, for a seeded upstream gradient."""
    learned = [x.detach().requires_grad_() for x in arguments]  # same memory layout
    out = function(*learned)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, learned, gradient)]


def assert_equals_torchvision(arguments: list[Tensor], tolerance: float = 1e-4) -> None:
    """Assert that result and gradients equal torchvision's in float64 and have the dtypes of their tensors."""
    actual = results(fused_deform_conv2d, arguments)
    exact = results(reference, [x.double() for x in arguments])
    for result, plain, like in zip(actual, exact, (arguments[0], *arguments), strict=True):
        assert result.dtype == like.dtype
        assert result.shape == plain.shape
        scale = max(1.0, plain.abs().max().item())
        torch.testing.assert_close(result.double() / scale, plain / scale, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 2, "groups": 2},
        {"size": (1, 1), "dim": 1, "out": 1},
        {"size": (2, 7), "groups": 3, "dim": 2, "spread": 4.0},
        {"size": (8, 3), "dim": 40},  # several blocks of positions, the last one not full
    ],
    ids=str,
)
def test_equals_torchvision(shape: dict) -> None:
    assert_equals_torchvision(inputs(**shape))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, SIDE), st.integers(1, SIDE)),
    batch=st.integers(1, PARTS),
    groups=st.integers(1, PARTS),
    dim=st.integers(1, 5),
    out=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_any_shape(size, batch, groups, dim, out, seed) -> None:
    assert_equals_torchvision(inputs(size, batch=batch, groups=groups, dim=dim, out=out, seed=seed))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    """Operands are rounded to half precision, sums are not."""
    assert_equals_torchvision(inputs(dtype=dtype), tolerance)


def test_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from semask_d2.modeling.kernels import deformable_conv_kernels

    arguments = inputs(batch=2)
    expected = results(fused_deform_conv2d, arguments)
    monkeypatch.setattr(deformable_conv_kernels, "PART_BYTES", 1)
    torch.testing.assert_close(results(fused_deform_conv2d, arguments), expected)
    assert_equals_torchvision(arguments)


def test_arguments_need_not_be_contiguous() -> None:
    """They may have channels innermost, be slices of one map, or an expanded batch."""
    x, offsets, weight, bias, mask = inputs(batch=2)
    joint = torch.cat([offsets, mask], 1).contiguous(memory_format=torch.channels_last)
    parts = joint.split([offsets.shape[1], mask.shape[1]], 1)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_equals_torchvision([last, parts[0], weight, bias, parts[1]])
    assert_equals_torchvision([x[:1].expand(2, -1, -1, -1), offsets, weight, bias, mask])


@pytest.mark.parametrize("far", [7.0, 3e38, float("inf"), float("nan")])
def test_samples_far_outside_are_zero(far: float) -> None:
    x, offsets, weight, bias, mask = inputs()
    signs = torch.where(offsets < 0, -1.0, 1.0)
    out, *gradients = results(fused_deform_conv2d, [x, signs * far, weight, bias, mask])
    torch.testing.assert_close(out, bias[None, :, None, None].expand_as(out))
    assert not any(gradients[i].any() for i in (0, 1, 2, 4))


def test_without_offsets_it_is_a_convolution() -> None:
    x, offsets, weight, bias, mask = inputs()
    result = fused_deform_conv2d(x, torch.zeros_like(offsets), weight, bias, torch.ones_like(mask))
    torch.testing.assert_close(result, F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("changed", ["offsets", "mask", "weight", "groups"])
def test_inconsistent_shapes_are_refused(changed: str) -> None:
    x, offsets, weight, bias, mask = inputs()
    wrong = {
        "offsets": (x, offsets[:, :-1], weight, bias, mask),
        "mask": (x, offsets, weight, bias, mask[:, :, :-1]),
        "weight": (x, offsets, weight[:, :-1], bias, mask),
        "groups": (x, offsets[:, :17], weight, bias, mask[:, :8]),
    }
    with pytest.raises(ValueError, match="do not fit together"):
        fused_deform_conv2d(*wrong[changed])


def operator_arguments(**shape) -> tuple:
    x, offsets, weight, _, mask = inputs((2, 2), **shape)
    tap_weights = weight.unflatten(1, (1, -1)).flatten(3).transpose(2, 3).flatten(1).contiguous()
    tensors = (x.flatten(2).transpose(1, 2), offsets.flatten(2), mask.flatten(2), tap_weights)
    return (*(t.detach().requires_grad_() for t in tensors), *x.shape[2:])


def test_the_operators_pass_torchs_opcheck() -> None:
    checks = ("test_schema", "test_faketensor")
    with_gradients = (*checks, "test_autograd_registration", "test_aot_dispatch_dynamic")
    for dtype, forward_checks in ((torch.float32, with_gradients), (torch.bfloat16, checks)):
        arguments = operator_arguments(dim=2, out=2, dtype=dtype)
        torch.library.opcheck(deformable_convolution_op, arguments, test_utils=forward_checks)
        arguments = tuple(a.detach() if isinstance(a, Tensor) else a for a in arguments)
        gradient = torch.randn_like(deformable_convolution_op(*arguments))
        torch.library.opcheck(deformable_convolution_backward_op, (gradient, *arguments), test_utils=checks)


def test_a_second_derivative_is_refused() -> None:
    x, *others = inputs()
    out = fused_deform_conv2d(x.requires_grad_(), *others)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"no second derivative; set {VARIABLE}=plain"):
        gradient.sum().backward()


def test_half_precision_is_the_autocasts() -> None:
    arguments = inputs()
    expected = results(fused_deform_conv2d, arguments)
    with torch.autocast(DEVICE, LOW):
        actual = results(fused_deform_conv2d, arguments)
    assert [x.dtype for x in actual] == [LOW, *[torch.float32] * 5]
    for result, plain in zip(actual, expected, strict=True):
        assert (result - plain).abs().max() < 0.03 * plain.abs().max()


def test_feature_alignment_takes_it_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1" if DEVICE == "cpu" else "")
    torch.manual_seed(0)
    layer = FeatureAlignment(8, torch.nn.GroupNorm(2, 8)).to(DEVICE)
    layer.requires_grad_(False)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    seen: list[Tensor] = []
    layer.dcpack_L2.register_forward_hook(lambda module, args, out: seen.append(out))
    lateral, coarse = torch.randn(2, 1, 8, 4, 5, device=DEVICE)
    expected = layer(lateral, coarse)
    with torch.autocast(DEVICE, LOW):
        actual = layer(lateral, coarse)
    assert [out.dtype for out in seen] == [torch.float32, LOW]
    assert actual.dtype == torch.float32  # dtype of the norm, as for lateral
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


def test_compiled_as_one_graph() -> None:
    compiled = torch.compile(fused_deform_conv2d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(results(compiled, inputs()), results(fused_deform_conv2d, inputs()))


def test_it_supports_half_precision_and_fp32_if_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, device=DEVICE)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert [triton_serves(x.to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float16)] == [
        False,
        True,
        True,
    ]
    with torch.autocast(DEVICE, LOW):
        assert triton_serves(x)
    monkeypatch.setenv(VARIABLE, "plain")
    assert not triton_serves(x.bfloat16())
    monkeypatch.setenv(VARIABLE, "triton")
    assert triton_serves(x)
    with pytest.raises(UserError, match=f"{VARIABLE}=triton, but torch.float64 is not one of"):
        triton_serves(x.double())


@pytest.mark.parametrize(("part", "break_it", "reason"), BROKEN)
def test_a_broken_kernel_falls_back_with_one_warning(
    part: str, break_it: Callable, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_kernel(monkeypatch, kernels, part, break_it)
    monkeypatch.delenv(VARIABLE, raising=False)
    with fresh_triton_state():
        with pytest.warns(UserWarning, match=f"deformable convolution fails on .*{reason}") as caught:
            assert [triton_serves(torch.zeros(1, dtype=LOW, device=DEVICE)) for _ in range(2)] == [False, False]
        assert len([x for x in caught if "uses standard operators" in str(x.message)]) == 1
        monkeypatch.setenv(VARIABLE, "triton")
        with pytest.raises(UserError, match=f"{VARIABLE}=triton, but Triton's deformable convolution fails on "):
            triton_serves(torch.zeros(1, device=DEVICE))
