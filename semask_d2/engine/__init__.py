"""Training and evaluating a model that a config describes."""

from semask_d2.checkpoint import Checkpointer
from semask_d2.engine.trainer import Trainer
from semask_d2.engine.training import train

__all__ = ["Checkpointer", "Trainer", "train"]
