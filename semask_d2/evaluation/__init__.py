"""Measuring semantic segmentation: metrics and the files that tell of them, several scales, losses, and its pace."""

from semask_d2.evaluation.boundary import BoundaryMetrics
from semask_d2.evaluation.confusion import ConfusionMatrix
from semask_d2.evaluation.loss import mean_loss
from semask_d2.evaluation.multi_scale import MultiScaleFlip
from semask_d2.evaluation.pace import TimedEvaluator
from semask_d2.evaluation.results import EvaluatedModel
from semask_d2.evaluation.semantic import LabelsOnly, SemanticEvaluator

__all__ = [
    "BoundaryMetrics",
    "ConfusionMatrix",
    "EvaluatedModel",
    "LabelsOnly",
    "MultiScaleFlip",
    "SemanticEvaluator",
    "TimedEvaluator",
    "mean_loss",
]
