"""What every transformer decoder is: its registry and its predictions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from semask_d2.errors import UserError
from semask_d2.registry import lookup

TRANSFORMER_DECODER_REGISTRY = Registry("semask_d2.transformer_decoders.TRANSFORMER_DECODER_REGISTRY")


class MaskPredictions(NamedTuple):
    """The predictions of all L supervised decoder layers, the last one final.

    `class_logits` (L, B, Q, K + 1), the last class being "no object"; `mask_embed` (L, B, Q, C) and `mask_features`
    (B, C, H/4, W/4), whose dot product is a mask's logits. Masks are left unmultiplied because most are never needed.
    """

    class_logits: Tensor
    mask_embed: Tensor
    mask_features: Tensor

    def mask_logits(self, layer: int = -1) -> Tensor:
        """The mask logits of one decoder layer: (B, Q, H/4, W/4)."""
        return torch.einsum("bqc,bchw->bqhw", self.mask_embed[layer], self.mask_features)

    def float(self) -> MaskPredictions:
        """The same predictions in fp32."""
        return MaskPredictions(*(x.float() for x in self))


def build_transformer_decoder(cfg, in_channels: int) -> nn.Module:
    """The decoder named by `MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME`, on maps of `in_channels`.

    Its attribute `supervision` says where its masks are compared: "points" (Mask2Former) or "dense" (MaskFormer);
    `multi_scale`, whether it attends to several maps of a pixel decoder.
    """
    key = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
    decoder = lookup(TRANSFORMER_DECODER_REGISTRY, cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME, key)
    if cfg.MODEL.MASK_FORMER.PRE_NORM:
        raise UserError(
            "MODEL.MASK_FORMER.PRE_NORM: only False is supported, as in every released SeMask model; remove the key"
        )
    return decoder(cfg, in_channels)


def decoder_arguments(cfg, in_channels: int) -> dict[str, Any]:
    """What every decoder's `__init__` takes from `cfg.MODEL.MASK_FORMER` and `cfg.MODEL.SEM_SEG_HEAD`."""
    mask_former = cfg.MODEL.MASK_FORMER
    return {
        "in_channels": in_channels,
        "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        "hidden_dim": mask_former.HIDDEN_DIM,
        "num_queries": mask_former.NUM_OBJECT_QUERIES,
        "num_heads": mask_former.NHEADS,
        "feedforward_dim": mask_former.DIM_FEEDFORWARD,
        "num_layers": mask_former.DEC_LAYERS,
        "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        "dropout": mask_former.DROPOUT,
        "enforce_input_proj": mask_former.ENFORCE_INPUT_PROJ,
    }
