"""What every transformer decoder is: its registry and its predictions."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from semask_d2.utils.arguments import require
from semask_d2.utils.registry import lookup

TRANSFORMER_DECODER_REGISTRY = Registry("semask_d2.modeling.transformer_decoders.TRANSFORMER_DECODER_REGISTRY")


class MaskPredictions(NamedTuple):
    """The predictions of all L supervised decoder layers, the last one final.

    `class_logits` (L, B, Q, K + 1), the last class being "no object"; `mask_embed` (L, B, Q, C) and `mask_features`
    (B, C, H/4, W/4), whose dot product is a mask's logits. Masks are left unmultiplied because most are never needed.
    """

    class_logits: Tensor
    mask_embed: Tensor
    mask_features: Tensor

    def mask_logits(self, layer: int = -1) -> Tensor:
        """The mask logits of one decoder layer: (B, Q, H/4, W/4), the queries innermost in memory."""
        return torch.einsum("bchw,bqc->bhwq", self.mask_features, self.mask_embed[layer]).permute(0, 3, 1, 2)

    def float(self) -> MaskPredictions:
        """The same predictions in fp32."""
        return MaskPredictions(*(x.float() for x in self))


def build_transformer_decoder(cfg, in_channels: int) -> MaskTransformerDecoder:
    """The decoder named by `MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME`, on maps of `in_channels`.

    Its attribute `supervision` says where its masks are compared: "points" (Mask2Former) or "dense" (MaskFormer);
    `multi_scale`, whether it attends to several maps of a pixel decoder.
    """
    key = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
    decoder = lookup(TRANSFORMER_DECODER_REGISTRY, cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME, key)
    return decoder(cfg, in_channels)


class MaskTransformerDecoder(nn.Module):
    """The arguments that every decoder takes, and what they may be."""

    supervision: ClassVar[str]
    multi_scale: ClassVar[bool]
    config_keys: ClassVar = {
        "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "hidden_dim": "MODEL.MASK_FORMER.HIDDEN_DIM",
        "num_queries": "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
        "num_heads": "MODEL.MASK_FORMER.NHEADS",
        "feedforward_dim": "MODEL.MASK_FORMER.DIM_FEEDFORWARD",
        "num_layers": "MODEL.MASK_FORMER.DEC_LAYERS",
        "mask_dim": "MODEL.SEM_SEG_HEAD.MASK_DIM",
        "enforce_input_proj": "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ",
        "pre_norm": "MODEL.MASK_FORMER.PRE_NORM",
    }

    def check(self, *, hidden_dim: int, num_heads: int, pre_norm: bool, **sizes: int) -> None:
        """Raise `ArgumentError` for what no decoder can be built with; each of `sizes` is at least 1."""
        for name, value in {"num_heads": num_heads, "hidden_dim": hidden_dim, **sizes}.items():
            require(value >= 1, self, name, "at least 1", value)
        wanted = "a multiple of 4 (the sine and cosine of y and x)"
        require(hidden_dim % 4 == 0, self, "hidden_dim", wanted, hidden_dim)
        wanted = f"a multiple of {num_heads} ({self.config_keys['num_heads']})"
        require(hidden_dim % num_heads == 0, self, "hidden_dim", wanted, hidden_dim)
        require(not pre_norm, self, "pre_norm", "only False, as in every released SeMask model", pre_norm)
