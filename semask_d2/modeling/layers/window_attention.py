"""Swin's attention within (shifted) windows, with a relative position bias (arXiv 2103.14030, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.layers.attention import attention
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.window_partition import pad_to_multiple, window_merge, window_partition

BLOCKED = -100.0  # added to logits across regions; a constant of the released models, not minus infinity


def relative_position_index(window: int) -> Tensor:
    """Return each (query, key) pair's row in the bias table, (N, N): (dy + w - 1)(2w - 1) + (dx + w - 1)."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def shifted_window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return the mask added to the logits of a padded (height, width) map rolled by `shift`: (windows, N, N).

    0 where query and key lie on the same side of the seam, `BLOCKED` elsewhere.
    """

    def bands(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).int() + (position >= size - shift).int()

    region = 3 * bands(height)[:, None] + bands(width)[None, :]
    region = window_partition(region.view(1, height, width, 1), window).squeeze(-1)
    return (region[:, :, None] != region[:, None, :]) * BLOCKED


class WindowAttention(nn.Module):
    """Multi-head attention inside each window of a map; `shift` > 0 rolls the padded map first.

    The map is padded before the roll, and padding tokens serve as keys, as in the released models.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window: int,
        shift: int = 0,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
    ):
        super().__init__()
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.scale = qk_scale  # None: head_dim^-0.5
        self.attn_drop = attn_drop
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self, mask: Tensor | None) -> Tensor:
        """Return the relative position bias (heads, N, N); with `mask` (windows, N, N) added, (windows x heads, N, N).

        It is contiguous with rows aligned to 8 numbers, as fused attention on a GPU requires.
        """
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(tokens, tokens, self.num_heads).permute(2, 0, 1)
        bias = F.pad(bias, (0, -tokens % 8)).contiguous()[..., :tokens]
        return bias if mask is None else (bias + mask[:, None].to(bias.dtype)).flatten(0, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `mask` comes from `shifted_window_mask` and is used if `shift` > 0."""
        b, h, w, c = x.shape
        x = pad_to_multiple(x, self.window)
        padded_h, padded_w = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = window_partition(x, self.window)
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.bias(mask if self.shift else None)
        if self.shift:  # merge windows into heads: each window has its own bias, shared by all images
            q, k, v = (part.reshape(b, -1, *part.shape[2:]) for part in (q, k, v))
        x = attention(q, k, v, bias, dropout=self.attn_drop if self.training else 0.0, scale=self.scale)
        x = x.reshape(-1, self.num_heads, *x.shape[2:]).transpose(1, 2).flatten(2)
        x = window_merge(self.proj_drop(self.proj(x)), self.window, padded_h, padded_w)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :h, :w]
