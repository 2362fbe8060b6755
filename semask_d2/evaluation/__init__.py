"""Evaluation of segmentation: metrics and result files, multi-scale testing, losses and timing."""

from semask_d2.evaluation.boundary import BoundaryMetrics
from semask_d2.evaluation.confusion import ConfusionMatrix
from semask_d2.evaluation.evaluator import Evaluator
from semask_d2.evaluation.instances import InstanceEvaluator
from semask_d2.evaluation.loss import mean_loss
from semask_d2.evaluation.multi_scale import MultiScaleFlip, sizes_in_words
from semask_d2.evaluation.pace import TimedEvaluator, TimedModel
from semask_d2.evaluation.panoptic import PanopticEvaluator
from semask_d2.evaluation.processes import with_predictions
from semask_d2.evaluation.results import EvaluatedModel
from semask_d2.evaluation.semantic import LabelsOnly, SemanticEvaluator
from semask_d2.evaluation.tasks import build_evaluator, main_metric

__all__ = [
    "BoundaryMetrics",
    "ConfusionMatrix",
    "EvaluatedModel",
    "Evaluator",
    "InstanceEvaluator",
    "LabelsOnly",
    "MultiScaleFlip",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "TimedEvaluator",
    "TimedModel",
    "build_evaluator",
    "main_metric",
    "mean_loss",
    "sizes_in_words",
    "with_predictions",
]
