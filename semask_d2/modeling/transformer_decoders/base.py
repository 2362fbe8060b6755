"""Base class, registry and predictions of the transformer decoders."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from semask_d2.modeling.layers.conv import init_conv
from semask_d2.utils.arguments import arguments_from, require
from semask_d2.utils.registry import lookup

TRANSFORMER_DECODER_REGISTRY = Registry("semask_d2.modeling.transformer_decoders.TRANSFORMER_DECODER_REGISTRY")


class MaskPredictions(NamedTuple):
    """The predictions of all L supervised decoder layers, the last one final.

    `class_logits` (L, B, Q, K + 1), with "no object" as the last class; `mask_embed` (L, B, Q, C) and `mask_features`
    (B, C, H/4, W/4), which all layers share, or a tuple of one map for each layer. Their dot product gives mask logits.
    It is computed on demand, because most masks are never needed.
    """

    class_logits: Tensor
    mask_embed: Tensor
    mask_features: Tensor | tuple[Tensor, ...]

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """The mask features as a tuple: one map for all layers, or one for each."""
        return (self.mask_features,) if isinstance(self.mask_features, Tensor) else self.mask_features

    def mask_logits(self, layer: int = -1) -> Tensor:
        """Return the mask logits of one decoder layer: (B, Q, H/4, W/4), with queries innermost in memory."""
        features = self.maps[layer % len(self.maps)]
        return torch.einsum("bchw,bqc->bhwq", features, self.mask_embed[layer]).permute(0, 3, 1, 2)

    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """Return the layers by their features, in order: `mask_embed` (l, B, Q, C) and the map (B, C, H/4, W/4)."""
        parts = self.mask_embed.split(len(self.mask_embed) // len(self.maps))
        return list(zip(parts, self.maps, strict=True))

    def last(self) -> MaskPredictions:
        """Return the predictions of the last layer alone, L = 1."""
        return MaskPredictions(self.class_logits[-1:], self.mask_embed[-1:], self.maps[-1])

    def float(self) -> MaskPredictions:
        """Convert the predictions to fp32."""
        features = tuple(x.float() for x in self.maps)
        return MaskPredictions(
            self.class_logits.float(), self.mask_embed.float(), features[0] if len(features) == 1 else features
        )


def build_transformer_decoder(cfg, in_channels: int) -> MaskTransformerDecoder:
    """Build the decoder `MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME` for maps of `in_channels`.

    Its attribute `supervision` says where masks are supervised: on "points" (Mask2Former) or "dense" (MaskFormer);
    `multi_scale` says whether it attends to several maps of the pixel decoder.
    """
    key = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
    decoder = lookup(TRANSFORMER_DECODER_REGISTRY, cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME, key)
    return decoder(cfg, in_channels)


class MaskTransformerDecoder(nn.Module):
    """Base class of the decoders, with the arguments that all of them take.

    Maps of `in_channels` channels are projected to `hidden_dim`; if the numbers are equal, only with
    `enforce_input_proj`. A decoder makes `num_layers` supervised predictions.
    """

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

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        num_heads: int,
        feedforward_dim: int,
        num_layers: int,
        mask_dim: int,
        enforce_input_proj: bool,
        pre_norm: bool,
    ):
        super().__init__()
        for name, value in {
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "num_classes": num_classes,
            "num_queries": num_queries,
            "feedforward_dim": feedforward_dim,
            "mask_dim": mask_dim,
            "num_layers": num_layers,
        }.items():
            require(value >= 1, self, name, "at least 1", value)
        expected = "a multiple of 4 (the sine and cosine of y and x)"
        require(hidden_dim % 4 == 0, self, "hidden_dim", expected, hidden_dim)
        expected = f"a multiple of {num_heads} ({self.config_keys['num_heads']})"
        require(hidden_dim % num_heads == 0, self, "hidden_dim", expected, hidden_dim)
        require(not pre_norm, self, "pre_norm", "False, as in every released SeMask model", pre_norm)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.hidden_dim = hidden_dim
        self.num_queries = num_queries
        self.num_heads = num_heads
        self.feedforward_dim = feedforward_dim
        self.num_layers = num_layers
        self.mask_dim = mask_dim
        self.enforce_input_proj = enforce_input_proj

    def input_projections(self, maps: int) -> list[nn.Module]:
        """Return a new 1x1 convolution to `hidden_dim` channels for each of `maps` maps, or identities."""
        if self.in_channels == self.hidden_dim and not self.enforce_input_proj:
            return [nn.Identity() for _ in range(maps)]
        convolutions = [nn.Conv2d(self.in_channels, self.hidden_dim, 1) for _ in range(maps)]
        for convolution in convolutions:
            init_conv(convolution)
        return [*convolutions]

    @classmethod
    def from_config(cls, cfg, in_channels):
        """Return the arguments of `__init__` from `cfg.MODEL.MASK_FORMER`."""
        return {"in_channels": in_channels, **arguments_from(cfg, cls.config_keys)}
