"""Training and evaluation of a model described by a config."""

from semask_d2.checkpoint import Checkpointer
from semask_d2.engine.trainer import Trainer
from semask_d2.engine.training import train

__all__ = ["Checkpointer", "Trainer", "train"]
