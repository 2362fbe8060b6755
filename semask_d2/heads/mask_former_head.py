"""The head of the mask models: a pixel decoder, then a transformer decoder on its maps."""

from __future__ import annotations

from torch import Tensor, nn

from semask_d2.d2 import SEM_SEG_HEADS_REGISTRY, configurable
from semask_d2.pixel_decoders import build_pixel_decoder
from semask_d2.transformer_decoders import MaskPredictions, build_transformer_decoder


@SEM_SEG_HEADS_REGISTRY.register()
class BranchMaskFormerHead(nn.Module):
    """Pixel decoder and transformer decoder (`predictor`, the released models' name) as the config names them."""

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Build both decoders for a backbone of output `input_shape`."""
        return {
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "predictor": build_transformer_decoder(cfg),
        }

    def forward(self, features: dict[str, Tensor]) -> MaskPredictions:
        """Backbone features by name -> the predictions of every decoder layer."""
        mask_features, maps = self.pixel_decoder(features)
        return self.predictor(maps, mask_features)
