"""SeMask on a plain ViT of timm: DINOv2, DINOv3, EVA-02, SigLIP, DeiT, and supervised ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from semask_d2.d2 import BACKBONE_REGISTRY, configurable
from semask_d2.modeling.backbones.base import (
    SHARED_KEYS,
    STRIDES,
    HierarchicalBackbone,
    backbone_arguments,
    semantic_keys,
)
from semask_d2.modeling.backbones.lora import TIMM_PROJECTIONS
from semask_d2.modeling.backbones.vit_positions import add_absolute, rotary
from semask_d2.modeling.layers.feature_pyramid import Rescale, to_stride
from semask_d2.modeling.layers.recomputation import run
from semask_d2.utils.arguments import ArgumentError, require

if TYPE_CHECKING:
    from timm.models import Eva, VisionTransformer

SIZE_KEYS = {  # 0: as the timm model `name` has it
    "img_size": "MODEL.VIT.IMG_SIZE",
    "patch_size": "MODEL.VIT.PATCH_SIZE",
    "embed_dim": "MODEL.VIT.EMBED_DIM",
    "depth": "MODEL.VIT.DEPTH",
    "num_heads": "MODEL.VIT.NUM_HEADS",
}


class Tokens(NamedTuple):
    """Tokens of a ViT: `prefix` (B, P, C), class and register tokens, and the map of the patches (B, h, w, C)."""

    prefix: Tensor
    patches: Tensor

    @classmethod
    def of_sequence(cls, sequence: Tensor, grid: tuple[int, int]) -> Tokens:
        """Split a sequence (B, P + h w, C) whose last tokens are the patches of a `grid` (h, w)."""
        patches = grid[0] * grid[1]
        # a reshape, because ONNX graphs would take the sides after an unflatten for constants
        grid_of_patches = sequence[:, -patches:].reshape(sequence.shape[0], *grid, sequence.shape[2])
        return cls(sequence[:, :-patches], grid_of_patches)

    def sequence(self) -> Tensor:
        """Return the sequence (B, P + h w, C)."""
        return torch.cat([self.prefix, self.patches.flatten(1, 2)], dim=1)


@BACKBONE_REGISTRY.register()
class SeMaskViT(HierarchicalBackbone):
    """A plain ViT with a semantic layer after each of four blocks, and outputs of strides 4, 8, 16 and 32.

    `out_indices` are the four blocks, counted from 0; () means the last blocks of the four quarters. The output of a
    semantic layer goes on to the next block, unless the ViT is frozen. Through a LayerNorm and `Rescale` it becomes a
    map of the simple feature pyramid. All semantic maps have the stride of the patches. Images are zero-padded to a
    multiple of the patch size; if that is no power of two, maps are resampled to the nearest one. `img_size` is the
    side of the images whose position embeddings the model stores; they are resampled to the grid of each batch. Numbers
    that are 0 are those of the timm model `name`. `shared` are the arguments of `HierarchicalBackbone`.
    """

    body: Any  # timm's VisionTransformer or Eva, which share the attributes used here
    config_keys: ClassVar = {
        **semantic_keys("VIT"),
        **SHARED_KEYS,
        **SIZE_KEYS,
        "name": "MODEL.VIT.NAME",
        "out_indices": "MODEL.VIT.OUT_INDICES",
        "drop_path_rate": "MODEL.VIT.DROP_PATH_RATE",
    }
    attention_projections: ClassVar = TIMM_PROJECTIONS

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        name: str,
        out_indices: Sequence[int],
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        **shared: Any,
    ):
        super().__init__(**shared)
        sizes = {"img_size": img_size, "patch_size": patch_size, "embed_dim": embed_dim, "depth": depth}
        sizes["num_heads"] = num_heads
        for argument, value in sizes.items():
            require(value >= 0, self, argument, "at least 1, or 0 for that of the timm model", value)
        self.body = self.create_body(name, in_channels, {key: value for key, value in sizes.items() if value})
        self.patch_size: int = self.body.patch_embed.patch_size[0]
        self.out_indices = self.checked_indices(out_indices)
        self.body.blocks = self.body.blocks[: self.out_indices[-1] + 1]  # distributed training needs no unused ones
        dim = self.body.embed_dim
        self.stride = 2 ** round(math.log2(self.patch_size))
        self.semantic_layers = nn.ModuleList(self.semantic.layer(i, dim) or nn.Identity() for i in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in STRIDES)
        levels = [Rescale(dim, round(math.log2(self.stride / stride))) for stride in STRIDES]
        self.pyramid = nn.ModuleList(levels)
        channels = [level.out_channels for level in levels]
        self.declare_outputs(channels, STRIDES, semantic_strides=[self.stride] * len(STRIDES))
        self.freeze([[self.body.patch_embed, self.body.norm_pre], *self.stages()])

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.VIT` and the head's class count."""
        return {"in_channels": input_shape.channels, **backbone_arguments(cls, cfg, "VIT")}

    def create_body(self, name: str, in_channels: int, sizes: dict[str, int]) -> VisionTransformer | Eva:
        """Build the timm model `name` without its last norm and classifier; `ArgumentError` if it is no plain ViT."""
        try:
            return create_vit(name, in_channels, self.drop_path_rate, sizes)
        except ValueError as error:
            raise ArgumentError(self, "name", f'expected {error}, got "{name}"') from error

    def checked_indices(self, indices: Sequence[int]) -> list[int]:
        """Return the four tapped blocks; `ArgumentError` for blocks that the model does not have."""
        depth = len(self.body.blocks)
        if not indices:
            require(depth >= 4, self, "depth", "at least 4", depth)
            return [depth * (i + 1) // 4 - 1 for i in range(4)]
        increasing = list(indices) == sorted(set(indices)) and len(indices) == 4
        inside = all(0 <= i < depth for i in indices)
        require(increasing and inside, self, "out_indices", f"four increasing blocks from 0 to {depth - 1}", [*indices])
        return [*indices]

    def output_modules(self, name: str) -> list[nn.Module]:
        stage = int(name[3:]) - 2
        return [self.norms[stage], self.pyramid[stage]]

    def stages(self) -> list[list[nn.Module]]:
        """Return the blocks of the four stages, each of which ends with a tapped block."""
        starts = [0, *(i + 1 for i in self.out_indices[:-1])]
        return [[*self.body.blocks[a : b + 1]] for a, b in zip(starts, self.out_indices, strict=True)]

    def embed(self, x: Tensor) -> tuple[Tokens, Sequence[Tensor | None]]:
        """Return the tokens of images (B, 3, H, W) before the first block, and the rotary positions of each block."""
        body = self.body
        patches = body.patch_embed(x)
        grid = (patches.shape[1], patches.shape[2])
        tokens = [getattr(body, name, None) for name in ("cls_token", "dist_token", "reg_token")]
        prefix = torch.cat([patches.new_empty(1, 0, patches.shape[3]), *(x for x in tokens if x is not None)], dim=1)
        if body.pos_embed is not None:
            prefix, patches = add_absolute(prefix, patches, body.pos_embed, body.patch_embed.grid_size)
        sequence = body.pos_drop(Tokens(prefix.expand(x.shape[0], -1, -1), patches).sequence())
        blocks = len(body.blocks)
        rope = getattr(body, "rope", None)
        positions = None if rope is None else rotary(rope, grid)
        ropes: list[Tensor | None] = [positions] * blocks
        if positions is not None and getattr(body, "rope_mixed", False):  # learned for each block
            ropes = [*positions[:blocks]]
        return Tokens.of_sequence(body.norm_pre(sequence), grid), ropes

    def taps(self, x: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Return the outputs of the four tapped blocks, after their semantic layers, for images (B, 3, H, W).

        Each is a map (B, h, w, C) and a semantic map (B, h, w, K), None without semantic layers; h = ceil(H / patch).
        """
        with self.body_gradients():
            tokens, ropes = self.embed(x)
        taps: list[tuple[Tensor, Tensor | None]] = []
        first = 0
        for stage, (blocks, layer) in enumerate(zip(self.stages(), self.semantic_layers, strict=True)):
            with self.body_gradients():
                sequence, grid = tokens.sequence(), (tokens.patches.shape[1], tokens.patches.shape[2])
                for block, rope in zip(blocks, ropes[first : first + len(blocks)], strict=True):
                    arguments = (sequence,) if rope is None else (sequence, rope)
                    sequence = run(block, *arguments, recompute=f"res{stage + 2}" in self.checkpointing)
                tokens = Tokens.of_sequence(sequence, grid)
            first += len(blocks)
            patches, features, semantics = self.refine(layer, tokens.patches)
            taps.append((features, semantics))
            tokens = tokens._replace(patches=patches)
        return taps

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalized images (B, 3, H, W) to all features in `output_shape()`, (B, C, h, w)."""
        size = (x.shape[-2], x.shape[-1])
        outputs = {}
        for stage, (patches, semantics) in enumerate(self.taps(x)):
            normalized = self.norms[stage](patches).permute(0, 3, 1, 2)
            covering = to_stride(normalized, self.patch_size, self.stride, size)
            outputs[f"res{stage + 2}"] = self.crop(self.pyramid[stage](covering), STRIDES[stage], size)
            if semantics is not None:
                semantics = semantics.permute(0, 3, 1, 2)
                outputs[f"sem{stage + 2}"] = to_stride(semantics, self.patch_size, self.stride, size)
        return outputs

    @staticmethod
    def crop(x: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Crop a map of `stride` to the cells that cover `size` pixels."""
        return to_stride(x, stride, stride, size)


def create_vit(name: str, in_channels: int, drop_path_rate: float, sizes: dict[str, int]) -> VisionTransformer | Eva:
    """Build the timm model `name`, changed by `sizes`, for images of any size; `ValueError` if it is no plain ViT."""
    import timm  # imported late: it takes seconds, and only backbones of timm need it
    from timm.models import Eva, VisionTransformer

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models("*vit*"), n=3)
        raise ValueError("the name of a timm model" + (f", such as {' or '.join(near)}" if near else ""))
    options: dict[str, Any] = {"num_classes": 0, "global_pool": "", "drop_path_rate": drop_path_rate}
    options |= {"dynamic_img_size": True, "dynamic_img_pad": True, "in_chans": in_channels, **sizes}
    try:
        body = timm.create_model(name, pretrained=False, **options)
    except (RuntimeError, TypeError, AssertionError, ValueError, AttributeError) as error:
        raise ValueError(
            f"a plain ViT of timm that takes images of any size ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(body, (VisionTransformer, Eva)) or not getattr(body, "dynamic_img_size", False):
        raise ValueError(f"a plain ViT of timm that takes images of any size, not a {type(body).__name__}")
    patch = body.patch_embed.patch_size
    if patch[0] != patch[1]:
        raise ValueError(f"a ViT with square patches, not {patch}")
    body.norm = nn.Identity()  # of the classifier
    return body
