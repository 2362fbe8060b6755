"""Weight files of every kind that users have: read without executing anything in them, recognised, put into a model."""

from semask_d2.weights.loading import load_checkpoint, load_state, load_weights
from semask_d2.weights.readers import read_checkpoint
from semask_d2.weights.report import LoadReport
from semask_d2.weights.saving import save_weights

__all__ = ["LoadReport", "load_checkpoint", "load_state", "load_weights", "read_checkpoint", "save_weights"]
