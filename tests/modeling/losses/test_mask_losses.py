"""The parts of the point loss that are computed otherwise than they are written."""

from __future__ import annotations

import pytest
import torch

from semask_d2.modeling.losses.mask_losses import log_sum


@pytest.mark.parametrize("points", [0, 1, 2, 63, 64, 96, 12544])
def test_log_sum_is_the_sum_of_logarithms(points: int) -> None:
    torch.manual_seed(0)
    values = torch.rand(3, points) / 2 + 0.5
    values[0] = 0.5  # the smallest there is: its products must not vanish
    torch.testing.assert_close(log_sum(values).double(), values.double().log().sum(-1), rtol=1e-5, atol=1e-6)
