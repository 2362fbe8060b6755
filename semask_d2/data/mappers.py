"""The dataset mappers, by their names in configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semask_d2.d2 import CfgNode
from semask_d2.data.mapper import SemanticMapper
from semask_d2.data.segment_mapper import InstanceMapper, LargeScaleJitter, PanopticMapper
from semask_d2.utils.arguments import naming_config_keys
from semask_d2.utils.errors import UserError


class JitteredInstanceMapper(LargeScaleJitter, InstanceMapper):
    """Instance masks with large-scale jitter."""


class JitteredPanopticMapper(LargeScaleJitter, PanopticMapper):
    """Panoptic maps with large-scale jitter."""


MAPPERS: dict[str, type[SemanticMapper]] = {
    "mask_former_semantic": SemanticMapper,
    "mask_former_panoptic": PanopticMapper,
    "mask_former_instance": InstanceMapper,
    "coco_panoptic_lsj": JitteredPanopticMapper,
    "coco_instance_lsj": JitteredInstanceMapper,
}


def mapper_class(cfg: CfgNode) -> type[SemanticMapper]:
    """Return the mapper class that INPUT.DATASET_MAPPER_NAME names; UserError if the name is unknown."""
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPERS:
        raise UserError(f'INPUT.DATASET_MAPPER_NAME is "{name}"; known are {", ".join(sorted(MAPPERS))}')
    return MAPPERS[name]


def build_mapper(cfg: CfgNode, is_train: bool) -> Callable[..., dict[str, Any]]:
    """Build the config's mapper, for training or for evaluation."""
    with naming_config_keys():
        return mapper_class(cfg)(cfg, is_train)


def build_validation_mapper(cfg: CfgNode) -> Callable[..., dict[str, Any]]:
    """Build a mapper for the validation loss: images as in evaluation, with label maps of the same size."""
    mapper = mapper_class(cfg)
    with naming_config_keys():
        return mapper(**(mapper.from_config(cfg, is_train=False) | {"is_train": True}))
