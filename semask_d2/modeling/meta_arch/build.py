"""Construction of the model that a config describes."""

from __future__ import annotations

from torch import nn

from semask_d2 import d2
from semask_d2.config.checks import check_channels
from semask_d2.d2 import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, CfgNode
from semask_d2.modeling.backbones.base import TUNING_KEY, HierarchicalBackbone
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.modeling.meta_arch.execution import Execution
from semask_d2.utils.arguments import naming_config_keys, value_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.registry import lookup


def build_model(cfg: CfgNode) -> nn.Module:
    """Build MODEL.META_ARCHITECTURE on MODEL.DEVICE, compiled according to MODEL.COMPILE.

    Raises `UserError` for a wrong name or value in the config. The precision is applied by `Execution`.
    """
    model = cfg.MODEL
    architecture = lookup(META_ARCH_REGISTRY, model.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    for key in getattr(
        architecture, "config_keys", {}
    ).values():  # check our keys first, before components of other projects read the config
        value_of(cfg, key)
    lookup(BACKBONE_REGISTRY, model.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    lookup(SEM_SEG_HEADS_REGISTRY, model.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME")
    is_segmenter = isinstance(architecture, type) and issubclass(architecture, SemanticSegmenter)
    execution = Execution.from_config(cfg) if is_segmenter else None
    if is_segmenter:
        check_channels(cfg)
    with naming_config_keys():
        built_model = d2.build_model(cfg)
    if execution is not None:
        execution.compile(built_model)
        return built_model
    tuning = model.BACKBONE.get("TRAIN", "full")
    if tuning != "full" and not any(isinstance(module, HierarchicalBackbone) for module in built_model.modules()):
        raise UserError(
            f'{TUNING_KEY}: expected "full" with MODEL.META_ARCHITECTURE {model.META_ARCHITECTURE} and '
            f'MODEL.BACKBONE.NAME {model.BACKBONE.NAME}, got "{tuning}"'
        )
    return built_model
