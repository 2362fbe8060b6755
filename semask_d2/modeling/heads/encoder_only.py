"""The encoder-only mask head: queries join the tokens of a plain ViT in its last blocks (EoMT, CVPR 2025).

Legend: B images, L joint blocks, P prefix tokens, Q queries, h x w patches, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from semask_d2.d2 import SEM_SEG_HEADS_REGISTRY, ShapeSpec, configurable
from semask_d2.modeling.backbones.vit import BODY_KEYS, JOINT_KEY, build_body
from semask_d2.modeling.layers.feature_pyramid import LearnedDoubling
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.mlp import MLP
from semask_d2.modeling.transformer_decoders import MaskPredictions
from semask_d2.utils.arguments import arguments_from, known, require
from semask_d2.utils.errors import UserError

MASK_STRIDE = 4
ANNEALING_POWER = 0.9


class JointBlocks(nn.Module):
    """The last blocks of a ViT, under their numbers in the whole model, and its final norm.

    A module called "backbone" gets the learning rate of the backbone.
    """

    def __init__(self, blocks: dict[int, nn.Module], norm: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleDict({str(number): block for number, block in blocks.items()})
        self.norm = norm


@SEM_SEG_HEADS_REGISTRY.register()
class EncoderOnlyMaskHead(nn.Module):
    """The last `joint_blocks` blocks of the ViT of the backbone, in which `num_queries` queries join its tokens.

    In training, masks are predicted before each block too, and a query attends only to the patches within its mask, to
    none if it is empty. With probability 1 - p a query is not masked in a block; `anneal` lowers p of one block after
    another to 0 (`mask_probability`, stored in checkpoints). In evaluation the queries are masked in the blocks whose
    p is at least 1/2, so that results are reproducible; after annealing no masks are needed. `vit` are the arguments of
    `build_body`.
    """

    supervision = "points"
    mask_probability: Tensor
    config_keys: ClassVar = {
        **BODY_KEYS,
        **JOINT_KEY,
        "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "num_queries": "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
    }

    @configurable
    def __init__(
        self,
        *,
        joint_blocks: int,
        num_classes: int,
        num_queries: int,
        **vit: Any,
    ):
        super().__init__()
        for argument, value in {"num_classes": num_classes, "num_queries": num_queries}.items():
            require(value >= 1, self, argument, "at least 1", value)
        body: Any = build_body(self, **vit)
        count, dim = len(body.blocks), body.embed_dim
        require(1 <= joint_blocks <= count, self, "joint_blocks", f"from 1 to {count}", joint_blocks)
        numbers = range(count - joint_blocks, count)
        norm = body.fc_norm if isinstance(body.norm, nn.Identity) else body.norm
        self.backbone = JointBlocks({number: body.blocks[number] for number in numbers}, norm)
        self.num_queries = num_queries
        self.query_embed = nn.Embedding(num_queries, dim)
        self.class_embed = Linear(dim, num_classes + 1)
        self.mask_embed = MLP(dim, dim, dim, 3, activation=F.gelu)
        doublings = round(math.log2(body.patch_embed.patch_size[0] / MASK_STRIDE))
        self.upscale = nn.Sequential(*(LearnedDoubling(dim) for _ in range(max(0, doublings))))
        self.register_buffer("mask_probability", torch.ones(joint_blocks))
        self.masked_blocks = [True] * joint_blocks  # in evaluation

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        """Return the arguments of `__init__` from `cfg.MODEL.VIT`; `UserError` for another backbone."""
        if "patches" not in input_shape:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NAME: EncoderOnlyMaskHead consists of the last blocks of a ViT; set "
                f"MODEL.BACKBONE.NAME to SeMaskViT and {JOINT_KEY['joint_blocks']} to at least 1"
            )
        divisor, patch = cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY, known(input_shape["patches"].stride)
        if divisor > 0 and divisor % patch:
            raise UserError(
                f"MODEL.MASK_FORMER.SIZE_DIVISIBILITY: expected a multiple of the patch size {patch}, or 0 for the "
                f"patch size, got {divisor}"
            )
        return arguments_from(cfg, cls.config_keys)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and read from `mask_probability` in which blocks queries are masked in evaluation."""
        super().train(mode)
        if not self.mask_probability.is_meta:
            self.masked_blocks = [probability >= 0.5 for probability in self.mask_probability.tolist()]
        return self

    def pretrained_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the joint blocks in order, which follow those of the backbone."""
        return [[*block.parameters()] for block in self.backbone.blocks.values()]

    def anneal(self, progress: float) -> None:
        """Set `mask_probability` for a fraction of the training, from 0 to 1."""
        probabilities = annealed(len(self.mask_probability), progress)
        for i, probability in enumerate(probabilities):  # copies nothing to the device
            self.mask_probability[i].fill_(probability)
        self.masked_blocks = [probability >= 0.5 for probability in probabilities]

    def forward(self, features: dict[str, Tensor]) -> MaskPredictions:
        """Predict from the tokens of the backbone: L + 1 times in training, else once."""
        patches, prefix = features["patches"], features["prefix"]
        grid = (patches.shape[-2], patches.shape[-1])
        # the batch size of `patches` would become a constant in an ONNX file
        queries = self.query_embed.weight.expand(prefix.shape[0], -1, -1)
        tokens = torch.cat(
            [prefix.flatten(2).transpose(1, 2), queries.to(patches.dtype), patches.flatten(2).transpose(1, 2)], dim=1
        )
        start = prefix.shape[2]
        rope = self.rope_with_queries(features["rope"]) if "rope" in features else None
        layers = []
        for i, block in enumerate(self.backbone.blocks.values()):
            arguments = {} if rope is None else {"rope": rope[min(i, len(rope) - 1)]}
            if self.training or self.masked_blocks[i]:
                decoded, embed, maps = self.decode(tokens, start, grid)
                layers.append((decoded, embed, maps))
                arguments["attn_mask"] = self.attention_mask(embed, maps, i, start, grid)
            tokens = block(tokens, **arguments)
        layers = [*layers, self.decode(tokens, start, grid)] if self.training else [self.decode(tokens, start, grid)]
        decoded, embeddings, maps = zip(*layers, strict=True)
        return MaskPredictions(self.class_embed(torch.stack(decoded)), torch.stack(embeddings), maps)

    def decode(self, tokens: Tensor, start: int, grid: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, their mask embeddings, and the mask features (B, C, H/4, W/4) of tokens (B, T, C)."""
        normalized, end = self.backbone.norm(tokens), start + self.num_queries
        queries, patches = normalized[:, start:end], normalized[:, end:]
        # a reshape, because an ONNX file would take the sides after an unflatten for constants
        maps = patches.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)
        return queries, self.mask_embed(queries), self.upscale(maps)

    @torch.no_grad()
    def attention_mask(
        self, mask_embed: Tensor, mask_features: Tensor, block: int, start: int, grid: Sequence[int]
    ) -> Tensor:
        """Return the mask (B, 1, T, T) of a block, True where a token attends to another.

        It restricts the attention of queries to patches alone.
        """
        guide = F.interpolate(mask_features, size=grid, mode="bilinear", align_corners=False)
        attend = torch.einsum("bqc,bcn->bqn", mask_embed, guide.flatten(2)) > 0
        if self.training:
            draws = torch.rand(attend.shape[:2], device=attend.device)
            attend = attend | (draws >= self.mask_probability[block])[..., None]
        attend = F.pad(attend, (start + self.num_queries, 0), value=True)
        return F.pad(attend, (0, 0, start, attend.shape[2] - start - self.num_queries), value=True)[:, None]

    def rope_with_queries(self, rope: Tensor) -> Tensor:
        """Return rotary positions (N, ..., h w, D) preceded by identities for the queries: sines 0, cosines 1."""
        sine, cosine = rope.new_zeros(()), rope.new_ones(())
        shape = (*rope.shape[:-2], self.num_queries, rope.shape[-1] // 2)
        return torch.cat([torch.cat([sine.expand(shape), cosine.expand(shape)], dim=-1), rope], dim=-2)


def annealed(blocks: int, progress: float) -> list[float]:
    """Return the probabilities of masks in each of L `blocks` at a fraction of the training (EoMT, section 3.3).

    That of block i (from 0) falls from 1 to 0, polynomially, between the fractions (i + 1) / (L + 2) and
    (i + 2) / (L + 2) of the training.
    """
    shares = [min(max(progress * (blocks + 2) - (i + 1), 0.0), 1.0) for i in range(blocks)]
    return [(1 - share) ** ANNEALING_POWER for share in shares]
