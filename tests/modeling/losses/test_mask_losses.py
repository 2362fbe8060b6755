"""Optimized functions of the point loss against their formulas."""

from __future__ import annotations

import pytest
import torch

from semask_d2.modeling.losses.mask_losses import indices_of_least, log_sum


@pytest.mark.parametrize("points", [0, 1, 2, 63, 64, 96, 12544])
def test_log_sum_is_the_sum_of_logarithms(points: int) -> None:
    torch.manual_seed(0)
    values = torch.rand(3, points) / 2 + 0.5
    values[0] = 0.5  # the smallest valid value; products must not underflow
    torch.testing.assert_close(log_sum(values).double(), values.double().log().sum(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", [0, 1, 5, 12])
def test_indices_of_least_are_those_of_a_sorted_row(number: int) -> None:
    values = torch.stack([torch.randperm(12) for _ in range(6)]).view(2, 3, 12).float()
    actual = values.gather(-1, indices_of_least(values, number))
    assert torch.equal(actual.sort(-1).values, torch.arange(number).float().expand(2, 3, -1))
