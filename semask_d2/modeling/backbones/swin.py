"""The SeMask Swin backbone: Swin stages (arXiv 2103.14030), each followed by a semantic layer (arXiv 2112.12782).

Inside the backbone, maps are (B, H, W, C); its outputs are (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import BACKBONE_REGISTRY, configurable
from semask_d2.modeling.backbones.base import (
    SHARED_KEYS,
    HierarchicalBackbone,
    backbone_arguments,
    semantic_keys,
)
from semask_d2.modeling.layers.drop_path import DropPath, linear_drop_paths
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.recomputation import run
from semask_d2.modeling.layers.semantic_attention import SemanticLayer
from semask_d2.modeling.layers.window_attention import WindowAttention, shifted_window_mask
from semask_d2.utils.arguments import require


class PatchEmbed(nn.Module):
    """Embedding of `patch` x `patch` pixel patches: zero-pad to a multiple, convolve, LayerNorm."""

    def __init__(self, patch: int, in_channels: int, dim: int, *, norm: bool):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, ceil(H / patch), ceil(W / patch), C)."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch, 0, -height % self.patch))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Merging of 2 x 2 tokens into one with twice the channels; odd sizes are zero-padded first."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C)."""
        x = F.pad(x, (0, 0, 0, 1, 0, 1))  # even sizes drop the padding again, so exported graphs need no branch
        x = torch.cat([x[:, :-1:2, :-1:2], x[:, 1::2, :-1:2], x[:, :-1:2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(x))


class Mlp(nn.Module):
    """Linear, GELU, Linear, with dropout after each."""

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP, each with a residual under stochastic depth."""

    def __init__(self, dim: int, attention: WindowAttention, *, mlp_ratio: float, drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `mask` is the stage's shifted-window mask."""
        x = x + self.drop_path(self.attn(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SwinStage(nn.Module):
    """Swin blocks at one resolution, with plain and shifted windows in turn.

    The backbone applies the semantic layer that follows them. `downsample` is the patch merging that starts the next
    stage (the released models' naming).
    """

    def __init__(
        self,
        blocks: Sequence[SwinBlock],
        semantic_layer: SemanticLayer | None,
        downsample: PatchMerging | None,
        *,
        window: int,
        use_checkpoint: bool,
    ):
        super().__init__()
        self.window = window
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(blocks)
        self.semantic_layer = semantic_layer
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) through the blocks to the same shape."""
        height, width = (size + -size % self.window for size in x.shape[1:3])
        mask = shifted_window_mask(height, width, self.window, self.window // 2, x.device)
        for block in self.blocks:
            x = run(block, x, mask, recompute=self.use_checkpoint)
        return x


@BACKBONE_REGISTRY.register()
class D2SeMaskSwinTransformer(HierarchicalBackbone):
    """SeMask Swin, with outputs `res2`..`res5` (strides 4..32) and semantic maps `sem2`..`sem5` of K channels.

    Without semantic layers (`semantic.num_blocks` 0) it is a plain Swin. `shared` are the arguments of
    `HierarchicalBackbone`.
    """

    config_keys: ClassVar = {
        **semantic_keys("SWIN"),
        **SHARED_KEYS,
        "patch_size": "MODEL.SWIN.PATCH_SIZE",
        "embed_dim": "MODEL.SWIN.EMBED_DIM",
        "depths": "MODEL.SWIN.DEPTHS",
        "num_heads": "MODEL.SWIN.NUM_HEADS",
        "window_size": "MODEL.SWIN.WINDOW_SIZE",
        "mlp_ratio": "MODEL.SWIN.MLP_RATIO",
        "qkv_bias": "MODEL.SWIN.QKV_BIAS",
        "qk_scale": "MODEL.SWIN.QK_SCALE",
        "drop_rate": "MODEL.SWIN.DROP_RATE",
        "attn_drop_rate": "MODEL.SWIN.ATTN_DROP_RATE",
        "drop_path_rate": "MODEL.SWIN.DROP_PATH_RATE",
        "ape": "MODEL.SWIN.APE",
        "pretrain_img_size": "MODEL.SWIN.PRETRAIN_IMG_SIZE",
        "patch_norm": "MODEL.SWIN.PATCH_NORM",
        "out_features": "MODEL.SWIN.OUT_FEATURES",
        "use_checkpoint": "MODEL.SWIN.USE_CHECKPOINT",
    }
    attention_projections: ClassVar = ("attn.qkv", "attn.proj")

    @configurable
    def __init__(
        self,
        *,
        patch_size: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None,
        drop_rate: float,
        attn_drop_rate: float,
        ape: bool,
        pretrain_img_size: int,
        patch_norm: bool,
        out_features: Sequence[str],
        use_checkpoint: bool,
        in_channels: int = 3,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.check_stages(embed_dim, depths, num_heads)
        require(window_size >= 1, self, "window_size", "at least 1", window_size)
        require(embed_dim * mlp_ratio >= 1, self, "mlp_ratio", "a number above 0", mlp_ratio)
        for name, rate in (("drop_rate", drop_rate), ("attn_drop_rate", attn_drop_rate)):
            require(0 <= rate < 1, self, name, "at least 0 and below 1", rate)
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim, norm=patch_norm)
        self.absolute_pos_embed = None
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)

        dims = [embed_dim * 2**i for i in range(len(depths))]
        self.declare_outputs(dims, [patch_size * 2**i for i in range(len(dims))], out_features)
        drop_paths = iter(linear_drop_paths(self.drop_path_rate, sum(depths)))
        self.layers = nn.ModuleList()
        for i, (dim, depth, heads) in enumerate(zip(dims, depths, num_heads, strict=True)):
            blocks = [
                SwinBlock(
                    dim,
                    WindowAttention(
                        dim,
                        heads,
                        window=window_size,
                        shift=window_size // 2 * (j % 2),
                        qkv_bias=qkv_bias,
                        qk_scale=qk_scale,
                        attn_drop=attn_drop_rate,
                        proj_drop=drop_rate,
                    ),
                    mlp_ratio=mlp_ratio,
                    drop=drop_rate,
                    drop_path=next(drop_paths),
                )
                for j in range(depth)
            ]
            downsample = PatchMerging(dim) if i + 1 < len(depths) else None
            stage = SwinStage(
                blocks,
                self.semantic.layer(i, dim),
                downsample,
                window=window_size,
                use_checkpoint=use_checkpoint or f"res{i + 2}" in self.checkpointing,
            )
            self.layers.append(stage)
            if f"res{i + 2}" in out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(dim))
        # the patch merging that starts a stage is the `downsample` of the previous stage
        starts = [[], *([stage.downsample] for stage in self.layers[:-1])]
        stages = [[*start, stage.blocks] for start, stage in zip(starts, self.layers, strict=True)]
        self.freeze([[self.patch_embed], *stages])

    def output_modules(self, name: str) -> list[nn.Module]:
        return [getattr(self, f"norm{int(name[3:]) - 2}")] if name in self._out_features else []

    def check_stages(self, embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
        """Raise `ArgumentError` for invalid numbers of blocks and heads."""
        require(len(depths) == 4 and min(depths) >= 1, self, "depths", "four numbers of at least 1", list(depths))
        expected = f"one number per stage of depths {list(depths)}"
        require(len(num_heads) == len(depths), self, "num_heads", expected, list(num_heads))
        self.require_dividing_heads([embed_dim * 2**stage for stage in range(len(depths))], num_heads)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.SWIN` and the head's class count."""
        return {"in_channels": input_shape.channels, **backbone_arguments(cls, cfg, "SWIN")}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalized images (B, 3, H, W) to all features in `output_shape()`, (B, C, h, w)."""
        with self.body_gradients():
            x = self.embed(x)
        outputs = {}
        for i, stage in enumerate(self.layers):
            with self.body_gradients():
                x = stage(x)
            layer = stage.semantic_layer if isinstance(stage.semantic_layer, nn.Module) else None
            x, features, semantics = self.refine(layer, x)
            if f"res{i + 2}" in self._out_features:
                outputs[f"res{i + 2}"] = getattr(self, f"norm{i}")(features).permute(0, 3, 1, 2)
            if semantics is not None:
                outputs[f"sem{i + 2}"] = semantics.permute(0, 3, 1, 2)
            if isinstance(stage.downsample, nn.Module):
                with self.body_gradients():
                    x = stage.downsample(x)
        return outputs

    def embed(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to the tokens (B, h, w, C) of their patches, with positions if the model has any."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            position = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic", align_corners=False)
            x = x + position.permute(0, 2, 3, 1)
        return self.pos_drop(x)
