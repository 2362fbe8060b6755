"""Frozen batch norm against torch's in evaluation, with the same statistics and affine parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2.modeling.layers.frozen_batch_norm import FrozenBatchNorm


def batch_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(5, eps=1e-3).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.1, 2)
        norm.num_batches_tracked.fill_(7)
    return norm


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_it_is_a_batch_norm_in_evaluation(needs_gradient: bool) -> None:
    norm = batch_norm()
    frozen = FrozenBatchNorm.from_batch_norm(norm).train()  # has no effect
    x = torch.randn(2, 5, 3, 4, requires_grad=needs_gradient)
    actual, expected = frozen(x), norm(x)
    torch.testing.assert_close(actual, expected)
    if needs_gradient:
        (gradient,) = torch.autograd.grad((actual**2).sum(), x)
        torch.testing.assert_close(gradient, torch.autograd.grad((expected**2).sum(), x)[0])
    state = norm.state_dict()
    assert frozen.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in frozen.state_dict().items())
    assert not list(frozen.parameters())


def test_it_keeps_the_dtype_of_its_input() -> None:
    x = torch.randn(1, 5, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    assert FrozenBatchNorm.from_batch_norm(batch_norm())(x).dtype == torch.bfloat16


def test_it_starts_as_the_identity() -> None:
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(FrozenBatchNorm(3)(x), x)
