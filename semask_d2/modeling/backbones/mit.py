"""SeMask with SegFormer's Mix Transformer (arXiv 2105.15203, section 3.1); internal maps are (B, H, W, C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import BACKBONE_REGISTRY, configurable
from semask_d2.modeling.backbones.base import (
    SHARED_KEYS,
    STRIDES,
    HierarchicalBackbone,
    backbone_arguments,
    semantic_keys,
)
from semask_d2.modeling.layers.conv import zero_bias
from semask_d2.modeling.layers.drop_path import DropPath, linear_drop_paths
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.recomputation import run
from semask_d2.utils.arguments import require

PATCH_STRIDES = (4, 2, 2, 2)
KERNELS = (7, 3, 3, 3)
NORM_EPS = 1e-6


class OverlapPatchEmbed(nn.Module):
    """Embedding of overlapping patches: a strided convolution and a LayerNorm."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, h, w, C)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ReducedAttention(nn.Module):
    """Multi-head attention with keys and values from the map downsampled by `reduction`."""

    def __init__(self, dim: int, num_heads: int, reduction: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(dim) if reduction > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        b, h, w, c = x.shape
        reduced = x
        if self.sr is not None and self.norm is not None:
            reduced = self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        q = self.q(x).view(b, h * w, self.num_heads, -1).transpose(1, 2)
        kv = self.kv(reduced).view(b, -1, 2, self.num_heads, c // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(b, h, w, c))


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution of a map (B, H, W, C), under the published name `dwconv.dwconv`."""

    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MixFFN(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear. The zero padding of the convolution encodes positions."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class MixBlock(nn.Module):
    """Pre-norm attention and Mix-FFN, each with a residual under stochastic depth."""

    def __init__(self, dim: int, num_heads: int, reduction: int, *, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = ReducedAttention(dim, num_heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MixFFN(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@BACKBONE_REGISTRY.register()
class D2SeMaskMixTransformer(HierarchicalBackbone):
    """SeMask MiT-B0..B5, with outputs `res2`..`res5` (strides 4..32) and semantic maps `sem2`..`sem5`.

    Parameter names are those of the published `mit_b*.pth`; the semantic layer of stage i (from 1) is
    `semantic_layer{i}`. `shared` are the arguments of `HierarchicalBackbone`.
    """

    config_keys: ClassVar = {
        **semantic_keys("MIT"),
        **SHARED_KEYS,
        "embed_dims": "MODEL.MIT.EMBED_DIMS",
        "depths": "MODEL.MIT.DEPTHS",
        "num_heads": "MODEL.MIT.NUM_HEADS",
        "reductions": "MODEL.MIT.SR_RATIOS",
        "mlp_ratio": "MODEL.MIT.MLP_RATIO",
        "drop_path_rate": "MODEL.MIT.DROP_PATH_RATE",
    }
    attention_projections: ClassVar = ("attn.q", "attn.kv", "attn.proj")

    @configurable
    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        reductions: Sequence[int],
        mlp_ratio: float,
        in_channels: int = 3,
        **shared: Any,
    ):
        super().__init__(**shared)
        per_stage = {"embed_dims": embed_dims, "depths": depths, "num_heads": num_heads, "reductions": reductions}
        for name, values in per_stage.items():
            expected = "four numbers of at least 1, one per stage"
            require(len(values) == 4 and min(values) >= 1, self, name, expected, list(values))
        require(min(embed_dims) * mlp_ratio >= 1, self, "mlp_ratio", "a number above 0", mlp_ratio)
        self.require_dividing_heads(embed_dims, num_heads)
        self.declare_outputs(embed_dims, STRIDES)
        drop_paths = iter(linear_drop_paths(self.drop_path_rate, sum(depths)))
        channels = in_channels
        for i, dim in enumerate(embed_dims, start=1):
            blocks = [
                MixBlock(dim, num_heads[i - 1], reductions[i - 1], mlp_ratio=mlp_ratio, drop_path=next(drop_paths))
                for _ in range(depths[i - 1])
            ]
            self.add_module(f"patch_embed{i}", OverlapPatchEmbed(channels, dim, KERNELS[i - 1], PATCH_STRIDES[i - 1]))
            self.add_module(f"block{i}", nn.ModuleList(blocks))
            self.add_module(f"norm{i}", nn.LayerNorm(dim, eps=NORM_EPS))
            channels = dim
        self.apply(init_weights)
        for i, dim in enumerate(embed_dims, start=1):  # after `init_weights`, because they initialize themselves
            self.add_module(f"semantic_layer{i}", self.semantic.layer(i - 1, dim))
        stages = [[getattr(self, f"patch_embed{i}"), getattr(self, f"block{i}")] for i in range(1, 5)]
        stem = stages[0].pop(0)
        self.freeze([[stem], *stages])

    def output_modules(self, name: str) -> list[nn.Module]:
        return [getattr(self, f"norm{int(name[3:]) - 1}")]

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.MIT` and the head's class count."""
        return {"in_channels": input_shape.channels, **backbone_arguments(cls, cfg, "MIT")}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalized images (B, 3, H, W) to all features in `output_shape()`, (B, C, h, w)."""
        outputs = {}
        for i in range(1, 5):
            with self.body_gradients():
                x = getattr(self, f"patch_embed{i}")(x)
                for block in getattr(self, f"block{i}"):
                    x = run(block, x, recompute=f"res{i + 1}" in self.checkpointing)
            x, features, semantics = self.refine(getattr(self, f"semantic_layer{i}"), x)
            if semantics is not None:
                outputs[f"sem{i + 1}"] = semantics.permute(0, 3, 1, 2)
            outputs[f"res{i + 1}"] = getattr(self, f"norm{i}")(features).permute(0, 3, 1, 2)
            x = x.permute(0, 3, 1, 2)  # the convolution of the next stage expects channels first
        return outputs


def init_weights(module: nn.Module) -> None:
    """Initialize a module as SegFormer does: linear weights normal with std 0.02, convolutions normal by fan-out."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        zero_bias(module)
