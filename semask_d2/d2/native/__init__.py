"""Replacement for Detectron2 where it is not installed: only the parts that the project uses.

Detectron2 has no wheels on PyPI, and most people who want to try, fine-tune or deploy a model do not need it. With this
replacement one command installs the project anywhere. It will stay small: nothing that the project does not call
(detection, COCO evaluators, LazyConfig, Detectron2's schedules and augmentations), no second way to configure or train,
and no features that Detectron2 lacks. Each file names the module it replaces, behaves like it wherever the project uses
it, and passes the same tests.

The loggers have Detectron2's names ("detectron2.engine.train_loop", ...), so a logging filter works on both backends.
"""

from semask_d2.d2.native import comm, hooks
from semask_d2.d2.native.catalog import DatasetCatalog, MetadataCatalog
from semask_d2.d2.native.config import CfgNode, configurable
from semask_d2.d2.native.config_defaults import get_cfg
from semask_d2.d2.native.engine import DefaultTrainer, TrainerBase
from semask_d2.d2.native.env import BACKEND, BACKEND_VERSION, PathManager, collect_env_info, seed_all_rng
from semask_d2.d2.native.evaluation import (
    DatasetEvaluator,
)
from semask_d2.d2.native.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from semask_d2.d2.native.hooks import HookBase
from semask_d2.d2.native.launch import default_argument_parser, launch
from semask_d2.d2.native.logger import setup_logger
from semask_d2.d2.native.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    ImageList,
    ShapeSpec,
    build_backbone,
    build_model,
    build_sem_seg_head,
)
from semask_d2.d2.native.structures import Boxes, Instances

__all__ = [
    "BACKBONE_REGISTRY",
    "BACKEND",
    "BACKEND_VERSION",
    "META_ARCH_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "Backbone",
    "Boxes",
    "CfgNode",
    "DatasetCatalog",
    "DatasetEvaluator",
    "DefaultTrainer",
    "EventWriter",
    "HookBase",
    "ImageList",
    "Instances",
    "JSONWriter",
    "MetadataCatalog",
    "PathManager",
    "ShapeSpec",
    "TensorboardXWriter",
    "TrainerBase",
    "build_backbone",
    "build_model",
    "build_sem_seg_head",
    "collect_env_info",
    "comm",
    "configurable",
    "default_argument_parser",
    "get_cfg",
    "get_event_storage",
    "hooks",
    "launch",
    "seed_all_rng",
    "setup_logger",
]
