"""The task of a dataset, its main metric and its evaluator: mIoU, panoptic quality, or average precision."""

from __future__ import annotations

import os

from semask_d2.d2 import CfgNode, DatasetEvaluator, MetadataCatalog
from semask_d2.evaluation.instances import InstanceEvaluator
from semask_d2.evaluation.panoptic import PanopticEvaluator
from semask_d2.evaluation.result_files import FOLDER
from semask_d2.evaluation.results import TASKS
from semask_d2.evaluation.semantic import SemanticEvaluator

TASKS_BY_TYPE = {"coco_panoptic_seg": "panoptic", "coco": "instance"}  # by Detectron2's `evaluator_type`


def dataset_task(dataset_name: str) -> str:
    """Return the task of a dataset, a key of `results.TASKS`, from its `evaluator_type`, else from its classes."""
    metadata = MetadataCatalog.get(dataset_name)
    has_things_alone = metadata.get("thing_classes") is not None and metadata.get("stuff_classes") is None
    by_classes = "instance" if has_things_alone else "semantic"
    evaluator_type = metadata.get("evaluator_type")
    return TASKS_BY_TYPE.get(evaluator_type, "semantic") if evaluator_type else by_classes


def main_metric(dataset_name: str) -> tuple[str, str]:
    """Return the metric that ranks models on a dataset: its group in the results, and its name in the group."""
    task = TASKS[dataset_task(dataset_name)]
    return task.group, task.metric


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """Build the evaluator for a dataset's task; it writes to `inference/` in the output folder."""
    output_dir = os.path.join(cfg.OUTPUT_DIR, FOLDER)
    task = dataset_task(dataset_name)
    if task == "panoptic":
        return PanopticEvaluator(dataset_name, output_dir=output_dir)
    if task == "instance":
        return InstanceEvaluator(dataset_name, max_instances=cfg.TEST.DETECTIONS_PER_IMAGE, output_dir=output_dir)
    return SemanticEvaluator(
        dataset_name,
        output_dir=output_dir,
        boundary=cfg.TEST.BOUNDARY,
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
    )
