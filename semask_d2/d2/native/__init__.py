"""Stands for Detectron2 where it is not installed: what the project uses of it.

The loggers have Detectron2's names ("detectron2.engine.train_loop", ...), so that a filter finds them on both sides.
"""

# ruff: noqa: F401 - every import is handed on by semask_d2.d2

from semask_d2.d2.native import comm, hooks
from semask_d2.d2.native.catalog import DatasetCatalog, MetadataCatalog
from semask_d2.d2.native.config import CfgNode, configurable, get_cfg
from semask_d2.d2.native.engine import DefaultTrainer, TrainerBase
from semask_d2.d2.native.env import BACKEND, BACKEND_VERSION, PathManager, collect_env_info, seed_all_rng
from semask_d2.d2.native.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from semask_d2.d2.native.events import (
    EventStorage,
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
