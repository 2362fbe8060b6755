"""What a dataset is measured by: mIoU of labels, panoptic quality of segments, or average precision of instances."""

from __future__ import annotations

import os

from semask_d2.d2 import CfgNode, DatasetEvaluator, MetadataCatalog
from semask_d2.evaluation.instances import InstanceEvaluator
from semask_d2.evaluation.panoptic import PanopticEvaluator
from semask_d2.evaluation.result_files import FOLDER
from semask_d2.evaluation.results import TASKS
from semask_d2.evaluation.semantic import SemanticEvaluator

TASK_OF = {"coco_panoptic_seg": "panoptic", "coco": "instance"}  # by Detectron2's `evaluator_type`


def dataset_task(dataset_name: str) -> str:
    """Return the task of a dataset, of `results.TASKS`: by its `evaluator_type`, else by the classes it names."""
    metadata = MetadataCatalog.get(dataset_name)
    has_things_alone = metadata.get("thing_classes") is not None and metadata.get("stuff_classes") is None
    by_classes = "instance" if has_things_alone else "semantic"
    return TASK_OF.get(metadata.get("evaluator_type", ""), "semantic") if metadata.get("evaluator_type") else by_classes


def main_metric(dataset_name: str) -> tuple[str, str]:
    """The metric that says how good a model is on a dataset: the group of results it stands in, and its name there."""
    task = TASKS[dataset_task(dataset_name)]
    return task.group, task.metric


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator for a dataset's task, which also writes into `inference/` in the output folder."""
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
