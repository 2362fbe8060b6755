"""Measuring semantic segmentation."""

from semask_d2.evaluation.augmented import MultiScaleFlip
from semask_d2.evaluation.labels import LabelsOnly
from semask_d2.evaluation.semantic import SemanticEvaluator, metrics_of, update_confusion

__all__ = ["LabelsOnly", "MultiScaleFlip", "SemanticEvaluator", "metrics_of", "update_confusion"]
