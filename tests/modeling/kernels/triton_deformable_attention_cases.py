"""Fused deformable attention against the plain formula; `test_triton_deformable_attention.py` runs this file.

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
from torch import Tensor, nn

from semask_d2.modeling.kernels.triton_deformable_attention import (
    VARIABLE,
    deformable_attention_backward_op,
    deformable_attention_op,
    fused_deformable_attention,
    triton_serves,
)
from semask_d2.modeling.layers.deformable_attention import deformable_attention
from semask_d2.utils.errors import UserError
from tests.helpers.triton_state import BROKEN, break_kernel, fresh_triton_state

pytest.importorskip("triton")

from semask_d2.modeling.kernels import deformable_attention_kernels as kernels

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
EXAMPLES, MOST = (12, 9) if DEVICE == "cuda" else (3, 2)  # interpreted, each program of a kernel takes long
SIZES = [(2, 3), (5, 4), (1, 1)] if DEVICE == "cuda" else [(5, 4), (1, 1)]
SMALL = {"batch": 1, "queries": 2, "heads": 1, "sizes": [(2, 3), (1, 1)]}  # where shapes do not matter
Arguments = tuple[Tensor, list, Tensor, Tensor, Tensor]


def plain_attention(value: Tensor, sizes: list, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """Compute the formula with `grid_sample`, one level at a time."""
    batch, queries, heads, levels, points, _ = offsets.shape
    weights = logits.flatten(3).softmax(-1).view(batch, queries, heads, levels, points)
    out, start = 0, 0
    for level, (height, width) in enumerate(sizes):
        level_map = (
            value[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, value.shape[3], height, width)
        )
        start += height * width
        extent = torch.tensor([width, height], dtype=offsets.dtype, device=offsets.device)
        locations = reference[:, None, None] + offsets[:, :, :, level] / extent  # (B, Q, heads, P, 2)
        grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
        samples = F.grid_sample(level_map, grid, align_corners=False)  # (B heads, D, Q, P)
        out = out + (samples * weights[:, :, :, level].transpose(1, 2).reshape(-1, 1, queries, points)).sum(-1)
    return out.view(batch, heads, -1, queries).permute(0, 3, 1, 2).flatten(2)


def inputs(
    sizes: list = SIZES,
    *,
    batch: int = 2,
    queries: int = 5,
    heads: int = 2,
    dim: int = 3,
    points: int = 2,
    value_dtype: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Arguments:
    """Return random arguments with many samples on the border of a map or outside."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    tokens = sum(h * w for h, w in sizes)
    value = normal(batch, tokens, heads, dim).to(value_dtype)
    reference = torch.rand(queries, 2, generator=generator)
    offsets = (2 * normal(batch, queries, heads, len(sizes), points, 2)).to(dtype)
    logits = (2 * normal(batch, queries, heads, len(sizes), points)).to(dtype)
    value, reference, offsets, logits = (x.to(DEVICE) for x in (value, reference, offsets, logits))
    return value, sizes, reference, offsets, logits


def results(function: Callable, arguments: Arguments) -> list[Tensor]:
    """Return the result and the gradients of value, offsets and logits, for a seeded upstream gradient."""
    value, sizes, reference, offsets, logits = arguments
    learned = [x.detach().requires_grad_() for x in (value, offsets, logits)]  # same memory layout
    out = function(learned[0], sizes, reference, *learned[1:])
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, learned, gradient)]


def assert_equals_plain(arguments: Arguments, tolerance: float = 1e-5) -> None:
    """Assert that result and gradients equal the formula in float64 and have the dtypes of their tensors."""
    value, sizes, reference, offsets, logits = arguments
    actual = results(fused_deformable_attention, arguments)
    exact = (value.double(), sizes, reference.double(), offsets.double(), logits.double())
    for result, plain, like in zip(
        actual, results(plain_attention, exact), (value, value, offsets, logits), strict=True
    ):
        assert result.dtype == like.dtype
        torch.testing.assert_close(result.double(), plain, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"sizes": [(7, 5)], "heads": 1, "points": 1},
        {"sizes": [(4, 4), (2, 2), (1, 1), (3, 1)], "points": 4, "dim": 8, "queries": 3},
        {"sizes": [(3, 5)], "dim": 1, "batch": 1},
        {"dim": 150, "queries": 9, "batch": 1, "heads": 1},  # several blocks of queries, the last one not full
    ],
    ids=str,
)
def test_equals_the_formula(shape: dict) -> None:
    assert_equals_plain(inputs(**shape))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=min(MOST, 4)),
    batch=st.integers(1, 2),
    queries=st.integers(1, MOST),
    heads=st.integers(1, min(MOST, 3)),
    dim=st.integers(1, 70),
    points=st.integers(1, min(MOST, 3)),
    seed=st.integers(0, 99),
)
def test_equals_the_formula_in_any_shape(sizes, batch, queries, heads, dim, points, seed) -> None:
    shape = {"batch": batch, "queries": queries, "heads": heads, "dim": dim, "points": points, "seed": seed}
    assert_equals_plain(inputs(sizes, **shape))


@pytest.mark.parametrize("value_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_affects_tensors_only(value_dtype: torch.dtype, dtype: torch.dtype) -> None:
    """Given the same rounded arguments, result and gradients are exact up to a rounding or two."""
    coarsest = max(torch.finfo(value_dtype).eps, torch.finfo(dtype).eps)
    shape = {"batch": 1, "queries": 3, "heads": 2}
    assert_equals_plain(inputs(value_dtype=value_dtype, dtype=dtype, **shape), tolerance=2 * coarsest)


def test_autocast_casts_nothing() -> None:
    arguments = inputs(value_dtype=torch.bfloat16, **SMALL)
    expected = results(fused_deformable_attention, arguments)
    with torch.autocast(DEVICE, torch.float16 if DEVICE == "cuda" else torch.bfloat16):
        actual = results(fused_deformable_attention, arguments)
    assert [x.dtype for x in actual] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(actual, expected)


def at_positions(positions: list[float], size: int = 4) -> Arguments:
    """Return arguments that sample a `size` x `size` map at every pair of these pixel positions, exactly."""
    value, sizes, _, _, _ = inputs([(size, size)], batch=1, heads=1)
    places = torch.cartesian_prod(torch.tensor(positions), torch.tensor(positions)).to(DEVICE)
    offsets = (places - (0.5 * size - 0.5)).view(1, -1, 1, 1, 1, 2)
    reference = torch.full((len(places), 2), 0.5, device=DEVICE)
    return value, sizes, reference, offsets, torch.zeros_like(offsets[..., 0])


def test_samples_on_pixels_and_borders() -> None:
    """At a pixel center the gradient of a position is the right-hand one, as in `grid_sample`."""
    assert_equals_plain(at_positions([-2, -1.5, -1, -0.75, -0.5, 0, 0.5, 1, 2, 3, 3.25, 3.5, 4, 5]))


@pytest.mark.parametrize("far", [7.0, 1e6, 3e38, float("inf"), float("nan")])
def test_samples_far_outside_are_zero(far: float) -> None:
    for sign in (-1, 1):
        out, *gradients = results(fused_deformable_attention, at_positions([sign * far]))
        assert not out.any()
        assert not any(x.any() for x in gradients)


def test_samples_outside_have_softmax_weights_too() -> None:
    value, sizes, reference, offsets, logits = inputs(batch=1)
    offsets[:, :, :, 1] = 1e6
    assert_equals_plain((value, sizes, reference, offsets, logits))


def test_large_logits() -> None:
    value, sizes, reference, offsets, logits = inputs(**SMALL)
    actual = results(fused_deformable_attention, (value, sizes, reference, offsets, logits * 1e4))
    assert all(x.isfinite().all() for x in actual)


def test_arguments_need_not_be_contiguous() -> None:
    """They may be slices of one projection, an expanded batch, or permuted tensors."""
    value, sizes, reference, offsets, logits = inputs([(2, 3), (2, 1)], batch=2, queries=2, heads=1)
    expected = fused_deformable_attention(value, sizes, reference, offsets, logits)
    joint = torch.cat([offsets.flatten(2), logits.flatten(2)], 2)
    parts = joint.split([offsets[0, 0].numel(), logits[0, 0].numel()], 2)
    shaped = [part.view(like.shape) for part, like in zip(parts, (offsets, logits), strict=True)]
    channels_first = value.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    points_first = [x.transpose(1, 4).contiguous().transpose(1, 4) for x in (offsets, logits)]
    wide = torch.cat([value, value], 2)[:, :, value.shape[2] :]
    flipped = reference.T.contiguous().T
    for arguments in [
        (value, sizes, reference, *shaped),
        (channels_first, sizes, flipped, *points_first),
        (wide, sizes, reference, offsets, logits),
    ]:
        assert not all(x.is_contiguous() for x in arguments if isinstance(x, Tensor))
        torch.testing.assert_close(fused_deformable_attention(*arguments), expected, rtol=0, atol=0)
        assert_equals_plain(arguments)
    expanded = (value[:1].expand(2, -1, -1, -1), sizes, reference, offsets, logits)
    assert_equals_plain(expanded)


def test_nothing_is_read_outside_of_the_tensors() -> None:
    """Memory around a row of 3 channels, in blocks of 4, is NaN here."""
    value, *others = inputs(**SMALL)
    expected = results(fused_deformable_attention, (value, *others))
    within = F.pad(value, (0, 0, 1, 1), value=torch.nan)[:, :, 1:-1]
    torch.testing.assert_close(results(fused_deformable_attention, (within, *others)), expected)


def test_no_queries() -> None:
    out, *gradients = results(fused_deformable_attention, inputs(queries=0))
    assert out.shape == (2, 0, 6)
    assert not gradients[0].any()


def test_only_tensors_that_require_gradients_get_them() -> None:
    value, sizes, reference, offsets, logits = inputs(**SMALL)
    reference.requires_grad_()
    offsets.requires_grad_()
    fused_deformable_attention(value, sizes, reference, offsets, logits).sum().backward()
    assert offsets.grad is not None
    assert reference.grad is None


@pytest.mark.parametrize("changed", ["sizes", "levels", "heads", "queries", "offsets"])
def test_inconsistent_shapes_are_refused(changed: str) -> None:
    value, sizes, reference, offsets, logits = inputs()
    wrong = {
        "sizes": (value, [*sizes[:-1], (7, 7)], reference, offsets, logits),
        "levels": (value[:, :-1], sizes[:-1], reference, offsets, logits),
        "heads": (value[:, :, :1], sizes, reference, offsets, logits),
        "queries": (value, sizes, reference[:-1], offsets, logits),
        "offsets": (value, sizes, reference, offsets[..., :1], logits),
    }
    with pytest.raises(ValueError, match="are not those of" if changed == "sizes" else "do not fit"):
        fused_deformable_attention(*wrong[changed])


def flat_arguments(requires_grad: bool = False, **shape: object) -> tuple:
    """Return arguments of the operator, with sizes as one list."""
    value, sizes, reference, offsets, logits = inputs(**shape)
    value, offsets, logits = (x.requires_grad_(requires_grad) for x in (value, offsets, logits))
    return value, [x for size in sizes for x in size], reference, offsets, logits


def test_the_operators_pass_torchs_opcheck() -> None:
    for shape in (SMALL, {**SMALL, "value_dtype": torch.bfloat16}):
        torch.library.opcheck(deformable_attention_op, flat_arguments(requires_grad=True, **shape))
        arguments = flat_arguments(**shape)
        out = deformable_attention_op(*arguments)
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(
            deformable_attention_backward_op, (torch.randn_like(out), *arguments, out), test_utils=checks
        )


def test_a_second_derivative_is_refused() -> None:
    value, sizes, reference, offsets, logits = inputs(**SMALL)
    out = fused_deformable_attention(value.requires_grad_(), sizes, reference, offsets, logits)
    (gradient,) = torch.autograd.grad(out.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"no second derivative; set {VARIABLE}=plain"):
        gradient.sum().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_as_one_graph(backend: str) -> None:
    def scaled(value: Tensor, sizes: list, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        assert triton_serves(value)
        return 2 * fused_deformable_attention(value, sizes, reference, 0.5 * offsets, logits)

    compiled = torch.compile(scaled, backend=backend, fullgraph=True)
    for shape in (SMALL, {**SMALL, "queries": 3, "sizes": [(3, 3), (1, 2)]}):
        torch.testing.assert_close(results(compiled, inputs(**shape)), results(scaled, inputs(**shape)))


class Attention(nn.Module):
    """Module around the operator, for export."""

    def forward(self, value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        return fused_deformable_attention(value, SIZES, reference, offsets, logits)


def test_exported() -> None:
    value, _, reference, offsets, logits = inputs()
    program = torch.export.export(Attention(), (value, reference, offsets, logits))
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.semask_d2.deformable_attention.default in targets
    other, _, reference, offsets, logits = inputs(seed=5)
    expected = Attention()(other, reference, offsets, logits)
    torch.testing.assert_close(program.module()(other, reference, offsets, logits), expected)


@pytest.mark.filterwarnings("ignore:torch.float64 is not one of:UserWarning")  # once per process
def test_it_supports_the_dtypes_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.zeros(1, device=DEVICE)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert all(triton_serves(value.to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float16))
    assert not triton_serves(value.double())
    monkeypatch.setenv(VARIABLE, "plain")
    assert not triton_serves(value)
    monkeypatch.setenv(VARIABLE, "triton")
    assert triton_serves(value)
    with pytest.raises(UserError, match=f"{VARIABLE}=triton, but torch.float64 is not one of"):
        triton_serves(value.double())


@pytest.mark.parametrize(("part", "break_it", "reason"), BROKEN)
def test_a_broken_kernel_falls_back_with_one_warning(
    part: str, break_it: Callable, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_kernel(monkeypatch, kernels, part, break_it)
    monkeypatch.delenv(VARIABLE, raising=False)
    with fresh_triton_state():
        arguments = inputs(**SMALL)
        with pytest.warns(UserWarning, match=f"deformable attention fails on .*{reason}") as caught:
            actual, _ = (results(deformable_attention, arguments) for _ in range(2))
        assert len([x for x in caught if "uses standard operators" in str(x.message)]) == 1
        monkeypatch.setenv(VARIABLE, "triton")
        with pytest.raises(UserError, match=f"{VARIABLE}=triton, but Triton's deformable attention fails on "):
            triton_serves(torch.zeros(1, device=DEVICE))
    for result, plain in zip(actual, results(plain_attention, arguments), strict=True):
        torch.testing.assert_close(result, plain, atol=1e-5, rtol=1e-5)
