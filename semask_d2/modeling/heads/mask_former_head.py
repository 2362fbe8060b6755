"""Head of the mask models: a pixel decoder, then a transformer decoder on its maps."""

from __future__ import annotations

from torch import Tensor, nn

from semask_d2.d2 import SEM_SEG_HEADS_REGISTRY, configurable
from semask_d2.modeling.pixel_decoders import build_pixel_decoder
from semask_d2.modeling.transformer_decoders import MaskPredictions, build_transformer_decoder
from semask_d2.modeling.transformer_decoders.base import MaskTransformerDecoder
from semask_d2.utils.errors import UserError

MULTI_SCALE = "multi_scale_pixel_decoder"


@SEM_SEG_HEADS_REGISTRY.register()
class BranchMaskFormerHead(nn.Module):
    """Pixel decoder and transformer decoder (`predictor` in the released models), chosen by the config.

    The transformer decoder attends to the pixel decoder's maps, or to the backbone feature `in_feature`.
    """

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: MaskTransformerDecoder, in_feature: str | None):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.in_feature = in_feature

    @property
    def supervision(self) -> str:
        """Places where masks are supervised: "points" or "dense"."""
        return self.predictor.supervision

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Build both decoders for a backbone with the output shapes `input_shape`."""
        name = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        if name != MULTI_SCALE and name not in input_shape:
            raise UserError(
                f'MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE: expected "{MULTI_SCALE}" or a backbone feature '
                f'({", ".join(input_shape)}), got "{name}"'
            )
        channels = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM if name == MULTI_SCALE else input_shape[name].channels
        predictor = build_transformer_decoder(cfg, channels)
        if predictor.multi_scale and name != MULTI_SCALE:
            raise UserError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE: {type(predictor).__name__} attends to several maps and "
                f'needs "{MULTI_SCALE}", got "{name}"'
            )
        return {
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "predictor": predictor,
            "in_feature": None if name == MULTI_SCALE else name,
        }

    def forward(self, features: dict[str, Tensor]) -> MaskPredictions:
        """Return the predictions of every decoder layer for backbone features by name."""
        mask_features, maps = self.pixel_decoder(features)
        if self.in_feature is not None:
            maps = [features[self.in_feature]]
        return self.predictor(maps, mask_features)
