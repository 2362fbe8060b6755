"""A Detectron2 LazyConfig of the small model of configs/toy_scenes; what is not said here is the keys' default."""

from semask_d2.config import lazy
from semask_d2.d2 import ShapeSpec
from semask_d2.modeling.backbones import D2SeMaskSwinTransformer
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.heads import BranchMaskFormerHead
from semask_d2.modeling.losses.mask_losses import PointMaskLoss
from semask_d2.modeling.losses.set_criterion import SetCriterion
from semask_d2.modeling.meta_arch import SeMaskMaskFormer
from semask_d2.modeling.meta_arch.base import Normalizer
from semask_d2.modeling.pixel_decoders import MSDeformAttnPixelFANDecoder
from semask_d2.modeling.transformer_decoders import MultiScaleMaskedTransformerDecoder

CLASSES, WIDTH = 12, 64

semantic = lazy(SemanticSettings, num_classes=CLASSES, window=8)
blocks = {"depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 8, "drop_path_rate": 0.0}
backbone = lazy(D2SeMaskSwinTransformer, semantic=semantic, embed_dim=32, **blocks, freeze_at=0)

features = {f"res{i + 2}": lazy(ShapeSpec, channels=32 * 2**i, stride=4 * 2**i) for i in range(4)}
widths = {"conv_dim": WIDTH, "mask_dim": WIDTH}
pixel_decoder = lazy(
    MSDeformAttnPixelFANDecoder, input_shape=lazy(dict, **features), **widths, num_encoder_layers=2, dropout=0.0
)

widths = {"in_channels": WIDTH, "hidden_dim": WIDTH, "feedforward_dim": 256, "mask_dim": WIDTH}
queries = {"num_classes": CLASSES, "num_queries": 24, "num_layers": 4}
predictor = lazy(MultiScaleMaskedTransformerDecoder, **widths, **queries)

weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}
model = lazy(
    SeMaskMaskFormer,
    backbone=backbone,
    sem_seg_head=lazy(BranchMaskFormerHead, pixel_decoder=pixel_decoder, predictor=predictor, in_feature=None),
    criterion=lazy(SetCriterion, mask_loss=lazy(PointMaskLoss, num_points=1024), num_classes=CLASSES, **weights),
    normalizer=lazy(Normalizer, pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375]),
    num_classes=CLASSES,
)
