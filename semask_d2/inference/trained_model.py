"""Trained models: building a config's model with its weights, and what a checkpoint records beside them."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from semask_d2.checkpoint import LoadReport, load_checkpoint, read_checkpoint
from semask_d2.checkpoint.class_metadata import classes_of_file
from semask_d2.checkpoint.shared_folder import iterations_of
from semask_d2.d2 import CfgNode
from semask_d2.data.datasets import config_classes
from semask_d2.modeling.meta_arch import build_model
from semask_d2.utils.classes import Classes


def model_classes(cfg: CfgNode, recorded: Classes | None) -> Classes:
    """Return the classes of the config's dataset, else those `recorded` in the checkpoint, else numbered classes.

    Recorded classes are ignored if their number is not NUM_CLASSES. Numbered classes serve datasets that only the
    training program registers, if the checkpoint has no names.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if (classes := config_classes(cfg)) is not None:
        return classes
    if recorded is not None and len(recorded) == count:
        return recorded
    return Classes.of(f"class {i}" for i in range(count))


class TrainedModel(NamedTuple):
    """A model with its weights, the classes and the number of training iterations recorded with them, if any."""

    model: nn.Module
    classes: Classes | None
    iterations: int | None
    report: LoadReport | None


def trained_model(cfg: CfgNode) -> TrainedModel:
    """Return a config's model with all of its MODEL.WEIGHTS, in evaluation mode."""
    model = build_model(cfg)
    data = read_checkpoint(cfg.MODEL.WEIGHTS)
    report = load_checkpoint(model, data, cfg.MODEL.WEIGHTS)
    return TrainedModel(model.eval(), classes_of_file(data), iterations_of(data), report)
