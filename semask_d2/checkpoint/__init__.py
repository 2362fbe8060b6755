"""Checkpoints and weight files of many publishers, read without executing anything in them."""

from semask_d2.checkpoint.checkpointer import Checkpointer
from semask_d2.checkpoint.load_report import LoadReport
from semask_d2.checkpoint.loading import load_checkpoint, load_state, load_weights
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.checkpoint.saving import save_weights

__all__ = [
    "Checkpointer",
    "LoadReport",
    "load_checkpoint",
    "load_state",
    "load_weights",
    "read_checkpoint",
    "save_weights",
]
