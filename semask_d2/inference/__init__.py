"""Inference with trained models: the predictor, the media it reads and writes, and the job that draws results."""

from semask_d2.inference.prediction import Prediction
from semask_d2.inference.predictor import Predictor

__all__ = ["Prediction", "Predictor"]
