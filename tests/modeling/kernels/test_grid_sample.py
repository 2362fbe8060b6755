"""Sampling by gathers and products against torch's operator."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from semask_d2.modeling.kernels.grid_sample import gathered_samples, grid_sample, without_grid_sample


def test_gathers_are_torchs_operator() -> None:
    maps = torch.randn(3, 5, 7, 4)
    grid = 3 * torch.rand(3, 11, 6, 2) - 1.5  # also beyond all four edges
    expected = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(gathered_samples(maps, grid), expected)
    torch.testing.assert_close(grid_sample(maps, grid), expected)


def test_far_outside_is_zero() -> None:
    grid = torch.tensor([[[[1e6, 0.0], [-1e6, 0.0], [0.0, 40.0]]]])
    assert not gathered_samples(torch.ones(1, 2, 3, 3), grid).any()


def test_the_operator_is_avoided_only_within_the_context() -> None:
    def operators() -> set[str]:
        with torch.no_grad():
            graph = torch.export.export(Samples(), (torch.randn(1, 2, 3, 3), torch.zeros(1, 2, 2, 2))).graph
        return {str(node.target) for node in graph.nodes}

    class Samples(torch.nn.Module):
        def forward(self, maps: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
            return grid_sample(maps, grid)

    with without_grid_sample():
        assert not any("grid_sampler" in name for name in operators())
    assert any("grid_sampler" in name for name in operators())
