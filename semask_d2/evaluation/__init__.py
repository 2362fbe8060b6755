"""Measuring semantic segmentation: the confusion matrix and its metrics, evaluation at several scales, and its pace."""

from semask_d2.evaluation.multi_scale import MultiScaleFlip
from semask_d2.evaluation.pace import TimedEvaluator
from semask_d2.evaluation.semantic import ConfusionMatrix, LabelsOnly, SemanticEvaluator

__all__ = ["ConfusionMatrix", "LabelsOnly", "MultiScaleFlip", "SemanticEvaluator", "TimedEvaluator"]
