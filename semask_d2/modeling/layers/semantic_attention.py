"""Semantic attention: tokens attend to each other through K-class semantic maps (arXiv 2112.12782, section 3.2).

One semantic layer follows the blocks of every backbone stage. The semantic-prior loss supervises its maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from semask_d2.modeling.layers.attention import attention
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.window_partition import pad_to_multiple, window_merge, window_partition

SemanticInit = Literal["live", "released", "small"]
SemanticKind = Literal["pairwise", "scaled", "centers"]
SemanticResidual = Literal["normalized", "raw"]


class SemanticAttention(nn.Module):
    """Compute x + gamma * mlp_res(y), where tokens x (B, N, C) attend to y through their K-channel maps q and k.

    `kind` "pairwise", as in the paper: y = softmax(q k^T) v over the N tokens, without scaling. "scaled": q k^T is
    divided by sqrt(K). "centers": a softmax of q over the tokens averages v into K class centers of the image, and a
    softmax of k over the classes averages the centers for each token, at a cost linear in N.

    Init "live": gamma is zero, so the block starts as the identity; `mlp_res` is not, so gamma gets a gradient.
    Init "released": both are zero, as in the released mask models. Then both stay zero, because the gradient of each is
    a multiple of the other, and only `mlp_cls_q` learns, from the prior loss.
    Init "small": gamma is zero and all matrices are small, as in the released Semantic FPN models, so maps start nearly
    uniform and a low learning rate suffices; with the other two, maps start as noise.
    With `residual` "raw", gamma has one value for each of the C channels, and the layer adds x.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        init: SemanticInit,
        kind: SemanticKind,
        residual: SemanticResidual,
        drop: float = 0.1,
    ):
        super().__init__()
        self.kind = kind
        self.residual = residual
        self.gamma = nn.Parameter(torch.zeros(dim if residual == "raw" else 1))
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
            if init == "small":
                nn.init.trunc_normal_(linear.weight, std=0.02)

    def parameters_of_features(self) -> Iterator[nn.Parameter]:
        """Yield the parameters on which the attended tokens depend, but not their map."""
        yield self.gamma
        for linear in (self.mlp_cls_k, self.mlp_v, self.mlp_res):
            yield from linear.parameters()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, N, C) to attended tokens (B, N, C), with "raw" without the residual, and their map (B, N, K)."""
        q, k, v = self.mlp_cls_q(x), self.mlp_cls_k(x), self.mlp_v(x)
        if self.kind == "centers":
            centers = q.softmax(1).transpose(1, 2) @ v  # (B, K, C)
            y = k.softmax(2) @ centers
        else:
            scale = q.shape[-1] ** -0.5 if self.kind == "scaled" else 1.0
            y = attention(q[:, None], k[:, None], v[:, None], scale=scale)[:, 0]  # a single head
        attended = self.gamma * self.drop(self.mlp_res(y))
        return (attended if self.residual == "raw" else attended + x), q


class SemanticLayer(nn.Module):
    """LayerNorm, then `num_blocks` semantic attentions over all tokens of a map, or over those of each window.

    `window` None means global attention. Windows are not shifted, and the zeros that pad the map to a multiple of the
    window (after the norm) take part as tokens. With `residual` "normalized", as in the paper, the residual starts from
    the normalized input. With "raw" each block adds to the unnormalized input, through a gate per channel, so a layer
    starts as the identity and preserves pretrained features.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        window: int | None,
        num_blocks: int,
        init: SemanticInit,
        kind: SemanticKind,
        residual: SemanticResidual,
    ):
        super().__init__()
        self.window = window
        self.residual = residual
        self.norm1 = nn.LayerNorm(dim)
        self.class_injection = nn.ModuleList(
            SemanticAttention(dim, num_classes, init=init, kind=kind, residual=residual) for _ in range(num_blocks)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to features (B, H, W, C) and the last block's semantic map (B, H, W, K)."""
        if self.residual == "normalized":
            return self.in_windows(self.norm1(x), self.class_injection)
        semantics = x  # replaced by the first block
        for block in self.class_injection:
            attended, semantics = self.in_windows(self.norm1(x), [block])
            x = x + attended
        return x, semantics

    def parameters_of_features(self) -> Iterator[nn.Parameter]:
        """Yield the parameters on which the features depend, but not the semantic map."""
        block = self.class_injection[-1]
        assert isinstance(block, SemanticAttention)
        return block.parameters_of_features()

    def in_windows(self, x: Tensor, blocks: Iterable[nn.Module]) -> tuple[Tensor, Tensor]:
        """Apply `blocks` in turn to the tokens of each window of a map (B, H, W, C); return features and semantics."""
        b, h, w, _ = x.shape
        if self.window is None:
            tokens = x.flatten(1, 2)
        else:
            x = pad_to_multiple(x, self.window)
            tokens = window_partition(x, self.window)
        padded_h, padded_w = x.shape[1:3]
        semantics = tokens  # replaced by the first block
        for block in blocks:
            tokens, semantics = block(tokens)

        def to_map(tokens: Tensor) -> Tensor:
            if self.window is None:
                return tokens.view(b, h, w, -1)
            return window_merge(tokens, self.window, padded_h, padded_w)[:, :h, :w]

        return to_map(tokens), to_map(semantics)
