"""Detectron2's objects under the names that the project uses: the only file that imports `detectron2`."""

import importlib
from contextlib import suppress

from detectron2 import __version__ as BACKEND_VERSION
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    TrainerBase,
    default_argument_parser,
    hooks,
    launch,
)
from detectron2.evaluation import (
    DatasetEvaluator,
)
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
    build_sem_seg_head,
)
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

BACKEND = "detectron2"

with suppress(ImportError):  # not every installation of Detectron2 has its projects
    importlib.import_module("detectron2.projects.deeplab")  # registers build_resnet_deeplab_backbone

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
