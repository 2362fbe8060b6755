"""Measuring semantic segmentation: the confusion matrix and its metrics, and evaluation at several scales."""

from semask_d2.evaluation.multi_scale import MultiScaleFlip
from semask_d2.evaluation.semantic import ConfusionMatrix, LabelsOnly, SemanticEvaluator

__all__ = ["ConfusionMatrix", "LabelsOnly", "MultiScaleFlip", "SemanticEvaluator"]
