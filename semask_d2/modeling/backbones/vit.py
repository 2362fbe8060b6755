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
    "norm_eps": "MODEL.VIT.NORM_EPS",
}
BODY_KEYS = {**SIZE_KEYS, "name": "MODEL.VIT.NAME", "drop_path_rate": "MODEL.VIT.DROP_PATH_RATE"}
JOINT_KEY = {"joint_blocks": "MODEL.VIT.JOINT_BLOCKS"}


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

    With `joint_blocks` the last blocks belong to the head (`EncoderOnlyMaskHead`), and the tokens before them replace
    the pyramid: `patches` (B, C, h, w) and `prefix` (B, C, P, 1), class and register tokens. `rope`, if the model has
    rotary positions, are those of the head's blocks: (N, ..., h w, D) for N blocks, or 1 for all.
    """

    body: Any  # timm's VisionTransformer or Eva, which share the attributes used here
    config_keys: ClassVar = {
        **semantic_keys("VIT"),
        **SHARED_KEYS,
        **BODY_KEYS,
        **JOINT_KEY,
        "out_indices": "MODEL.VIT.OUT_INDICES",
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
        norm_eps: float,
        joint_blocks: int,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.body = build_body(
            self,
            in_channels,
            name=name,
            drop_path_rate=self.drop_path_rate,
            norm_eps=norm_eps,
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
        )
        self.body.norm = nn.Identity()  # of the classifier
        self.patch_size: int = self.body.patch_embed.patch_size[0]
        most = max(0, len(self.body.blocks) - 4)
        expected = f"from 0 to {most}, because at least four blocks stay in the backbone"
        require(0 <= joint_blocks <= most, self, "joint_blocks", expected, joint_blocks)
        self.joint_blocks = joint_blocks
        self.body.blocks = self.body.blocks[: len(self.body.blocks) - joint_blocks]
        self.out_indices = self.checked_indices(out_indices)
        self.body.blocks = self.body.blocks[: self.out_indices[-1] + 1]  # distributed training needs no unused ones
        dim = self.body.embed_dim
        self.stride = 2 ** round(math.log2(self.patch_size))
        self.semantic_layers = nn.ModuleList(self.semantic.layer(i, dim) or nn.Identity() for i in range(4))
        strides = () if joint_blocks else STRIDES
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in strides)
        levels = [Rescale(dim, round(math.log2(self.stride / stride))) for stride in strides]
        self.pyramid = nn.ModuleList(levels)
        channels = [level.out_channels for level in levels]
        self.declare_outputs(channels, strides, semantic_strides=[self.stride] * len(STRIDES))
        if joint_blocks:
            self.declare("patches", dim, self.patch_size)
            self.declare("prefix", dim, 1)
        self.freeze([[self.body.patch_embed, self.body.norm_pre], *self.stages()])

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.VIT` and the head's class count."""
        return {"in_channels": input_shape.channels, **backbone_arguments(cls, cfg, "VIT")}

    def checked_indices(self, indices: Sequence[int]) -> list[int]:
        """Return the four tapped blocks; `ArgumentError` for blocks that the model does not have."""
        depth = len(self.body.blocks)
        if not indices:
            require(depth >= 4, self, "depth", "at least 4", depth)
            return [depth * (i + 1) // 4 - 1 for i in range(4)]
        increasing = list(indices) == sorted(set(indices)) and len(indices) == 4
        inside = all(0 <= i < depth for i in indices)
        require(increasing and inside, self, "out_indices", f"four increasing blocks from 0 to {depth - 1}", [*indices])
        if self.joint_blocks:
            expected = f"{depth - 1}, the last block before JOINT_BLOCKS, as the last of the four"
            require(indices[-1] == depth - 1, self, "out_indices", expected, [*indices])
        return [*indices]

    def output_modules(self, name: str) -> list[nn.Module]:
        stage = int(name[3:]) - 2
        return [] if self.joint_blocks else [self.norms[stage], self.pyramid[stage]]

    def stages(self) -> list[list[nn.Module]]:
        """Return the blocks of the four stages, each of which ends with a tapped block."""
        starts = [0, *(i + 1 for i in self.out_indices[:-1])]
        return [[*self.body.blocks[a : b + 1]] for a, b in zip(starts, self.out_indices, strict=True)]

    def embed(self, x: Tensor) -> tuple[Tokens, Sequence[Tensor | None]]:
        """Return the tokens of images (B, 3, H, W) before the first block, and the rotary positions of each block.

        The positions include those of the head's joint blocks.
        """
        body = self.body
        patches = body.patch_embed(x)
        grid = (patches.shape[1], patches.shape[2])
        tokens = [getattr(body, name, None) for name in ("cls_token", "dist_token", "reg_token")]
        prefix = torch.cat([patches.new_empty(1, 0, patches.shape[3]), *(x for x in tokens if x is not None)], dim=1)
        if body.pos_embed is not None:
            prefix, patches = add_absolute(prefix, patches, body.pos_embed, body.patch_embed.grid_size)
        sequence = body.pos_drop(Tokens(prefix.expand(x.shape[0], -1, -1), patches).sequence())
        blocks = len(body.blocks) + self.joint_blocks
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
        return self.encode(x)[0]

    def encode(self, x: Tensor) -> tuple[list[tuple[Tensor, Tensor | None]], Tokens, Sequence[Tensor | None]]:
        """Return `taps`, the tokens after the last block, and the rotary positions of the joint blocks."""
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
        return taps, tokens._replace(patches=taps[-1][0]), ropes[first:]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalized images (B, 3, H, W) to all features in `output_shape()`, (B, C, h, w)."""
        size = (x.shape[-2], x.shape[-1])
        outputs = {}
        taps, tokens, ropes = self.encode(x)
        if self.joint_blocks:
            outputs["patches"] = tokens.patches.permute(0, 3, 1, 2)
            outputs["prefix"] = tokens.prefix.transpose(1, 2)[..., None]
            if positions := [rope for rope in ropes if rope is not None]:
                outputs["rope"] = torch.stack(positions if getattr(self.body, "rope_mixed", False) else positions[:1])
        for stage, (patches, semantics) in enumerate(taps):
            if not self.joint_blocks:
                normalized = self.norms[stage](patches).permute(0, 3, 1, 2)
                covering = to_stride(normalized, self.patch_size, self.stride, size)
                outputs[f"res{stage + 2}"] = to_stride(
                    self.pyramid[stage](covering), STRIDES[stage], STRIDES[stage], size
                )
            if semantics is not None:
                semantics = semantics.permute(0, 3, 1, 2)
                outputs[f"sem{stage + 2}"] = to_stride(semantics, self.patch_size, self.stride, size)
        return outputs

    @property
    def size_divisibility(self) -> int:
        """Stride of `res5`, or the patch size if the head needs only patches."""
        return self.patch_size if self.joint_blocks else super().size_divisibility


def build_body(
    component: Any, in_channels: int = 3, *, name: str, drop_path_rate: float, norm_eps: float, **sizes: int
) -> VisionTransformer | Eva:
    """Build the timm model `name` for a `component` that has these arguments; `sizes` of 0 are those of the model.

    Raises `ArgumentError` for impossible sizes, and for a model that is no plain ViT.
    """
    for argument, value in sizes.items():
        require(value >= 0, component, argument, "at least 1, or 0 for that of the timm model", value)
    expected = "at least 0 and below 1; 0 means that of the timm model"
    require(0 <= norm_eps < 1, component, "norm_eps", expected, norm_eps)
    try:
        body = create_vit(name, in_channels, drop_path_rate, {key: value for key, value in sizes.items() if value})
    except ValueError as error:
        raise ArgumentError(component, "name", f'expected {error}, got "{name}"') from error
    for module in body.modules():
        if norm_eps and isinstance(module, nn.LayerNorm):
            module.eps = norm_eps
    return body


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
    return body
