"""A Detectron2 LazyConfig of the small model of configs/toy_scenes, each part with its own arguments."""

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


def call(target: type, **arguments: object) -> dict[str, object]:
    """What `instantiate` makes a `target` of: its name and arguments, as Detectron2's LazyCall writes them."""
    return {"_target_": f"{target.__module__}.{target.__qualname__}", **arguments}


CLASSES, WIDTH = 12, 64

model = call(
    SeMaskMaskFormer,
    backbone=call(
        D2SeMaskSwinTransformer,
        semantic=call(SemanticSettings, num_classes=CLASSES, window=8, windowed_stages=[0, 1]),
        embed_dim=32,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
        window_size=8,
        drop_path_rate=0.0,
    ),
    sem_seg_head=call(
        BranchMaskFormerHead,
        pixel_decoder=call(
            MSDeformAttnPixelFANDecoder,
            input_shape=call(
                dict,
                res2=call(ShapeSpec, channels=32, stride=4),
                res3=call(ShapeSpec, channels=64, stride=8),
                res4=call(ShapeSpec, channels=128, stride=16),
                res5=call(ShapeSpec, channels=256, stride=32),
            ),
            encoder_features=["res3", "res4", "res5"],
            num_encoder_layers=2,
            num_heads=8,
            num_points=4,
            conv_dim=WIDTH,
            mask_dim=WIDTH,
            norm="GN",
            common_stride=4,
        ),
        predictor=call(
            MultiScaleMaskedTransformerDecoder,
            in_channels=WIDTH,
            num_classes=CLASSES,
            hidden_dim=WIDTH,
            num_queries=24,
            num_heads=8,
            feedforward_dim=256,
            num_layers=3,
            mask_dim=WIDTH,
            enforce_input_proj=False,
        ),
        in_feature=None,
    ),
    criterion=call(
        SetCriterion,
        mask_loss=call(PointMaskLoss, num_points=1024, oversample_ratio=3.0, importance_sample_ratio=0.75),
        num_classes=CLASSES,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
    ),
    normalizer=call(Normalizer, pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375]),
    num_classes=CLASSES,
    ignore_label=255,
    prior_weight=0.4,
    size_divisibility=32,
    resize_masks_first=False,
)
