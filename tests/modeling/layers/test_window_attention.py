"""Window attention against the plain formula, token by token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.modeling.layers.window_attention import (
    BLOCKED,
    WindowAttention,
    relative_position_index,
    shifted_window_mask,
)


def make_attention(dim: int, num_heads: int, **settings: object) -> WindowAttention:
    """Build Swin's layer without dropout, except for `settings`."""
    plain = {"qkv_bias": True, "qk_scale": None, "attn_drop": 0.0, "proj_drop": 0.0}
    return WindowAttention(dim, num_heads, **(plain | settings))


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_relative_position_index(window: int) -> None:
    index = relative_position_index(window)
    assert index.shape == (window**2, window**2)
    for query in range(window**2):
        for key in range(window**2):
            dy, dx = query // window - key // window, query % window - key % window
            assert index[query, key] == (dy + window - 1) * (2 * window - 1) + dx + window - 1


def plain_window_attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """Compute window attention in loops: pad, roll, softmax within each region of each window, roll back."""
    b, h, w, c = x.shape
    window, shift, heads = layer.window, layer.shift, layer.num_heads
    dim = c // heads
    scale = dim**-0.5 if layer.scale is None else layer.scale
    ph, pw = math.ceil(h / window) * window, math.ceil(w / window) * window
    padded = x.new_zeros(b, ph, pw, c)
    padded[:, :h, :w] = x
    q, k, v = layer.qkv(padded).unflatten(-1, (3, heads, dim)).unbind(3)
    out = torch.zeros_like(padded)

    def source(position: int, size: int) -> tuple[int, bool]:
        """Return the original position on the rolled map, and whether the roll wrapped it around the edge."""
        return (position + shift) % size, position + shift >= size

    for image in range(b):
        for top in range(0, ph, window):
            for left in range(0, pw, window):
                cells = [(top + i, left + j) for i in range(window) for j in range(window)]
                tokens = [(source(y, ph), source(x_, pw)) for y, x_ in cells]
                for (y, wrapped_y), (x_, wrapped_x) in tokens:
                    logits = []
                    for (ky, key_wrapped_y), (kx, key_wrapped_x) in tokens:
                        # distance within the window, on the rolled map
                        dy, dx = (y - shift) % ph - (ky - shift) % ph, (x_ - shift) % pw - (kx - shift) % pw
                        row = (dy + window - 1) * (2 * window - 1) + dx + window - 1
                        logit = scale * (q[image, y, x_] * k[image, ky, kx]).sum(-1)
                        logit = logit + layer.relative_position_bias_table[row]
                        if (wrapped_y, wrapped_x) != (key_wrapped_y, key_wrapped_x):
                            logit = logit - 100
                        logits.append(logit)
                    weights = torch.stack(logits).softmax(0)
                    values = torch.stack([v[image, ky, kx] for (ky, _), (kx, _) in tokens])
                    out[image, y, x_] = (weights[:, :, None] * values).sum(0).flatten()
    return layer.proj(out)[:, :h, :w]


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (3, 2), (4, 9)])
def test_equals_the_plain_formula(size: tuple[int, int], shift: int) -> None:
    layer = make_attention(8, 2, window=4, shift=shift).double()
    torch.nn.init.normal_(layer.relative_position_bias_table)
    torch.nn.init.normal_(layer.qkv.bias)  # so that padded tokens are not zero as keys and values
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    padded = [math.ceil(side / 4) * 4 for side in size]
    mask = shifted_window_mask(*padded, 4, shift, x.device) if shift else None
    with torch.no_grad():
        torch.testing.assert_close(layer(x, mask), plain_window_attention(layer, x))


def test_qk_scale_replaces_the_default_and_the_bias_can_be_left_out() -> None:
    x = torch.randn(1, 4, 4, 8, dtype=torch.float64)
    layer = make_attention(8, 2, window=4, qkv_bias=False, qk_scale=3.0).double()
    assert layer.qkv.bias is None
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain_window_attention(layer, x))
        layer.scale = None
        torch.testing.assert_close(layer(x), plain_window_attention(layer, x))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), window=st.integers(2, 5), shift=st.integers(1, 4))
def test_shift_mask_is_symmetric_and_zero_on_the_diagonal(rows: int, columns: int, window: int, shift: int) -> None:
    shift = min(shift, window - 1)
    mask = shifted_window_mask(rows * window, columns * window, window, shift, torch.device("cpu"))
    assert mask.shape == (rows * columns, window**2, window**2)
    assert set(mask.unique().tolist()) <= {0.0, BLOCKED}
    assert torch.equal(mask, mask.transpose(1, 2))
    assert not mask.diagonal(dim1=1, dim2=2).any()
    inner = mask.view(rows, columns, window**2, window**2)[:-1, :-1]
    assert not inner.any()  # only windows on the seam mix sides
    assert (mask[-1] == BLOCKED).any()


def test_gradients() -> None:
    layer = make_attention(4, 2, window=2, shift=1).double()
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = shifted_window_mask(4, 4, 2, 1, x.device)
    assert torch.autograd.gradcheck(lambda x, table: _with_table(layer, table, x, mask), (x, _table(layer)))


def _table(layer: WindowAttention) -> Tensor:
    return torch.randn_like(layer.relative_position_bias_table).requires_grad_()


def _with_table(layer: WindowAttention, table: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    return torch.func.functional_call(layer, {"relative_position_bias_table": table}, (x, mask))


def test_dropouts_act_in_training_only() -> None:
    layer = make_attention(8, 2, window=4, attn_drop=0.5)
    x = torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))
