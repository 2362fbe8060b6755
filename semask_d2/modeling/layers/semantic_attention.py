"""The idea of the paper: tokens attend to each other through K-class semantic maps (arXiv 2112.12782, section 3.2).

One semantic layer follows the blocks of every backbone stage. Its maps are what the semantic prior supervises.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from semask_d2.modeling.layers.attention import attention
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.window_partition import pad_to_multiple, window_merge, window_partition

SemanticInit = Literal["live", "released"]


class SemanticAttention(nn.Module):
    """x + gamma * mlp_res(softmax(q k^T) v), with q and k of K channels, one per class, and no scaling of q k^T.

    Init "live": gamma is zero, so the block starts as the identity, and `mlp_res` is not, so gamma has a gradient.
    Init "released": both are zero, as in the released mask models; then neither ever leaves zero (each one's
    gradient is a multiple of the other), and only `mlp_cls_q` learns, from the prior loss.
    """

    def __init__(self, dim: int, num_classes: int, *, init: SemanticInit = "live", drop: float = 0.1):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.mlp_cls_q = Linear(dim, num_classes)
        self.mlp_cls_k = Linear(dim, num_classes)
        self.mlp_v = Linear(dim, dim)
        self.mlp_res = Linear(dim, dim)
        self.drop = nn.Dropout(drop)
        for linear in (self.mlp_cls_q, self.mlp_cls_k, self.mlp_v):
            nn.init.kaiming_normal_(linear.weight)
        if init == "released":
            nn.init.zeros_(self.mlp_res.weight)
        else:
            nn.init.xavier_uniform_(self.mlp_res.weight)
        for linear in (self.mlp_cls_q, self.mlp_cls_k, self.mlp_v, self.mlp_res):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) -> the attended tokens (B, N, C) and their semantic map (B, N, K)."""
        q = self.mlp_cls_q(x)
        heads = (part[:, None] for part in (q, self.mlp_cls_k(x), self.mlp_v(x)))  # one
        y = attention(*heads, scale=1.0)[:, 0]
        return self.gamma * self.drop(self.mlp_res(y)) + x, q


class SemanticLayer(nn.Module):
    """LayerNorm, then `num_blocks` semantic attentions over all tokens of a map or over those of each window.

    `window` None means global. Windows are not shifted, and the zeros that pad the map to a multiple of the window
    (after the norm) are tokens like any other. There is no residual around the layer: its output is built on the
    normalized input.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        window: int | None,
        num_blocks: int = 1,
        init: SemanticInit = "live",
    ):
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim)
        self.class_injection = nn.ModuleList(SemanticAttention(dim, num_classes, init=init) for _ in range(num_blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> features (B, H, W, C) and the last block's semantic map (B, H, W, K)."""
        b, h, w, _ = x.shape
        x = self.norm1(x)
        if self.window is None:
            tokens = x.flatten(1, 2)
        else:
            x = pad_to_multiple(x, self.window)
            tokens = window_partition(x, self.window)
        padded_h, padded_w = x.shape[1:3]
        semantics = tokens  # until a block gives them
        for block in self.class_injection:
            tokens, semantics = block(tokens)

        def to_map(tokens: Tensor) -> Tensor:
            if self.window is None:
                return tokens.view(b, h, w, -1)
            return window_merge(tokens, self.window, padded_h, padded_w)[:, :h, :w]

        return to_map(tokens), to_map(semantics)
