"""Stochastic depth: it drops full samples, the right fraction of them, and keeps the expectation."""

from __future__ import annotations

import pytest
import torch

from semask_d2.modeling.layers.drop_path import DropPath


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_drops_whole_samples_and_scales_the_others(p: float) -> None:
    x = torch.rand(2000, 3, 2) + 1
    out = DropPath(p)(x)
    kept = out.flatten(1).any(1)
    torch.testing.assert_close(out[kept], x[kept] / (1 - p))
    assert not out[~kept].any()
    assert (~kept).float().mean().item() == pytest.approx(p, abs=0.05)


def test_does_nothing_in_evaluation_or_at_zero() -> None:
    x = torch.rand(4, 3)
    assert torch.equal(DropPath(0.0)(x), x)
    assert torch.equal(DropPath(0.5).eval()(x), x)


def test_gradient_is_the_mask() -> None:
    x = torch.rand(50, 2, requires_grad=True)
    out = DropPath(0.5)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out != 0) * 2.0)
