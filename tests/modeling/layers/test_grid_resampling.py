"""Resampling of embeddings as matrix products equals torch's antialiased bicubic interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from semask_d2.modeling.layers.grid_resampling import resample_grid, weights_of_axis

SIDES = st.integers(1, 40)


@settings(deadline=None, derandomize=True)
@given(height=SIDES, width=SIDES, new_height=SIDES, new_width=SIDES)
def test_any_size_to_any_other(height: int, width: int, new_height: int, new_width: int) -> None:
    grid = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(height + 41 * width))
    maps = grid.permute(2, 0, 1)[None].contiguous()  # torch misreads maps of width 1 in other layouts
    expected = F.interpolate(maps, (new_height, new_width), mode="bicubic", antialias=True)
    actual = resample_grid(grid, (new_height, new_width))
    torch.testing.assert_close(actual, expected[0].permute(1, 2, 0), rtol=1e-4, atol=1e-4)


def test_its_own_size_changes_nothing() -> None:
    grid = torch.randn(14, 37, 8)
    assert torch.equal(resample_grid(grid, (14, 37)), grid)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_is_computed_in_fp32(dtype: torch.dtype) -> None:
    grid = torch.randn(6, 5, 4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        actual = resample_grid(grid, (9, 4))
    assert actual.dtype == dtype
    assert torch.equal(actual, resample_grid(grid.float(), (9, 4)).to(dtype))


def test_gradients_reach_every_cell() -> None:
    grid = torch.randn(8, 8, 2, dtype=torch.float64, requires_grad=True)
    resample_grid(grid, (3, 5)).square().sum().backward()
    assert (grid.grad != 0).all()
    assert torch.allclose(weights_of_axis(8, 3, grid).sum(1), torch.ones(3))
