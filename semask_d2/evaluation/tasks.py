"""What a data set is measured by: mIoU of labels, panoptic quality of segments, or average precision of instances."""

from __future__ import annotations

import os

from semask_d2.d2 import CfgNode, DatasetEvaluator, MetadataCatalog
from semask_d2.evaluation.instances import InstanceEvaluator
from semask_d2.evaluation.panoptic import PanopticEvaluator
from semask_d2.evaluation.results import FOLDER
from semask_d2.evaluation.semantic import SemanticEvaluator

METRICS = {"coco_panoptic_seg": ("panoptic_seg", "PQ"), "coco": ("segm", "AP")}  # by Detectron2's `evaluator_type`
SEMANTIC = ("sem_seg", "mIoU")


def main_metric(dataset_name: str) -> tuple[str, str]:
    """The metric that says how good a model is on a data set: the group of results it stands in, and its name there."""
    return METRICS.get(MetadataCatalog.get(dataset_name).get("evaluator_type", ""), SEMANTIC)


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator for a data set's kind; that of labels also writes into `inference/` in the output folder."""
    group, _ = main_metric(dataset_name)
    if group == "panoptic_seg":
        return PanopticEvaluator(dataset_name)
    if group == "segm":
        return InstanceEvaluator(dataset_name, max_instances=cfg.TEST.DETECTIONS_PER_IMAGE)
    return SemanticEvaluator(
        dataset_name,
        output_dir=os.path.join(cfg.OUTPUT_DIR, FOLDER),
        boundary=cfg.TEST.BOUNDARY,
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
    )
