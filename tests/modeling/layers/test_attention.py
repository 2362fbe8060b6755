"""Multi-head attention against torch's own module, loaded with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2.modeling.layers.attention import MultiheadAttention


def pair(dim: int, heads: int) -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    ours, theirs = MultiheadAttention(dim, heads), nn.MultiheadAttention(dim, heads, batch_first=True)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    return ours.double(), theirs.double()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_equals_torch(heads: int, masked: bool) -> None:
    ours, theirs = pair(16, heads)
    query = torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True)
    key = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    value = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    attend = (torch.rand(3, 5, 7) > 0.6) if masked else None
    blocked = None
    if masked:
        attend[..., 0] |= ~attend.any(-1)
        blocked = (~attend).repeat_interleave(heads, dim=0)
    mine = ours(query, key, value, attend)
    reference = theirs(query, key, value, attn_mask=blocked, need_weights=False)[0]
    torch.testing.assert_close(mine, reference)
    upstream = torch.randn_like(mine)
    mine_gradients = torch.autograd.grad(mine, (query, key, value, *ours.parameters()), upstream)
    their_gradients = torch.autograd.grad(reference, (query, key, value, *theirs.parameters()), upstream)
    for a, b in zip(mine_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_blocked_keys_have_no_influence() -> None:
    ours, _ = pair(8, 2)
    query, tokens = torch.randn(1, 2, 8, dtype=torch.float64), torch.randn(1, 4, 8, dtype=torch.float64)
    attend = torch.tensor([[[True, True, False, False], [True, True, True, True]]])
    before = ours(query, tokens, tokens, attend)
    tokens[:, 2:] += 5
    after = ours(query, tokens, tokens, attend)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_dropout_acts_in_training_only() -> None:
    layer = MultiheadAttention(8, 2, dropout=0.5)
    x = torch.randn(1, 6, 8)
    with torch.no_grad():
        assert not torch.equal(layer(x, x, x), layer(x, x, x))
        layer.eval()
        assert torch.equal(layer(x, x, x), layer(x, x, x))
